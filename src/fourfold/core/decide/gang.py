"""What several processes that work on one attempt together amount to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SUMMED = (
    "cpu_s",
    "memory_peak_bytes",
    "memory_mean_bytes",
    "read_bytes",
    "written_bytes",
    "flops",
    "disk_wait_s",
    "gpu_s",
    "gpu_memory_peak_bytes",
)


def added_up(used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The readings of the meters of all nodes as one: sums, and the longest wall time.

    What one of them cannot tell is unknown of all; operations are counted where somebody counted them.
    Peaks that are added up need not have been at one moment, so their sum is not exact. Readings over time
    are those of the first node.

    >>> one = {"wall_s": 2.0, "cpu_s": 1.5, "memory_peak_bytes": 10, "flops": 4.0}
    >>> two = {"wall_s": 2.5, "cpu_s": 0.5, "memory_peak_bytes": 20, "read_bytes": 7}
    >>> both = added_up([one, two])
    >>> both["wall_s"], both["cpu_s"], both["memory_peak_bytes"], both["memory_peak_is_exact"]
    (2.5, 2.0, 30, False)
    >>> both["flops"], both["read_bytes"]
    (4.0, None)
    """
    total: dict[str, Any] = dict(used[0])
    for name in _SUMMED:
        values = [each.get(name) for each in used]
        known = [value for value in values if value is not None]
        total[name] = sum(known) if len(known) == len(values) or (name == "flops" and known) else None
    total["wall_s"] = max(each.get("wall_s", 0.0) for each in used)
    if len(used) > 1:
        total["memory_peak_is_exact"] = False
    return total
