"""What people hold while a run is open: it collects points and sends them in batches."""

from __future__ import annotations

import atexit
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.decide.run_liveness import HEARTBEAT_S
from fourfold.core.errors import Conflict, FourfoldError, Refused
from fourfold.core.models import (
    Metric,
    ModelVersion,
    NewRun,
    Run,
    RunFile,
    RunStatus,
    Scalar,
    check_key,
    check_path,
)
from fourfold.core.ports.blobs import Digest
from fourfold.core.services.models import Models
from fourfold.core.times import Instant
from fourfold.core.wire import number_out

if TYPE_CHECKING:
    from fourfold.mlplatform.models.saving import Saver

FLUSH_S = 1.0
"""How long a point may wait; what a killed process loses at most."""
BATCH = 1_000
"""Points that are sent at once, without waiting."""
BACKLOG = 100_000
"""Points kept while the store does not answer; beyond, logging waits for it."""


class Recorder:
    """An open run. Its attributes are those of the run as it began (`id`, `name`, `params`...).

    Points wait for at most a second and go in one transaction a batch. They are sent before a file is
    logged, before a model is saved, at the end, and when the interpreter exits.
    """

    def __init__(
        self,
        models: Models,
        new: NewRun,
        *,
        key: str = "",
        put: Callable[[bytes], Digest],
        put_file: Callable[[Path], Digest],
        saver: Saver,
    ) -> None:
        self._models, self._put, self._put_file, self._saver = models, put, put_file, saver
        self._run = models.create_run(new, key=key)
        self._points: list[Metric] = []
        self._lock = threading.Lock()  # guards the points
        self._sending = threading.Lock()  # one batch at a time, in order
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._failure: FourfoldError | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._keep_sending, name=f"run {new.name}", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)
        context.record_write(self._run.ref)

    def __repr__(self) -> str:
        return f"<run {self._run.name}: {self._run.id}, {len(self._points)} points to send>"

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def ref(self) -> context.Ref:
        return self._run.ref

    def log(self, metrics: Mapping[str, float] | None = None, /, *, step: int = 0, **more: float) -> None:
        """Log metrics: `log(loss=0.3, step=i)`, or `log({"val/auc": 0.7})` for any key.

        NaN and infinities are kept as what they are.
        """
        self._open()
        at = Instant(time.time_ns() // 1000)
        points = [_point(key, value, step, at) for key, value in {**(metrics or {}), **more}.items()]
        with self._lock:
            self._points += points
            waiting = len(self._points)
        if waiting >= BACKLOG:
            self.flush()
        elif waiting >= BATCH:
            self._wake.set()

    def log_params(self, params: Mapping[str, Scalar] | None = None, /, **more: Scalar) -> None:
        """Add parameters. One that is there keeps its value: another is refused."""
        self._open()
        self._models.log(self.id, params={**(params or {}), **more}, attempt=self._run.attempt)

    def tag(self, tags: Mapping[str, str] | None = None, /, **more: str) -> None:
        """Add or change tags."""
        self._open()
        self._models.log(self.id, tags={**(tags or {}), **more}, attempt=self._run.attempt)

    def log_file(self, file: str | Path | bytes, path: str = "") -> RunFile:
        """Keep a file with the run under a relative `path` (its own name, if none is given)."""
        self._open()
        if isinstance(file, bytes):
            if not path:
                raise Refused("bytes have no name", ways_on=['give one: log_file(data, "plots/roc.png")'])
            check_path(path)
            digest, size_bytes = self._put(file), len(file)
        else:
            source = Path(file)
            path = check_path(path or source.name)
            if source.is_symlink() or not source.is_file():
                what = "a link" if source.is_symlink() else "not a file"
                raise Refused(f"'{source}' is {what}", ways_on=["log the file itself, or each of a folder's"])
            digest, size_bytes = self._put_file(source), source.stat().st_size
        self.flush()
        return self._models.add_file(
            self.id, path=path, digest=digest, size_bytes=size_bytes, attempt=self._run.attempt
        )

    def save(
        self,
        model: object,
        *,
        name: str,
        featurize: Callable[..., Any] | None = None,
        predict: Callable[..., Any] | None = None,
        example: Any = None,
        card: str | Path = "",
        tags: Mapping[str, str] | None = None,
        data: Iterable[object] = (),
        format: str = "",  # noqa: A002  (the word that people know)
        modules: Iterable[Any] = (),
    ) -> ModelVersion:
        """Keep a fitted model as the next version of `name`: all that a version must hold, or a refusal
        that lists everything that is missing.

        `featurize(table)` turns rows into what the model takes; `predict(model, features)` turns that into
        answers (the default calls the model's own `predict`, and `predict_proba` where there is one). Both
        are kept as source, with the project's modules that they import. `example` is a small `pa.Table` of
        input rows; it is answered now, and again at each load. `modules` are further modules of the
        project that loading needs.
        """
        self._open()
        self.flush()
        return self._saver.save(
            self._models.get_run(self.id),
            model,
            name=name,
            featurize=featurize,
            predict=predict,
            example=example,
            card=card,
            tags=dict(tags or {}),
            data=data,
            format=format,
            modules=tuple(modules),
        )

    def flush(self) -> None:
        """Send what waits, now; raises what sending raised."""
        self._send()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def end(self, status: RunStatus = RunStatus.finished, reason: str = "") -> Run:
        """End the run (leaving the `with` block does). Ending it again does nothing."""
        if not self._stop.is_set():
            self.flush()
            self._close()
            self._run = self._models.end_run(self.id, status=status, reason=reason, attempt=self._run.attempt)
        return self._run

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end()
            return
        status = RunStatus.failed if isinstance(error, Exception) else RunStatus.killed
        reason = "".join(traceback.format_exception_only(error)).strip()[:2000]
        try:
            self.end(status, reason)
        except FourfoldError as second:
            self._close()
            error.add_note(f"the end of run {self.id} could not be recorded: {second}")

    def _open(self) -> None:
        if self._stop.is_set():
            raise Refused(f"run {self.id} has ended", ways_on=["begin another with ff.run(...)"])
        if os.getpid() != self._pid:
            raise Refused(
                f"run {self.id} belongs to process {self._pid}",
                ways_on=["log from the process that began it, or begin a run in the child"],
            )

    def _keep_sending(self) -> None:
        """Send what waits each second, and a sign of life now and then."""
        silent_s = 0.0
        while not self._stop.is_set():
            self._wake.wait(FLUSH_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            silent_s += FLUSH_S
            if self._points or silent_s >= HEARTBEAT_S:
                silent_s = 0.0
                self._send(is_heartbeat=True)

    def _send(self, *, is_heartbeat: bool = False) -> None:
        """Send batches until nothing waits. What could not be sent waits on, in order."""
        with self._sending:
            while True:
                with self._lock:
                    batch = tuple(self._points[:BATCH])
                if not batch and not is_heartbeat:
                    return
                is_heartbeat = False
                try:
                    self._models.log(self.id, metrics=batch, attempt=self._run.attempt)
                except FourfoldError as error:
                    self._failure = error
                    if isinstance(error, Conflict | Refused):  # sending it again cannot help
                        self._drop(len(batch))
                    return
                self._failure = None
                self._drop(len(batch))

    def _drop(self, count: int) -> None:
        with self._lock:
            del self._points[:count]

    def _close(self) -> None:
        self._stop.set()
        self._wake.set()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        """The interpreter ends and nobody ended the run: keep its points and say so."""
        if os.getpid() != self._pid or self._stop.is_set():
            return
        try:
            self.end(RunStatus.killed, "its process ended before the run was ended")
        except FourfoldError:
            self._close()  # its silence will tell


def _point(key: str, value: object, step: int, at: Instant) -> Metric:
    check_key(key, what="metric")
    try:
        if isinstance(value, str | bytes):  # float() would read "1.5" and "nan"
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # numpy's and torch's scalars are numbers too
    except (TypeError, ValueError):
        raise Refused(
            f"metric '{key}' is {type(value).__name__} {str(value)[:40]!r}",
            ways_on=["a metric is a number; log text with tag() or log_params()"],
        ) from None
    return Metric(key, number_out(number), int(step), at)
