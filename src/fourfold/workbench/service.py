"""The workbench as a service: runs notebooks as jobs, and keeps what came out of them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core import context, wire
from fourfold.core.compute import Held, JobReport
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused, TimedOut, did_you_mean
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine, Exit, ExitKind, JobStatus, Launch, Resources, Usage
from fourfold.core.ports.notebooks import NotebookOutcome, NotebookRequest, NotebookRunner
from fourfold.core.services.compute import Compute
from fourfold.core.times import after
from fourfold.core.workbench import CellFailure, NotebookFailed, NotebookParameter, NotebookRun, NotebookState
from fourfold.workbench.parameters import check_parameters, parameters_of, read_notebook
from fourfold.workbench.tables import NotebookRuns

MOST_NOTEBOOK_BYTES = 64 << 20
MOST_LISTED = 10_000
STOP_MARGIN_S = 30.0


class Workbench:
    """The workbench room of one project."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        clock: Clock,
        *,
        home: Path,
        engine: Engine,
        notebooks: NotebookRunner,
        compute: Compute,
    ) -> None:
        """`home` is the project's `.fourfold` folder; notebooks lie in the folder around it."""
        self._runs = NotebookRuns(catalog)
        self._blobs = blobs
        self._clock = clock
        self._home = home
        self._engine = engine
        self._notebooks = notebooks
        self._compute = compute
        self._guard = threading.Lock()
        self._running: set[str] = set()

    def run_notebook(
        self,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        name: str = "",
        cell_timeout_s: float = 600.0,
        timeout_s: float = 3600.0,
    ) -> NotebookRun:
        file = self._file(path)
        source = self._source(file)
        given = check_parameters(
            parameters or {}, self._parameters(source, file.name), what=f"notebook '{file.name}'"
        )
        for what, seconds in (("cell_timeout_s", cell_timeout_s), ("timeout_s", timeout_s)):
            if not seconds > 0:
                raise Refused(f"{what} is {seconds:g}; it has to be more than 0")
        key = context.write_key()
        if key is not None and (done := self._runs.written_by(key)) is not None:
            self._report(done)  # an earlier attempt of this step has done it
            return done
        run = self._execute(file, source, given, name or file.stem, cell_timeout_s, timeout_s, key)
        self._report(run)
        if run.failure is not None:
            raise _failed(run, run.failure)
        return run

    def notebook_parameters(self, path: str) -> tuple[NotebookParameter, ...]:
        file = self._file(path)
        return self._parameters(self._source(file), file.name)

    def notebook_runs(self, name: str | None = None, *, limit: int = 100) -> tuple[NotebookRun, ...]:
        return self._runs.find(name, max(0, min(limit, MOST_LISTED)))

    def notebook_run(self, id: str) -> NotebookRun:  # noqa: A002 - the word of the address
        run = self._runs.get(id)
        if run is None:
            known = [each.id for each in self._runs.find(None, 50)]
            raise NotFound(f"no notebook run '{id}'", ways_on=did_you_mean(id, known, what="newest runs"))
        return run

    def notebook_html(self, id: str) -> bytes:  # noqa: A002
        return self._blobs.get(Digest(self.notebook_run(id).html_digest))

    def notebook_file(self, id: str) -> bytes:  # noqa: A002
        return self._blobs.get(Digest(self.notebook_run(id).notebook_digest))

    # How.

    def _file(self, path: str) -> Path:
        """The notebook's file, inside the project (or the folder of its code, or where we stand)."""
        if "\0" in path:
            raise Refused("a notebook's path cannot hold the character NUL")
        project = self._home.parent.resolve()
        file = (project / path).resolve()
        roots = (project, self._home.resolve(), Path.cwd())
        if not any(file.is_relative_to(root) for root in roots):
            raise Refused(
                f"notebook '{path}' lies outside the project",
                ways_on=[f"give a path below {project}"],
            )
        if file.suffix != ".ipynb":
            raise Refused(f"'{path}' is not a notebook", ways_on=["give a file that ends with .ipynb"])
        if not file.is_file():
            beside = file.parent if file.parent.is_dir() else project
            known = [str(each.relative_to(project)) for each in beside.glob("*.ipynb") if beside != project]
            known += [each.name for each in project.glob("*.ipynb")]
            raise NotFound(
                f"notebook '{path}' does not exist", ways_on=did_you_mean(path, known, what="notebooks")
            )
        return file

    def _source(self, file: Path) -> bytes:
        if file.stat().st_size > MOST_NOTEBOOK_BYTES:
            raise Refused(f"notebook '{file.name}' is larger than {MOST_NOTEBOOK_BYTES >> 20} MiB")
        return file.read_bytes()

    def _parameters(self, source: bytes, name: str) -> tuple[NotebookParameter, ...]:
        what = f"notebook '{name}'"
        return parameters_of(read_notebook(source, what=what), what=what)

    def _execute(
        self,
        file: Path,
        source: bytes,
        parameters: Mapping[str, object],
        name: str,
        cell_timeout_s: float,
        timeout_s: float,
        key: str | None,
    ) -> NotebookRun:
        run_id = new_id("nb")
        ambient = context.ambient()
        executing = None if ambient is None else ambient.executing
        request = NotebookRequest(
            title=name,
            cwd=str(file.parent),
            parameters=parameters,
            cell_timeout_s=cell_timeout_s,
            ambient=None if executing is None else {"executing": wire.plain(executing), "write_key": key},
        )
        with self._scratch(run_id) as folder:
            (folder / "source.ipynb").write_bytes(source)
            (folder / "request.json").write_bytes(wire.encode(request))
            started_at = self._clock.now()
            status, usage = self._run_job(run_id, folder, timeout_s)
            ended_at = max(started_at, self._clock.now())
            failure = self._failure(run_id, folder, status, timeout_s)
            executed = self._executed(folder, source)
            page = folder / "page.html"
            html = page.read_bytes() if page.exists() else self._notebooks.page(executed, title=name)
            run = NotebookRun(
                id=run_id,
                name=name,
                path=self._shown(file),
                source_digest=self._blobs.put(source),
                notebook_digest=self._blobs.put(executed),
                html_digest=self._blobs.put(html),
                state=NotebookState.succeeded if failure is None else NotebookState.failed,
                started_at=started_at,
                ended_at=ended_at,
                parameters=parameters,
                environment=(
                    self._compute.present_environment().identity
                    if executing is None
                    else executing.environment
                ),
                flow_run="" if executing is None else executing.flow_run,
                usage=usage,
                failure=failure,
            )
            _report_refs(folder / "refs.jsonl")
        # A failed run does not answer for the step's next attempt, so it is not found by the write's key.
        self._runs.add(run, write_key=key if failure is None else None)
        self._record_job(run, status)
        return run

    @contextmanager
    def _scratch(self, run_id: str) -> Iterator[Path]:
        """A folder for one run, locked while it lasts; those that killed processes left are removed first."""
        scratch = self._home / "notebooks"
        scratch.mkdir(parents=True, exist_ok=True)
        with open(scratch / ".lock", "w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            for left in scratch.glob("nb_*"):
                if (holding := _lock(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(holding)
            folder = scratch / run_id
            folder.mkdir()
            held = _lock(folder)
            assert held is not None, "nobody else knows this folder yet"
        with self._guard:
            self._engine.reap(self._running)
            self._running.add(run_id)
        try:
            yield folder
        finally:
            with self._guard:
                self._running.discard(run_id)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)

    def _run_job(self, run_id: str, folder: Path, timeout_s: float) -> tuple[JobStatus, Usage]:
        environment = {**self._notebooks.environment(folder), "FOURFOLD_HOME": str(self._home)}
        for variable in ("FOURFOLD_URL", "FOURFOLD_TOKEN"):
            if variable in os.environ:
                environment[variable] = os.environ[variable]
        self._engine.submit(
            Launch(
                run_id,
                self._notebooks.command(folder),
                env=environment,
                cwd=str(folder),
                resources=Resources(time_limit_s=timeout_s),
            )
        )
        try:
            status = self._engine.wait([run_id], timeout_s + STOP_MARGIN_S)[run_id]
        except BaseException:  # a cancelled step, Ctrl-C: the notebook goes too
            self._engine.stop(run_id, 0)
            raise
        return status, self._engine.usage(run_id)

    def _failure(self, run_id: str, folder: Path, status: JobStatus, timeout_s: float) -> CellFailure | None:
        """How the notebook failed, if it did; what the process could not say, its end says."""
        outcome = folder / "outcome.json"
        if outcome.exists():
            return wire.decode(outcome.read_bytes(), NotebookOutcome, what="outcome.json").failure
        exit_ = status.exit or Exit(ExitKind.worker_lost, "it did not end in time")
        log = self._engine.logs(run_id).data.decode(errors="replace")
        if exit_.kind is ExitKind.over_time:
            return CellFailure(0, "", "TimedOut", f"the notebook ran longer than {timeout_s:g} s")
        return CellFailure(
            0, "", exit_.kind.value, exit_.reason or "it ended without an outcome", log[-4000:]
        )

    def _executed(self, folder: Path, source: bytes) -> bytes:
        """The notebook as far as it came; a process that was killed while it wrote leaves the source."""
        try:
            executed = (folder / "executed.ipynb").read_bytes()
            json.loads(executed)
        except (OSError, ValueError):
            return source
        return executed

    def _record_job(self, run: NotebookRun, status: JobStatus) -> None:
        held = Held(cpu=1.0) if not run.flow_run else Held(cpu=0.0)  # in a step, the step holds the core
        report = JobReport(
            key=run.id,
            name=run.name,
            unit=status.unit or "local",
            started_at=run.started_at,
            ended_at=max(run.ended_at, after(run.started_at, 0)),
            exit=status.exit or Exit(ExitKind.worker_lost),
            usage=run.usage,
            held=held,
            kind="notebook",
            flow_run=run.flow_run,
            environment=run.environment,
        )
        self._compute.record((report,))

    def _report(self, run: NotebookRun) -> None:
        """Tell the step what the notebook was made from and what it made."""
        context.record_read(Ref("blob", run.source_digest))
        context.record_write(Ref("blob", run.notebook_digest))
        context.record_write(Ref("blob", run.html_digest))

    def _shown(self, file: Path) -> str:
        project = self._home.parent.resolve()
        return str(file.relative_to(project)) if file.is_relative_to(project) else str(file)


def _lock(folder: Path) -> int | None:
    """Hold a folder until the file is closed or this process dies.

    `None` when somebody else does, or has just removed it.
    """
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _report_refs(report: Path) -> None:
    """Pass on what the cells read and wrote."""
    if not report.exists():
        return
    for line in report.read_text().splitlines():
        what, kind, name, version = json.loads(line)
        (context.record_read if what == "read" else context.record_write)(Ref(kind, name, version))


def _failed(run: NotebookRun, failure: CellFailure) -> Exception:
    ways_on = [f"see what it did: fourfold notebook export {run.id} page.html"]
    if failure.error == "TimedOut":
        return TimedOut(
            f"notebook '{run.name}': {failure.message}",
            ways_on=[*ways_on, "raise timeout_s"],
            notebook_run=run.id,
        )
    where = f"cell {failure.cell_number}" if failure.cell_number else "before its first cell"
    lines = [line for line in failure.source.strip().splitlines() if line.strip()]
    shown = [f"    {line}" for line in lines[:6]]
    return NotebookFailed(
        f"notebook '{run.name}' failed in {where}: {failure.error}: {failure.message}",
        ways_on=[*shown, *ways_on],
        notebook_run=run.id,
        cell_number=failure.cell_number,
        error=failure.error,
    )
