"""A process that maps batches: takes the function, then tables, and answers each by a table or a failure.

Messages are a length of eight bytes and the bytes; an answer has one byte more before it. Standard output is
the line to who started us, so what the function prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys
import traceback
from typing import IO

import pyarrow as pa

_LENGTH = struct.Struct(">Q")
RESULT, FAILURE = b"+", b"-"
PR_SET_PDEATHSIG = 1


def table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def write_message(to: IO[bytes], data: bytes) -> None:
    to.write(_LENGTH.pack(len(data)))
    to.write(data)
    to.flush()


def read_message(source: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    return _exactly(source, length)


def read_answer(source: IO[bytes]) -> tuple[bool, bytes]:
    """Whether it is a result, and the result or what went wrong."""
    is_result = _exactly(source, 1) == RESULT
    return is_result, read_message(source)


def checked(result: object) -> pa.Table:
    """What a function returned, as a table."""
    if isinstance(result, pa.RecordBatch):
        return pa.Table.from_batches([result])
    if isinstance(result, pa.Table):
        return result
    raise TypeError(f"the function returned a {type(result).__name__}; it has to return a pyarrow Table")


def main() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
    source, line = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    code, fn = read_message(source), None
    while True:
        try:
            data = read_message(source)
        except EOFError:
            return
        try:
            fn = fn or pickle.loads(code)  # noqa: S301 - it is here to run the caller's code
            answer, kind = table_bytes(checked(fn(read_table(data)))), RESULT
        except Exception:  # whatever the function raises is its caller's to read
            answer, kind = traceback.format_exc(limit=-8).encode(), FAILURE
        line.write(kind)
        write_message(line, answer)


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    main()
