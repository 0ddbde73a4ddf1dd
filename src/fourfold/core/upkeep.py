"""What is found when a project's blobs are checked, and what is removed when nobody cites them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.storage import Digest
from fourfold.core.times import Instant

GRACE_S = 7 * 86_400.0
"""How long a blob that nothing cites is kept, unless said otherwise."""
LEAST_GRACE_S = 3600.0
"""A blob is stored before the row that cites it: between the two only its age protects it."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection did, or with `is_dry_run` would have done."""

    is_dry_run: bool
    is_complete: bool
    """False when its time ran out; run again, it does the rest."""
    before: Instant
    """Only what was last put before this was removed."""
    cited_count: int
    cited_bytes: int
    young_count: int
    """Cited by nothing, but not old enough."""
    young_bytes: int
    removed_count: int
    removed_bytes: int
    pieces_removed_bytes: int
    """Pieces of uploads that nobody finished."""
    quarantine_removed_bytes: int
    """What was put aside with wrong bytes, and was healed since or is cited by nothing."""


class Fault(StrEnum):
    """What can be wrong with a blob."""

    corrupted = "corrupted"
    """Its bytes are not those that were stored. It was put aside."""
    missing = "missing"
    """It is cited, and not there."""


@dataclass(frozen=True, slots=True)
class BadBlob:
    """A blob that cannot be used. Storing the right bytes again heals it."""

    digest: Digest
    fault: Fault
    size_bytes: int | None
    at: Instant
    """When it was found so."""
    cited_by: tuple[str, ...]
    """Rows that need it, as `table key=value`; of many the first."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A stretch of blobs that were read and verified."""

    count: int
    size_bytes: int
    bad: tuple[BadBlob, ...]
    next: Digest | None
    """Where to go on; none after the last blob."""
