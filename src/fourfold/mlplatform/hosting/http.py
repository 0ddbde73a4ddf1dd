"""The gateway's HTTP door: an ASGI application without a framework, because each request counts.

    POST /endpoints/{name}/predict     rows in, predictions out
    POST /endpoints/{name}/feedback    what was learned about a prediction
    GET  /v2 ...                       the Open Inference Protocol; a model is an endpoint
    GET  /metrics                      OpenMetrics text
    GET, POST /control/...             the project's own processes

Everything but the health of the protocol needs the token. Host, Origin and content type are checked, so
that no web page in a browser of this machine can ask for predictions.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec

from fourfold.core.errors import FourfoldError, NotFound, Refused, Unauthenticated, Unavailable
from fourfold.core.hosting import Health, Prediction, Scalar
from fourfold.core.package import VERSION
from fourfold.core.times import Instant, duration_s, instant, moment, parse_instant
from fourfold.core.wire import UNREADABLE, decode
from fourfold.mlplatform.hosting import metrics, oip

if TYPE_CHECKING:
    from fourfold.mlplatform.hosting.gateway import GatewayProcess
    from fourfold.mlplatform.hosting.running import Behind, RunningEndpoint

logger = logging.getLogger("fourfold.hosting")

BODY_BYTES = 16 * 2**20
"""The largest request body."""
BODY_S = 10.0
"""How long a client may take to send its body."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
DEADLINE_HEADER = b"x-request-timeout-s"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `predict` takes. `t` is ISO 8601 or microseconds, for replays."""

    rows: list[dict[str, bool | int | float | str | None]]
    t: int | str | None = None


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `feedback` takes."""

    prediction: str
    values: dict[str, bool | int | float | str | None]
    at: int | str | None = None


_predict_body = msgspec.json.Decoder(PredictBody)


