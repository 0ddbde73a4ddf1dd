"""From a request to a service method and back, by the method's declaration alone."""

from __future__ import annotations

import errno
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import IO, Any, TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fourfold.core import wire
from fourfold.core.catalog import Identity, acting_as
from fourfold.core.errors import OutOfSpace, Refused, TooMuch, did_you_mean
from fourfold.core.routes import Argument, Form, Place, Repeat, Role, Route, from_segment
from fourfold.server.guard import check_path_text
from fourfold.server.problems import AtDoor, log, too_large

T = TypeVar("T")

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
BYTES = "application/octet-stream"
SVG = "image/svg+xml"
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""A picture may bring its own colours, and nothing else."""
MEDIA = {Form.json: JSON, Form.bytes: BYTES, Form.pieces: BYTES, Form.table: ARROW, Form.batches: ARROW}

SPOOL_BYTES = 16 * 2**20
"""A body up to this size stays in memory; a larger one goes through a temporary file."""
TABLE_BYTES = 4 * 2**30
"""The largest body that becomes a table in memory."""
STREAM_BYTES = 64 * 2**30
"""The largest body that is a stream; it passes through a file, so memory is not the bound."""
PIECE_BYTES = 2**20
BATCH_ROWS = 65536


class Threads:
    """A bounded number of threads for service methods, and a bounded queue before them."""

    def __init__(self, size: int = 32, waiting: int = 512) -> None:
        self.size = size
        self._most = size + waiting
        self._present = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, function: Callable[[], T]) -> T:
        if self._limiter is None:  # needs a running event loop
            self._limiter = anyio.CapacityLimiter(self.size)
        if self._present >= self._most:
            raise AtDoor(
                503,
                TooMuch(
                    f"{self._present} calls are running or waiting already",
                    ways_on=["try again in a moment"],
                    limit=self._most,
                ),
            )
        self._present += 1
        try:
            return await anyio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._present -= 1


Audit = Callable[[Route, Identity, int], None]
"""Keeps the record of a call that needed more than a viewer's role, with the status it ended in."""


