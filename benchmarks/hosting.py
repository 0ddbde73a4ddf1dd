"""What a prediction costs: one row per request, over HTTP, from a model in a worker process.

    python benchmarks/hosting.py [--quick] [--json]

Ours is the whole way: gateway, batches, a worker with a scikit-learn model of twenty columns, the prediction
log. The limit is an ASGI application that does nothing, under the same HTTP server, asked by the same client.
The floor is the model itself, called in this process with one row. A peer is measured by
`benchmarks/peers` where it is installed; here there is none.

The client keeps its connections and sends a request when the last one is answered. It shares the machine's
cores with the servers, so the rates of both are lower than they could be, and the ratio is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

CLIENTS = 64
ROUNDS = 3
WHY_NO_PEER = "no other server is installed in this environment"


@dataclass
class Row:
    """One claim. `ratio` is ours / limit for rates, and limit / ours for times: above the aim holds."""

    claim: str
    unit: str
    ours: float
    peer: float | None
    limit: float
    ratio: float
    aim: float
    held: bool
    why_no_peer: str = WHY_NO_PEER


# The client: as little work per request as Python allows.


class Caller(asyncio.Protocol):
    """One connection: asks, reads the answer, asks again, until the time is over."""

    def __init__(self, request: bytes, end_s: float, taken: list[float]) -> None:
        self._request = request
        self._end_s = end_s
        self._taken = taken
        self._answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._answer.decode()))
            self._transport.close()
            return
        self._taken.append(now - self._began)
        self._answer = b""
        if now < self._end_s:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)


async def load(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    """Seconds of each request that so many clients got answered in that time."""
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    end_s = time.perf_counter() + seconds
    callers = [
        (await loop.create_connection(lambda: Caller(request, end_s, taken), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    await asyncio.gather(*(caller.done for caller in callers))
    return taken


def asked(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    """The same in a process of its own, so that nothing else of ours runs in the client."""
    command = [sys.executable, __file__, "--client", str(port), str(clients), str(seconds)]
    done = subprocess.run(command, input=request, capture_output=True, check=True)
    answer: list[float] = json.loads(done.stdout)
    return answer


# The limit.


async def no_operation(server: Any) -> None:
    body = json.dumps({"predictions": [{"id": "prd_0", "outputs": {"score": 0.5}, "x": "y" * 100}]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def listening(_: str, port: int) -> None:
        print(port, flush=True)

    await server.serve(app, host="127.0.0.1", port=0, on_listening=listening)


# Ours.


def deployed() -> tuple[str, str]:
    """Save the model, put it behind an endpoint, and answer the gateway's address and the token."""
    from benchmarks import linear

    import fourfold as ff
    from fourfold import wiring
    from fourfold.core.context import Ref

    with ff.run("bench", data=[Ref("table", "none", "0")]) as run:
        run.log(auc=0.5)
        version = run.save(
            linear.fitted(),
            name="linear",
            featurize=linear.featurize,
            predict=linear.predict,
            example=linear.rows(3),
            card="Serves the benchmark of hosting, and nothing else. Owner: nobody.",
            tags={"for": "benchmark"},
        )
    ff.deploy(version)
    project = wiring.open_project()
    gateway = project.hosting.gateway()
    assert gateway is not None
    return gateway.url, project.token


def request(path: str, port: int, token: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def alone(count: int) -> float:
    """The model's own median for one row, without any server."""
    from benchmarks import linear

    model, row = linear.fitted(), linear.rows(1)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        linear.predict(model, linear.featurize(row))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(*, quick: bool) -> list[Row]:
    from benchmarks import linear

    seconds = 1.0 if quick else 4.0
    url, token = deployed()
    port = int(url.rpartition(":")[2])
    noop = subprocess.Popen([sys.executable, __file__, "--noop"], stdout=subprocess.PIPE, text=True)
    assert noop.stdout is not None
    noop_port = int(noop.stdout.readline())
    body = {"rows": linear.rows(1).to_pylist()}
    ours_request = request("/endpoints/linear/predict", port, token, body)
    noop_request = request("/endpoints/linear/predict", noop_port, token, body)
    rates: dict[str, list[float]] = {"ours": [], "limit": []}
    one: dict[str, list[float]] = {"ours": [], "limit": []}
    try:
        for at, asking in ((port, ours_request), (noop_port, noop_request)):
            asked(at, asking, CLIENTS, 0.3)  # warm
        for _ in range(ROUNDS):  # one after the other, so that the machine's moods meet both
            for way, at, asking in (("ours", port, ours_request), ("limit", noop_port, noop_request)):
                rates[way].append(len(asked(at, asking, CLIENTS, seconds)) / seconds)
                one[way] += asked(at, asking, 1, seconds / 2)
    finally:
        noop.terminate()
        noop.wait()
    ours, limit = statistics.median(rates["ours"]), statistics.median(rates["limit"])
    single, floor = statistics.median(one["ours"]), statistics.median(one["limit"]) + alone(300)
    return [
        rate(f"one-row predictions, {CLIENTS} clients, beside a no-op", ours, limit, aim=0.3),
        taken("one client, median, beside a no-op and the model", single * 1000, floor * 1000, aim=0.15),
    ]


def rate(claim: str, ours: float, limit: float, *, aim: float) -> Row:
    return Row(claim, "1/s", ours, None, limit, ours / limit, aim, ours / limit >= aim)


def taken(claim: str, ours: float, limit: float, *, aim: float) -> Row:
    return Row(claim, "ms", ours, None, limit, limit / ours, aim, limit / ours >= aim)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rounds")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--noop", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.noop:
        from fourfold.adapters.uvicorn_server import UvicornServer

        server = UvicornServer()
        server.run(no_operation(server))
        return 0
    if options.client:
        port, clients, seconds = options.client
        found = asyncio.run(load(int(port), sys.stdin.buffer.read(), int(clients), float(seconds)))
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FOURFOLD_HOME"] = str(Path(folder) / ".fourfold")
        from fourfold import wiring

        try:
            rows = measure(quick=options.quick)
        finally:
            wiring.open_project().close()
    if options.json:
        print(json.dumps([asdict(one) for one in rows], indent=2))
    else:
        for one in rows:
            mark = "held  " if one.held else "MISSED"
            print(
                f"{mark} {one.ratio:5.2f} (aim {one.aim})  {one.claim}: "
                f"ours {one.ours:.3g} {one.unit}, limit {one.limit:.3g} {one.unit}; peer: {one.why_no_peer}"
            )
    return 0 if all(one.held for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
