"""`ff.map_batches`: a function over the batches of a table, in processes of this machine or on a cluster.

Batches go out in the order of the rows and come back in that order. At most two for each process are under
way at once, so memory is bounded by batches and not by the table. The function travels by value
(cloudpickle), with the module that it is written in, and is loaded only by the processes that run it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pyarrow as pa

from fourfold.core import context
from fourfold.core.errors import FourfoldError, Missing, Refused, Unavailable
from fourfold.core.ports.engine import Engine, ExitKind, MapsBatches, Phase
from fourfold.foundation.compute.batch_worker import read_answer, read_table, table_bytes, write_message

MOST_BATCH_ROWS = 10_000_000
MOST_PROCESSES = 64
UNDER_WAY_EACH = 2
SHOWN_CHARACTERS = 2000

BatchFunction = Callable[[pa.Table], pa.Table]


def map_batches(
    data: object,
    fn: BatchFunction,
    *,
    batch_rows: int = 65_536,
    on: str | Engine = "",
    processes: int = 0,
) -> pa.RecordBatchReader:
    """Call `fn` with each batch of `data` as a table, and stream what it returns, in order.

    `data` is a table or reader of Arrow, or whatever gives a stream of it: `ff.table("t")`, a relation of
    DuckDB, a frame. `fn` may return more or fewer rows and other columns, but of one schema for all batches.
    Of no rows it gets one empty table, so that the schema of the result is known. An error names its batch.

    `on` is a pool whose engine maps batches itself (`ray://`, sharing files with this machine); without it
    they are mapped by `processes` processes here, as many as there are cores by default.

    Close the reader, or read it to its end: then all processes are gone.
    """
    if not 1 <= batch_rows <= MOST_BATCH_ROWS:
        raise Refused(f"batch_rows is {batch_rows}", ways_on=[f"take 1 to {MOST_BATCH_ROWS}"])
    if not 0 <= processes <= MOST_PROCESSES:
        raise Refused(
            f"processes is {processes}", ways_on=[f"take 1 to {MOST_PROCESSES}, or 0 for the cores"]
        )
    code = _pickled(fn)
    tables = _of_rows(_reader(data), batch_rows)
    if on:
        results = _on_engine(code, tables, *_engine(on))
    else:
        results = _here(code, tables, processes or len(os.sched_getaffinity(0)))
    return _as_reader(results)


# In and out.


def _reader(data: object) -> pa.RecordBatchReader:
    if isinstance(data, pa.RecordBatchReader):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(data.schema, [data])
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    if hasattr(data, "scanner"):  # a dataset
        return data.scanner().to_reader()
    raise Refused(
        f"map_batches cannot read a {type(data).__name__}",
        ways_on=['give a pyarrow Table or RecordBatchReader, ff.table("name"), or a frame that speaks Arrow'],
    )


def _of_rows(reader: pa.RecordBatchReader, batch_rows: int) -> Iterator[pa.Table]:
    """Tables of just so many rows, the last of what is left; one empty table of no rows at all."""
    waiting: list[pa.RecordBatch] = []
    count, is_first = 0, True
    for batch in reader:
        while batch.num_rows:
            part = batch.slice(0, batch_rows - count)
            waiting.append(part)
            count += part.num_rows
            batch = batch.slice(part.num_rows)
            if count == batch_rows:
                yield pa.Table.from_batches(waiting, reader.schema)
                waiting, count, is_first = [], 0, False
    if waiting or is_first:
        yield pa.Table.from_batches(waiting, reader.schema)


def _as_reader(results: Iterator[pa.Table]) -> pa.RecordBatchReader:
    """The results as one stream; the first tells the schema."""
    try:
        first = next(results)
    except BaseException:
        cast(Any, results).close()
        raise

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for number, table in enumerate(itertools.chain([first], results)):
                if table.schema != first.schema:
                    raise Refused(
                        f"batch {number}: the function returned another schema than for batch 0",
                        ways_on=[f"batch 0: {_line(first.schema)}", f"batch {number}: {_line(table.schema)}"],
                        batch=number,
                    )
                yield from table.to_batches()
        finally:
            cast(Any, results).close()

    return pa.RecordBatchReader.from_batches(first.schema, batches())


def _line(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)[:SHOWN_CHARACTERS]


def _pickled(fn: BatchFunction) -> bytes:
    if not callable(fn):
        raise Refused(f"map_batches takes a function of a table, not a {type(fn).__name__}")
    try:
        cloudpickle: Any = importlib.import_module("cloudpickle")
    except ModuleNotFoundError as error:
        raise Missing("map_batches needs cloudpickle", ways_on=["pip install cloudpickle"]) from error
    module = sys.modules.get(getattr(fn, "__module__", None) or "")
    is_own = module is not None and _is_own(module)
    if is_own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(fn))
    except Exception as error:  # whatever the function holds may refuse
        raise Refused(
            f"the function '{getattr(fn, '__name__', fn)}' cannot travel: {type(error).__name__}: {error}",
            ways_on=["open connections and files, and make locks, inside the function"],
        ) from error
    finally:
        if is_own:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(module: ModuleType) -> bool:
    """Whether a module is the user's: not of the main script (that travels anyway), nor installed."""
    file = getattr(module, "__file__", None) or ""
    return bool(file) and module.__name__ != "__main__" and "site-packages" not in file