class Problem(Exception):
    """A refusal of HTTP itself."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class GatewayApp:
    """The ASGI application of one gateway."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._token = b"Bearer " + gateway.parts.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        extra: tuple[tuple[bytes, bytes], ...] = ()
        try:
            headers = dict(scope["headers"])
            self._check(scope["method"], path, headers)
            status, body = await self._answer(scope["method"], path, headers, receive)
        except FourfoldError as error:
            status, body, extra = _told(error, is_protocol=path.startswith("/v2"))
        except Problem as problem:
            status, body = problem.status, _encode({"error": str(problem)})
        except Exception:
            logger.exception("a defect in answering %s", path)
            status, body = 500, _encode({"error": "a defect of the gateway; its log says more"})
        kind = (b"content-type", metrics.CONTENT_TYPE) if path == "/metrics" and status == 200 else _JSON
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [kind, length, *extra]})
        await send({"type": "http.response.body", "body": body})

    def _check(self, verb: str, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Who asks, from where, and with what."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host.rpartition(":")[0] not in LOOPBACK and host not in LOOPBACK:
            raise Problem(403, f"host '{host[:100]}' is not this gateway's; ask for 127.0.0.1")
        if verb not in {"GET", "POST"}:
            raise Problem(405, f"{verb} is not answered here; GET and POST are")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host:
            raise Problem(403, f"origin '{origin[:100]}' may not ask this gateway")
        if verb == "POST":
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                raise Problem(415, "the content type must be application/json")
        if path.startswith("/v2/health/"):
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, self._token):
            raise Unauthenticated(
                "no token, or a wrong one" if given else "no token was given",
                ways_on=["send the header 'Authorization: Bearer TOKEN' with the project's token"],
            )

    async def _answer(
        self, verb: str, path: str, headers: Mapping[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        parts = path.strip("/").split("/")
        if not {"", ".", ".."}.isdisjoint(parts):
            raise Problem(400, f"a path may not hold empty parts, '.' or '..': {path[:200]}")
        match verb, parts:
            case "POST", ["endpoints", name, "predict"]:
                endpoint = self._gateway.endpoint(name)
                body = await _body(headers, receive)
                return 200, await self._predict(endpoint, body, headers)
            case "POST", ["endpoints", name, "feedback"]:
                endpoint = self._gateway.endpoint(name)
                return 200, self._feedback(endpoint, await _body(headers, receive))
            case "POST", ["v2", "models", name, "infer"]:
                endpoint = self._gateway.endpoint(name)
                return 200, await self._infer(endpoint, "", await _body(headers, receive), headers)
            case "POST", ["v2", "models", name, "versions", version, "infer"]:
                endpoint = self._gateway.endpoint(name)
                return 200, await self._infer(endpoint, version, await _body(headers, receive), headers)
            case "GET", ["v2", *rest]:
                return self._protocol(rest)
            case "GET", ["metrics"]:
                return 200, metrics.text(self._gateway.endpoints.values())
            case _, ["control", *rest]:
                return await self._control(verb, rest)
        raise Problem(404, f"nothing is at {verb} {path[:200]}")

    async def _predict(self, endpoint: RunningEndpoint, body: bytes, headers: Mapping[bytes, bytes]) -> bytes:
        try:
            asked = _predict_body.decode(body)
        except UNREADABLE as error:
            raise Refused(
                f"the body is not a request for predictions: {error}",
                ways_on=['send {"rows": [{"column": value, ...}, ...]}'],
            ) from error
        answer = await endpoint.predict(asked.rows, t=_time(asked.t), deadline_s=_deadline_s(headers))
        found = [
            Prediction(id_, endpoint.name, answer.model, outputs, answer.t, answer.watermark, missing)
            for id_, outputs, missing in zip(answer.ids, answer.outputs, answer.missing, strict=True)
        ]
        return _encode({"predictions": found})

    def _feedback(self, endpoint: RunningEndpoint, body: bytes) -> bytes:
        asked = decode(body, FeedbackBody, what="feedback")
        if not asked.prediction.startswith("prd_") or len(asked.prediction) > 100:
            raise Refused(
                f"'{asked.prediction[:60]}' is not the id of a prediction",
                ways_on=["pass the id that came with the prediction, such as prd_...-1f"],
            )
        if not asked.values:
            raise Refused("the feedback holds no values", ways_on=['send {"values": {"late": true}}'])
        now = self._gateway.parts.clock.now()
        endpoint.log.learned(asked.prediction, asked.values, at=_time(asked.at) or now, received_at=now)
        return b"{}"

    async def _infer(
        self, endpoint: RunningEndpoint, version: str, body: bytes, headers: Mapping[bytes, bytes]
    ) -> bytes:
        if b"inference-header-content-length" in headers:
            raise Refused("tensors in binary are not spoken here", ways_on=["send JSON data"])
        await endpoint.answering(_deadline_s(headers))
        asked = oip.read(body, self._live(endpoint, version).asked())
        answer = await endpoint.predict(
            asked.rows, t=_time(asked.parameters.get("t")), deadline_s=_deadline_s(headers)
        )
        told: dict[str, Scalar] = {"prediction_id": answer.ids[0].partition(".")[0], "t": answer.t}
        if answer.watermark is not None:
            told["watermark"] = answer.watermark
        return _encode(
            oip.response(
                asked=asked,
                name=endpoint.name,
                version=answer.model.rpartition("/")[2],
                outputs=answer.outputs,
                kinds=answer.kinds,
                parameters=told,
            )
        )

    def _live(self, endpoint: RunningEndpoint, version: str) -> Behind:
        """Whoever answers; a version may be named, but only the live one answers."""
        behind = endpoint.ready()
        if version and behind.deployment.model_version != version:
            raise NotFound(
                f"version '{version}' of '{endpoint.name}' does not answer",
                ways_on=[f"version {behind.deployment.model_version} does"],
            )
        return behind

    def _protocol(self, rest: list[str]) -> tuple[int, bytes]:
        """The protocol's questions without a body."""
        match rest:
            case []:
                told = {"name": "fourfold", "version": VERSION, "extensions": []}
                return 200, _encode(told)
            case ["health", "live"]:
                return 200, _encode({"live": True})
            case ["health", "ready"]:
                is_ready = all(
                    each.health()[0] in {Health.ready, Health.stopped}
                    for each in self._gateway.endpoints.values()
                )
                return (200 if is_ready else 503), _encode({"ready": is_ready})
            case ["models", name] | ["models", name, "versions", _]:
                endpoint = self._gateway.endpoint(name)
                behind = self._live(endpoint, rest[3] if len(rest) == 4 else "")
                assert behind.lane.outputs is not None
                told = oip.metadata(
                    name=name,
                    versions=[behind.deployment.model_version],
                    inputs=behind.asked(),
                    outputs=behind.lane.outputs,
                )
                return 200, _encode(told)
            case ["models", name, "ready"] | ["models", name, "versions", _, "ready"]:
                endpoint = self._gateway.endpoint(name)
                try:
                    self._live(endpoint, rest[3] if len(rest) == 5 else "")
                except Unavailable:
                    return 503, _encode({"name": name, "ready": False})
                return 200, _encode({"name": name, "ready": True})
        raise Problem(404, "nothing is at /v2/" + "/".join(rest)[:200])

    async def _control(self, verb: str, rest: list[str]) -> tuple[int, bytes]:
        """What the project's own processes ask."""
        match verb, rest:
            case "GET", ["alive"]:
                return 200, b"{}"
            case "GET", ["traffic"]:
                return 200, _encode(
                    {
                        name: (*map(str, each.health()), each.traffic())
                        for name, each in self._gateway.endpoints.items()
                    }
                )
            case "POST", ["reconcile"]:
                await self._gateway.reconcile()
                return 200, b"{}"
            case "POST", ["flush", name]:
                return 200, _encode({"rows": await self._gateway.flush(name)})
            case "POST", ["stop"]:
                asyncio.get_running_loop().call_later(0.02, self._gateway.stop)  # after this answer
                return 200, b"{}"
        raise Problem(404, "nothing is at /control/" + "/".join(rest)[:200])


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The request's body, bounded in size and in time."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > BODY_BYTES:
        raise Problem(413, f"the body has {int(length)} bytes; at most {BODY_BYTES} are taken")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "the client went away")
                chunk: bytes = message.get("body", b"")
                if not message.get("more_body", False) and not chunks:
                    if len(chunk) > BODY_BYTES:
                        raise Problem(413, f"the body is larger than {BODY_BYTES} bytes")
                    return chunk
                size += len(chunk)
                if size > BODY_BYTES:
                    raise Problem(413, f"the body is larger than {BODY_BYTES} bytes")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_S:.0f} s") from None


