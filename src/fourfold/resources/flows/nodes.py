"""Which node of a step this is, where a step runs on several: `ff.node()`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Node", "node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One of the nodes that a step runs on: one process on each."""

    rank: int = 0
    """Counts from 0. What node 0 returns is the step's result, and it alone may write."""
    count: int = 1
    address: str = "127.0.0.1"
    """Of node 0, as the others reach it."""
    port: int = 0
    """Free on node 0 when the step began, for the group that its code makes; 0 where there is one node."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def node(environ: Mapping[str, str] | None = None) -> Node:
    """The node that this code runs on; of one, where the step did not ask for more, and outside a step.

    It is what the environment tells in the words of `torchrun`: `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and
    `MASTER_PORT`.

    >>> node({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"})
    Node(rank=1, count=2, address='n1', port=29500)
    >>> node({}).is_first
    True
    """
    told = os.environ if environ is None else environ
    if "WORLD_SIZE" not in told:
        return Node()
    return Node(
        int(told.get("RANK", "0")),
        int(told["WORLD_SIZE"]),
        told.get("MASTER_ADDR", "127.0.0.1"),
        int(told.get("MASTER_PORT", "0")),
    )
