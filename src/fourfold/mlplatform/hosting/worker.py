"""The process that holds one model version and answers the gateway; started in the model's environment.

    python -m fourfold.mlplatform.hosting.worker SOCKET KEY FOLDER DIGEST

It loads and verifies the materialised version, calls in at the gateway's socket, and answers one request
after the other until the gateway hangs up. One request is one batch, so one thread is enough; what the
model's own libraries may use is set by the gateway in the environment.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.frames import Frames, Header, encode
from fourfold.core.models import LoadPolicy

if TYPE_CHECKING:
    import pyarrow as pa

READ_BYTES = 1 << 18
POLICY_ENV = "FOURFOLD_LOAD_POLICY"
"""The gateway's load policy as JSON; what may be loaded is the reader's choice, never the artifact's."""


def main(argv: list[str]) -> int:
    address, key, folder, digest = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the gateway
    try:
        model = _load(Path(folder), digest)
    except FourfoldError as error:
        print(f"{key}: {error}", file=sys.stderr)  # noqa: T201 - the log is how the gateway learns why
        return 3
    gateway = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    gateway.connect(address)
    inputs, outputs = model.example.schema, model.expected.schema
    gateway.sendall(encode({"key": key}, [inputs.serialize().to_pybytes(), outputs.serialize().to_pybytes()]))
    frames = Frames()
    while data := gateway.recv(READ_BYTES):
        for header, parts in frames.feed(data):
            gateway.sendall(_answer(model, header, parts))
    return 0


def _load(folder: Path, digest: str) -> Any:
    import os

    from fourfold.core.wire import decode
    from fourfold.mlplatform.models.loading import load_folder

    told = os.environ.get(POLICY_ENV, "")
    policy: LoadPolicy = decode(told, LoadPolicy, what="load policy") if told else LoadPolicy()
    return load_folder(folder, policy=policy, digest=digest)


def _answer(model: Any, header: Header, parts: list[bytes]) -> bytes:
    """The frame that answers a request; whatever the model raises becomes an error of one batch."""
    number = header["number"]
    try:
        if header["ask"] == "warm":
            return encode({"number": number, "seconds": _warm(model)})
        answers = _predict(model, parts[0])
        return encode({"number": number}, [answers.serialize().to_pybytes()])
    except FourfoldError as error:
        told = {"code": error.code, "message": error.message, "ways_on": list(error.ways_on)}
    except Exception as error:  # the model is a stranger's code: nothing it raises may end the worker
        told = {
            "code": "refused",
            "message": f"the model raised {type(error).__name__}: {str(error)[:500]}",
            "ways_on": [],
        }
    return encode({"number": number, "error": told})


def _warm(model: Any) -> float:
    """Answer the stored example as live rows are answered; `load` has compared the answers already."""
    began = time.perf_counter()
    for _ in range(2):  # the second is what requests will meet
        answers = model.predict(model.example)
    if answers.num_rows != model.expected.num_rows:
        raise Refused(
            f"the example has {model.expected.num_rows} rows and the model answered {answers.num_rows}"
        )
    return time.perf_counter() - began


def _predict(model: Any, data: bytes) -> pa.RecordBatch:
    import pyarrow as pa

    rows = pa.ipc.read_record_batch(pa.py_buffer(data), model.example.schema)
    answers: pa.Table = model.predict(pa.Table.from_batches([rows]))
    if answers.schema != model.expected.schema:
        answers = answers.cast(model.expected.schema)
    combined = answers.combine_chunks().to_batches()
    return combined[0] if combined else pa.RecordBatch.from_pylist([], schema=model.expected.schema)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