def _told(error: FourfoldError, *, is_protocol: bool) -> tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]:
    """An error as JSON. The protocol says 400 for bad input, everybody else 422."""
    status = 400 if is_protocol and error.status == 422 else error.status
    extra: tuple[tuple[bytes, bytes], ...] = ()
    wait_s = error.facts.get("retry_after_s")
    if isinstance(wait_s, float):
        extra = ((b"retry-after", str(max(1, math.ceil(wait_s))).encode()),)
    if status == 401:
        extra = ((b"www-authenticate", b"Bearer"),)
    told = {"error": error.message, "code": error.code, "ways_on": error.ways_on, "facts": error.facts}
    return status, _encode(told), extra


def _time(given: object) -> Instant | None:
    if given is None:
        return None
    if isinstance(given, str):
        return parse_instant(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return instant(moment(Instant(given)))  # refuses what no calendar has: a log's reader could not
    raise Refused(
        f"t is {str(given)[:60]!r}", ways_on=["write ISO 8601 with a zone, or microseconds since 1970"]
    )


def _deadline_s(headers: Mapping[bytes, bytes]) -> float | None:
    given = headers.get(DEADLINE_HEADER)
    if given is None:
        return None
    try:
        seconds = duration_s(float(given))
    except ValueError:
        raise Refused(f"X-Request-Timeout-S is {given[:40]!r}; it takes seconds") from None
    if not 0 < seconds <= 600:
        raise Refused(f"X-Request-Timeout-S is {seconds}; it takes more than 0 and at most 600 seconds")
    return seconds


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
