"""OpenLineage events by HTTP, to Marquez, DataHub, OpenMetadata or whoever else takes them."""

from __future__ import annotations

import http.client
import threading
from urllib.parse import urlsplit

from fourfold.core.errors import Refused, Unavailable

TIMEOUT_S = 5.0
PATH = "/api/v1/lineage"
"""Where OpenLineage's own clients post to, when the address names no path."""
_LATER = frozenset({408, 425, 429})


class HttpEvents:
    """Fulfils `EventSink` with the standard library, over one connection that is kept."""

    def __init__(self, url: str, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(
                f"'{url}' is no address of an OpenLineage endpoint", ways_on=["write http://marquez:5000"]
            )
        if parts.username or parts.password:
            raise Refused(
                "the address of the OpenLineage endpoint holds a password",
                ways_on=["leave it out, and give the token in FOURFOLD_OPENLINEAGE_TOKEN"],
            )
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path if parts.path.strip("/") else PATH) + (
            f"?{parts.query}" if parts.query else ""
        )
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection | None = None
        self._one_at_a_time = threading.Lock()
        self.address = f"{parts.scheme}://{parts.netloc}{self._path}"

    def send(self, event: bytes) -> None:
        with self._one_at_a_time:
            was_kept = self._connection is not None
            try:
                status, told = self._post(event)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                # A connection that was kept may have been closed over there meanwhile: one try more.
                if not was_kept or isinstance(error, TimeoutError):
                    raise self._unavailable(str(error) or type(error).__name__) from error
                status, told = self._post_again(event)
        self._judge(status, told)

    def close(self) -> None:
        with self._one_at_a_time:
            self._drop()

    def _post_again(self, event: bytes) -> tuple[int, str]:
        try:
            return self._post(event)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise self._unavailable(str(error) or type(error).__name__) from error

    def _post(self, event: bytes) -> tuple[int, str]:
        if self._connection is None:
            self._connection = (
                http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s)
                if self._secure
                else http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
            )
        self._connection.request("POST", self._path, body=event, headers=self._headers)
        response = self._connection.getresponse()
        told = response.read(65536).decode(errors="replace")
        if response.will_close or not response.isclosed():
            self._drop()
        return response.status, told

    def _judge(self, status: int, told: str) -> None:
        if 200 <= status < 300:
            return
        words = f"answered {status}" + (f": {' '.join(told.split())[:200]}" if told.strip() else "")
        if status in _LATER or status >= 500:
            raise self._unavailable(words)
        ways_on = ["check FOURFOLD_OPENLINEAGE_TOKEN"] if status in (401, 403) else []
        raise Refused(f"the lineage endpoint {self.address} {words}", ways_on=ways_on, status=status)

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"the lineage endpoint {self.address} does not take events now: {why}")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
