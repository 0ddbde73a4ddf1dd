"""Free ports that stay free until the job binds them. Standard library only: keepers use it too.

A port is taken from below the range out of which the kernel picks ports itself, so no outgoing connection
of anybody takes it meanwhile. Who wants it holds an abstract Unix socket of its name for the job's life:
two keepers, of whichever projects on this machine, never pick the same one. A socket of that kind lives in
the same network namespace as the port, and is gone with its process.
"""

from __future__ import annotations

import errno
import os
import socket

FIRST = 20_000
MOST_TRIES = 500


class Port:
    """A port held for a job on the loopback interface."""

    def __init__(self) -> None:
        """Raises `OSError` when none is free."""
        low = _kernels_first()
        count = low - FIRST if low > FIRST + MOST_TRIES else 10_000
        start = int.from_bytes(os.urandom(4), "little")
        for step in range(MOST_TRIES):
            self.number = FIRST + (start + step) % count
            self._held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._held.bind(f"\0fourfold-port-{self.number}")
                with socket.socket() as probe:
                    probe.bind(("", self.number))
            except OSError:
                self._held.close()
                continue
            return
        raise OSError(errno.EADDRINUSE, f"no free port found from {FIRST} on")


def _kernels_first() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            return int(file.read().split()[0])
    except (OSError, IndexError, ValueError):
        return 32_768
