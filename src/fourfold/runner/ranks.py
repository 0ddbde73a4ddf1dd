"""One process of several that work on a step together: which it is, and what it prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, MutableMapping
from typing import TextIO


def taken_rank(environ: MutableMapping[str, str]) -> int | None:
    """The rank of this process, where its worker is several; completes what `torchrun` would have set.

    >>> environ = {"FOURFOLD_NODES": "2", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    >>> taken_rank(environ), environ["NODE_RANK"], environ["LOCAL_WORLD_SIZE"], "FOURFOLD_NODES" in environ
    (1, '1', '1', False)
    >>> taken_rank({"RANK": "3", "WORLD_SIZE": "4"})  # of something else
    """
    if int(environ.pop("FOURFOLD_NODES", "1")) == 1:
        return None
    rank, count = environ["RANK"], environ["WORLD_SIZE"]
    of_nodes = {"NODE_RANK": rank, "GROUP_RANK": rank, "ROLE_RANK": rank, "GROUP_WORLD_SIZE": count}
    for name, value in {**of_nodes, "ROLE_WORLD_SIZE": count, "LOCAL_WORLD_SIZE": "1"}.items():
        environ.setdefault(name, value)
    return int(rank)


def told_of(rank: int, environ: Mapping[str, str]) -> dict[str, object]:
    """What a process tells the owner of itself: its rank, and what those of its start have in common."""
    return {"rank": rank, "group": f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"}


def tell_rank(rank: int) -> None:
    """Let what Python prints in this process name its rank, line by line."""
    sys.stdout, sys.stderr = Lines(sys.stdout, rank), Lines(sys.stderr, rank)


class Lines(io.TextIOBase):
    """Passes whole lines on, each with the rank that it is of: those of several processes share one file.

    >>> out = Lines(sys.stdout, 1)
    >>> count = out.write("a\\nb")
    [rank 1] a
    >>> out.flush()
    [rank 1] b
    """

    def __init__(self, out: TextIO, rank: int) -> None:
        self._out = out
        self._prefix = f"[rank {rank}] "
        self._rest = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._out.fileno()

    def write(self, text: str) -> int:
        whole, newline, rest = text.rpartition("\n")
        if newline:
            lines = (self._rest + whole).split("\n")
            self._rest = ""
            self._out.write("".join(f"{self._prefix}{line}\n" for line in lines))
        self._rest += rest
        return len(text)

    def flush(self) -> None:
        """Pass on what is no whole line yet too, as one."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._out.write(f"{self._prefix}{rest}\n")
        self._out.flush()


__all__ = ["Lines", "taken_rank", "tell_rank", "told_of"]