class Dispatcher:
    """Answers requests for one service method."""

    def __init__(
        self,
        route: Route,
        method: Callable[..., Any],
        *,
        threads: Threads,
        body_bytes: int,
        audit: Audit | None,
    ) -> None:
        self._route = route
        self._shape = route.shape
        self._method = method
        self._threads = threads
        self._body_bytes = body_bytes
        self._audit = audit if route.needs > Role.viewer and route.verb != "GET" else None

    async def __call__(self, request: Request) -> Response:
        identity: Identity = request.scope["identity"]
        given = self._from_path(request) | self._from_query(request)
        body = self._shape.body
        if body is not None:
            with await self._spooled(request, body) as file:
                return await self._call(identity, given, partial(self._read_body, body, file))
        if self._route.verb in {"GET", "DELETE"}:
            _refuse_body(request)
        else:
            given |= await self._from_json(request)
        return await self._call(identity, given, dict)

    # Arguments

    def _from_path(self, request: Request) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for argument in self._shape.at(Place.path):
            name, value = argument.name, request.path_params[argument.name]
            if f"{{{name}:path}}" not in self._route.path:
                value = from_segment(value)
            check_path_text(value, what=f"'{name}'")
            if value.startswith("/"):
                raise Refused(f"'{name}' is an absolute path: {value!r}")
            given[name] = wire.convert(value, argument.kind, what=name, text=True)
        return given

    def _from_query(self, request: Request) -> dict[str, Any]:
        accepted = {a.name: a for a in self._shape.at(Place.query)}
        _refuse_unknown(request.query_params.keys(), accepted, "query argument")
        return {
            name: read_query(accepted[name], request.query_params.getlist(name))
            for name in request.query_params
        }

    async def _from_json(self, request: Request) -> dict[str, Any]:
        accepted = {a.name: a for a in self._shape.at(Place.json)}
        raw = await self._whole_body(request)
        if not raw:
            return {}
        _check_content_type(request, JSON)
        fields = wire.decode(raw, dict[str, Any], what="the body")
        _refuse_unknown(fields, accepted, "field")
        return {
            name: wire.convert(value, accepted[name].kind, what=name, exact=True)
            for name, value in fields.items()
        }

    async def _whole_body(self, request: Request) -> bytes:
        _check_declared_length(request, self._body_bytes)
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > self._body_bytes:
                raise too_large(self._body_bytes)
            pieces.append(piece)
        return b"".join(pieces)

    async def _spooled(self, request: Request, body: Argument) -> IO[bytes]:
        """The whole body, off the event loop's memory when large.

        It is read before the method starts: a slow sender holds a file, not a thread.
        """
        _check_content_type(request, MEDIA[body.form])
        is_table = body.form is Form.table
        limit = TABLE_BYTES if is_table else STREAM_BYTES if body.form.is_stream else self._body_bytes
        _check_declared_length(request, limit)
        file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  (the caller closes it)
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                if size > SPOOL_BYTES:
                    await anyio.to_thread.run_sync(file.write, piece)
                else:
                    file.write(piece)
        except OSError as error:
            file.close()
            if error.errno == errno.ENOSPC:
                raise OutOfSpace(
                    "no space left to receive the body; nothing was changed",
                    ways_on=[f"free space under {tempfile.gettempdir()}"],
                ) from error
            raise
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def _read_body(self, body: Argument, file: IO[bytes]) -> dict[str, Any]:
        if body.form is Form.bytes:
            return {body.name: file.read()}
        if body.form is Form.pieces:
            whole = file.read(SPOOL_BYTES)  # a small body is given whole: its reader may know it already
            rest = iter(partial(file.read, PIECE_BYTES), b"")
            return {body.name: whole if len(whole) < SPOOL_BYTES else itertools.chain([whole], rest)}
        import pyarrow as pa

        try:
            reader = pa.ipc.open_stream(file)
            if body.form is Form.table:
                table = reader.read_all()
                return {body.name: _sound(table)}
            return {body.name: pa.RecordBatchReader.from_batches(reader.schema, _batches(reader))}
        except (pa.ArrowInvalid, OSError) as error:
            raise _no_stream(error) from error

    # The call

    async def _call(
        self, identity: Identity, given: dict[str, Any], read_body: Callable[[], dict[str, Any]]
    ) -> Response:
        missing = [a.name for a in self._shape.arguments if a.is_required and a.name not in given]
        if (body := self._shape.body) is not None and body.name in missing:
            missing.remove(body.name)
        if missing:
            raise Refused(f"{self._route.name} needs {' and '.join(repr(name) for name in missing)}")

        def call() -> Any:
            status = 500
            try:
                with acting_as(identity.principal):
                    result = self._method(**given, **read_body())
                status = 200
                return result if not self._shape.result_form.is_arrow else _started(_ipc(result))
            except Exception as error:
                status = getattr(error, "status", 500)
                raise
            finally:
                self._record(identity, status)

        return self._respond(await self._threads.run(call))

    def _record(self, identity: Identity, status: int) -> None:
        if self._audit is None:
            return
        try:
            with acting_as(identity.principal):
                self._audit(self._route, identity, status)
        except (
            Exception
        ):  # what was asked is done, or refused; the record's failure must not change the answer
            log.exception("the audit did not take %s by %r", self._route.name, identity.principal)

    def _respond(self, result: Any) -> Response:
        form = self._shape.result_form
        headers = {"cache-control": "no-store"}
        match form:
            case Form.nothing:
                return Response(status_code=204, headers=headers)
            case Form.bytes | Form.pieces:
                if self._route.media == SVG:
                    headers["content-security-policy"] = PICTURE_POLICY
                return Response(result, headers=headers, media_type=self._route.media or BYTES)
            case Form.table | Form.batches:
                return StreamingResponse(self._in_threads(result), headers=headers, media_type=ARROW)
            case _:
                return Response(wire.encode(result), headers=headers, media_type=JSON)

    async def _in_threads(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        # A failure here leaves the stream without its end marker, so no reader takes it for whole.
        while piece := await self._threads.run(partial(next, pieces, b"")):
            yield piece


def read_query(argument: Argument, values: list[str]) -> Any:
    """A query argument from its texts (see `fourfold.core.routes` for how each kind is written)."""
    what = argument.name
    match argument.writes:
        case Repeat.texts if not (len(values) == 1 and values[0].startswith("[")):
            return wire.convert(values, argument.kind, what=what, text=True)
        case Repeat.text if len(values) == 1:
            return wire.convert(values[0], argument.kind, what=what, text=True)
        case Repeat.json | Repeat.texts if len(values) == 1:
            return wire.convert(
                wire.decode(values[0], object, what=what), argument.kind, what=what, exact=True
            )
        case _:
            raise Refused(f"query argument '{what}' is given {len(values)} times")


def _refuse_unknown(given: Any, accepted: dict[str, Argument], what: str) -> None:
    for name in given:
        if name not in accepted:
            raise Refused(
                f"{what} '{str(name)[:100]}' is not known",
                ways_on=did_you_mean(str(name)[:100], accepted, what=f"{what}s"),
                field=str(name)[:100],
            )


def _check_content_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise AtDoor(
            415,
            Refused(
                f"content type {given[:100]!r} is not what this takes",
                ways_on=[f"send 'Content-Type: {wanted}'"],
                wanted=wanted,
            ),
        )


def _check_declared_length(request: Request, limit: int) -> None:
    """Refuse a body that says it is too large before reading any of it."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise too_large(limit)


def _refuse_body(request: Request) -> None:
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise Refused(
            "the request has a body, and this takes none", ways_on=["put the arguments into the query"]
        )


def _sound(data: Any) -> Any:
    """A table or batch whose offsets lie within its buffers: Arrow trusts them, and would read beyond."""
    data.validate(full=True)
    return data


def _batches(reader: Any) -> Iterator[Any]:
    """The batches of a body, each sound; one that is not is refused while the method reads."""
    import pyarrow as pa

    try:
        yield from map(_sound, reader)
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_stream(error) from error


def _no_stream(error: Exception) -> Refused:
    return Refused(
        f"the body is not an Arrow IPC stream: {error}",
        ways_on=["write it with pyarrow.ipc.new_stream, or use the Python client"],
    )


def _ipc(result: Any) -> Iterator[bytes]:
    """A table or a reader as pieces of one Arrow IPC stream."""
    import pyarrow as pa

    pieces: list[bytes] = []

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            pieces.append(bytes(data))
            return len(pieces[-1])

        def flush(self) -> None: ...

        def close(self) -> None: ...

    def taken() -> bytes:
        data = b"".join(pieces)
        pieces.clear()
        return data

    batches = result.to_batches(max_chunksize=BATCH_ROWS) if isinstance(result, pa.Table) else result
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), result.schema) as writer:
        yield taken() or b""
        for batch in batches:
            writer.write_batch(batch)
            yield taken()
    yield taken()


def _started(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, with the first already made: what fails at once fails before the answer begins."""
    first = [piece for piece in itertools.islice(pieces, 2) if piece]
    return (piece for piece in itertools.chain(first, pieces) if piece)
