"""Speaks to a gateway over HTTP with the standard library, keeping one connection per thread."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from fourfold.core.errors import Corrupted, FourfoldError, Unavailable, from_code
from fourfold.core.hosting import Prediction, Scalar, Traffic
from fourfold.core.times import Instant
from fourfold.core.wire import convert, decode, encode

ALIVE_S = 2.0
ANSWER_S = 60.0
"""How long an answer may take beyond the request's own deadline."""


class HttpGatewayClient:
    """Fulfils `GatewayClient`. Safe to use from several threads."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._local = threading.local()

    def is_alive(self, url: str) -> bool:
        parsed = urlsplit(url)
        if not parsed.hostname:
            return False
        connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=ALIVE_S)
        try:
            # With the token, because the port of a gateway that died may be another project's now.
            connection.request("GET", "/control/alive", headers=self._headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def predict(
        self,
        url: str,
        endpoint: str,
        rows: Sequence[Mapping[str, Scalar]],
        *,
        t: Instant | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Prediction, ...]:
        body: dict[str, Any] = {"rows": rows}
        if t is not None:
            body["t"] = t
        extra = {} if deadline_s is None else {"X-Request-Timeout-S": f"{deadline_s:g}"}
        told = self._ask(url, "POST", f"/endpoints/{quote(endpoint, safe='')}/predict", body, extra)
        found: tuple[Prediction, ...] = convert(
            told["predictions"], tuple[Prediction, ...], what="predictions"
        )
        return found

    def feedback(
        self, url: str, endpoint: str, prediction: str, values: Mapping[str, Scalar], at: Instant | None
    ) -> None:
        body: dict[str, Any] = {"prediction": prediction, "values": dict(values)}
        if at is not None:
            body["at"] = at
        self._ask(url, "POST", f"/endpoints/{quote(endpoint, safe='')}/feedback", body)

    def reconcile(self, url: str) -> None:
        self._ask(url, "POST", "/control/reconcile", {})

    def flush(self, url: str, endpoint: str) -> int:
        return int(self._ask(url, "POST", f"/control/flush/{quote(endpoint, safe='')}", {})["rows"])

    def traffic(self, url: str) -> Mapping[str, tuple[str, str, Traffic]]:
        told: Mapping[str, tuple[str, str, Traffic]] = convert(
            self._ask(url, "GET", "/control/traffic", None),
            dict[str, tuple[str, str, Traffic]],
            what="traffic",
        )
        return told

    def stop(self, url: str) -> None:
        self._ask(url, "POST", "/control/stop", {})

    def _ask(
        self, url: str, verb: str, path: str, body: object, extra: Mapping[str, str] | None = None
    ) -> Any:
        data = None if body is None else encode(body)
        headers = {**self._headers, **(extra or {})}
        for is_last in (False, True):
            connection, is_fresh = self._connection(url)
            try:
                connection.request(verb, path, body=data, headers=headers)
                response = connection.getresponse()
                told = response.read()
                break
            except (ConnectionError, http.client.BadStatusLine, http.client.CannotSendRequest) as error:
                self._drop()
                # A kept connection may have been closed meanwhile; a fresh one says that nobody is there.
                if is_fresh or is_last:
                    raise _silent(url, error) from error
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                raise _silent(url, error) from error
        if response.status == 200:
            return decode(told, dict[str, Any], what="the gateway's answer") if told else {}
        raise _error(response.status, told)

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, bool]:
        if getattr(self._local, "url", None) == url:
            return self._local.connection, False
        self._drop()
        parsed = urlsplit(url)
        connection = http.client.HTTPConnection(parsed.hostname or "", parsed.port, timeout=ANSWER_S)
        try:
            connection.connect()
        except OSError as error:
            raise _silent(url, error) from error
        # Small requests must not wait for the acknowledgement of the one before.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._local.url, self._local.connection = url, connection
        return connection, True

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.url = self._local.connection = None


def _silent(url: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"no gateway answers at {url or '(nowhere)'}: {error}", ways_on=["start one: fourfold up"], url=url
    )


def _error(status: int, told: bytes) -> FourfoldError:
    try:
        found = decode(told, dict[str, Any], what="error")
    except FourfoldError:
        return Corrupted(f"the gateway answered {status} without a reason")
    error = from_code(
        str(found.get("code", "error")), str(found.get("error", "")), found.get("ways_on", ()), {}
    )
    error.facts = dict(found.get("facts", {}))
    return error
