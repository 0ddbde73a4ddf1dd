"""Rows on their way to a table: acknowledged at once, brought to the table format later and many together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from fourfold.core.ports.tables import UNMARKED, Mark
from fourfold.core.times import Instant

NEVER = Instant(0)
"""Before every key."""


@dataclass(frozen=True, slots=True)
class Addition:
    """Rows to keep for a table. To the buffer they are bytes; who adds them and who reads them agree."""

    name: str
    rows: int
    data: bytes
    mark: Mark = UNMARKED
    """When, by whom, in which step. A `key` makes the addition repeatable."""
    above: int = -1
    """The number given is greater: a buffer that was lost and began anew stays ahead of its table."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an addition got: its number, and what waits of the table with it."""

    number: int
    rows: int
    waiting_rows: int
    waiting_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An addition that waits."""

    number: int
    rows: int
    data: bytes
    mark: Mark


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits of one table."""

    name: str
    rows: int
    size_bytes: int
    newest: int
    """The greatest number given so far; -1 before the first."""
    oldest: Instant | None
    """When the first of what waits was added; `None` when nothing waits."""


class RowBuffer(Protocol):
    """Keeps additions by table and number until they are forgotten. Threads and processes may share one.

    What `add` acknowledged survives `kill -9` and a power cut. The numbers of a table rise in the order in
    which additions become visible, without gaps in what is there: who has read up to a number misses
    nothing by reading on from it. A number is never given twice, also when all was forgotten.

    Errors: `TooMuch` when the buffer's bound would be passed, `OutOfSpace`, `Corrupted`, `Unavailable`; an
    addition that raised was not kept.
    """

    def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
        """Keep them durably: all of them, or none.

        One whose key was seen for its table changes nothing and gets the number and rows of the first,
        for as long as the key is remembered (see `forget`); so does a repeat within `additions`.
        """
        ...

    def after(self, name: str, number: int = -1) -> tuple[Entry, ...]:
        """What waits of a table with greater numbers, by number."""
        ...

    def waiting(self) -> tuple[Waiting, ...]:
        """What waits of each table that ever had something, by name."""
        ...

    def forget(self, name: str, *, upto: int, keys_before: Instant = NEVER) -> int:
        """Remove what waits up to a number, and keys first seen before a time; how many rows went."""
        ...

    def still(self) -> AbstractContextManager[None]:
        """Within the block nothing is added and nothing forgotten, by whatever process; keep it short.

        Whoever adds meanwhile waits. What was acknowledged before is seen in the block.
        """
        ...

    def scrub(self) -> bool:
        """Leave no bytes of what was forgotten in the buffer's own files, as far as they are ours to say.

        False when somebody who reads an older state at this moment keeps some of it: ask again.
        """
        ...

    def close(self) -> None:
        """Release the buffer; repeatable."""
        ...
