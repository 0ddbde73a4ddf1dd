"""Which versions of a table are old: those that nobody could have met since a moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from fourfold.core.times import Instant


def old_versions(
    made: Sequence[tuple[int, Instant]], *, before: Instant, keep: Collection[int] = ()
) -> tuple[int, ...]:
    """Versions that were replaced before a moment, oldest first, other than those to keep.

    `made` is each version and its time, oldest version first. A version is old when it and the one after
    it were made before the moment; so the newest never is. Times may go back where a clock did.

    >>> old_versions([(0, Instant(10)), (1, Instant(20)), (2, Instant(30))], before=Instant(25))
    (0,)
    """
    return tuple(
        version
        for (version, at), (_, replaced_at) in pairwise(made)
        if at < before and replaced_at < before and version not in keep
    )
