"""Asks a service whether it can be used."""

from __future__ import annotations

import http.client
import socket

from fourfold.core.serving import Probe, ProbeKind


def ask(address: str, probe: Probe) -> tuple[bool, str]:
    """Whether it can be used, and what was told where not."""
    host, _, port = address.rpartition(":")
    try:
        if probe.kind is ProbeKind.tcp:
            socket.create_connection((host.strip("[]"), int(port)), probe.timeout_s).close()
            return True, ""
        connection = http.client.HTTPConnection(host, int(port), timeout=probe.timeout_s)
        try:
            connection.request("GET", probe.path)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return False, f"{address}: {error}"
    return status < 400, "" if status < 400 else f"{address}{probe.path} answered {status}"
