"""What a container sent and received, by its own network: the one thing that no control group counts.

A container that shares the machine's network has none of its own, and then nothing is known. The counters go
with the container, so what is kept is what the last look saw.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NONE = "none"
"""podman's word for a network of loopback only."""
_KEPT = "network"


def looked(pid: int, folder: Path, proc: Path = Path("/proc")) -> int | None:
    """Bytes that a running container moved so far, kept in its folder; `None` where that is not told."""
    moved = _moved(pid, proc)
    if moved is not None:
        with contextlib.suppress(OSError):
            (folder / f"{_KEPT}.new").write_text(str(moved))
            (folder / f"{_KEPT}.new").replace(folder / _KEPT)
    return moved


def last(folder: Path, network: str) -> int | None:
    """Bytes that one that has ended had moved when it was last looked at."""
    if network == NONE:
        return 0
    try:
        return int((folder / _KEPT).read_text())
    except (OSError, ValueError):
        return None


def _moved(pid: int, proc: Path) -> int | None:
    """Received and sent, over all devices but loopback.

    Of the process's own network: another's counters are not its.
    """
    try:
        if os.readlink(proc / f"{pid}/ns/net") == os.readlink(proc / "self/ns/net"):
            return None
        lines = (proc / f"{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return None
    total = 0
    for line in lines:
        name, _, counters = line.partition(":")
        fields = counters.split()
        if name.strip() != "lo" and len(fields) > 8:
            total += int(fields[0]) + int(fields[8])
    return total