def _failed(number: int, said: str) -> FourfoldError:
    lines = said.strip().splitlines()
    shown = said.strip()[-SHOWN_CHARACTERS:]
    return Refused(
        f"batch {number}: the function failed: {lines[-1] if lines else 'no word'}",
        ways_on=shown.splitlines(),
        batch=number,
    )


# On this machine.


def _here(code: bytes, tables: Iterator[pa.Table], processes: int) -> Iterator[pa.Table]:
    """Each thread has a process; a thread waits for it, so nothing here is held up by the function."""
    workers = _Workers(code)
    pool = ThreadPoolExecutor(processes, thread_name_prefix="map-batches")
    under_way: deque[Future[pa.Table]] = deque()
    try:
        for number, table in enumerate(tables):
            under_way.append(pool.submit(workers.call, number, table))
            if len(under_way) >= processes * UNDER_WAY_EACH:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        workers.close()
        pool.shutdown(wait=True, cancel_futures=True)


class _Workers:
    """The processes, one for each thread that asks; closed all at once."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._own = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def call(self, number: int, table: pa.Table) -> pa.Table:
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_message(process.stdin, table_bytes(table))
            is_result, data = read_answer(process.stdout)
        except (OSError, EOFError) as error:
            status = process.wait()
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            raise Unavailable(
                f"batch {number}: its process ended in the middle of it ({how})",
                ways_on=["if memory ran out, take a smaller batch_rows or fewer processes"],
                batch=number,
            ) from error
        if not is_result:
            raise _failed(number, data.decode(errors="replace"))
        return read_table(data)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            processes = list(self._all)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _process(self) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if process is None:
            with self._lock:
                if self._is_closed:
                    raise Unavailable("map_batches was closed")
                process = self._own.process = subprocess.Popen(
                    [sys.executable, "-m", "fourfold.foundation.compute.batch_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                )
                self._all.append(process)
            assert process.stdin is not None
            write_message(process.stdin, self._code)
        return process


# On a cluster that maps batches itself.


def _engine(on: str | Engine) -> tuple[Engine, str]:
    """The engine, and the pool's name where we have opened it."""
    if not isinstance(on, str):
        return on, ""
    engines = getattr(context.services(), "engines", None)
    if engines is None:
        raise Refused(
            f"map_batches on pool '{on}' works beside the project only, not through a server",
            ways_on=["leave `on` out: the batches are then mapped by processes here"],
        )
    return cast(Engine, engines.open(on, "batches")), on


def _on_engine(code: bytes, tables: Iterable[pa.Table], engine: Engine, pool: str) -> Iterator[pa.Table]:
    """Batches and results are files of a folder that both sides see; a result is read once it is there."""
    if not isinstance(engine, MapsBatches) or not engine.capabilities().shares_files:
        raise Refused(
            f"the engine of pool '{pool or engine!r}' cannot map batches",
            ways_on=["take a pool on ray:// whose nodes see this machine's files (shares_files=1)",
                     "or leave `on` out: the batches are then mapped by processes here"],
        )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="fourfold-batches-", dir=os.environ.get("FOURFOLD_SHARED") or None))
    key = f"batches/{uuid.uuid4().hex}"
    is_submitted = False
    try:
        (folder / "function").write_bytes(code)
        count = 0
        for count, table in enumerate(tables, 1):
            (folder / f"in.{count - 1:08d}").write_bytes(table_bytes(table))
        engine.submit(engine.batches_launch(key, str(folder), count))
        is_submitted = True
        for number in range(count):
            yield read_table(_awaited(engine, key, folder, number))
    finally:
        if is_submitted:
            with contextlib.suppress(FourfoldError):
                engine.stop(key, 0)
        shutil.rmtree(folder, ignore_errors=True)
        if pool:
            engine.close()


def _awaited(engine: Engine, key: str, folder: Path, number: int) -> bytes:
    """The result of one batch, once it is there."""
    path, failed = folder / f"out.{number:08d}", folder / f"failed.{number:08d}"
    has_ended = False
    while True:
        if path.exists():
            data = path.read_bytes()
            path.unlink()
            return data
        if failed.exists():
            raise _failed(number, failed.read_text())
        if has_ended:
            break
        status = engine.wait([key], 0.2)[key]
        has_ended = status.phase in (Phase.ended, Phase.unknown)
    exit_ = engine.status([key])[key].exit
    said = engine.logs(key).data.decode(errors="replace")[-SHOWN_CHARACTERS:]
    reason = "the cluster has forgotten it" if exit_ is None else exit_.reason or exit_.kind
    kind = Refused if exit_ is not None and exit_.kind is ExitKind.failed else Unavailable
    raise kind(
        f"batch {number}: the job that maps the batches ended before it: {reason}",
        ways_on=said.splitlines()[-20:],
        batch=number,
    )
