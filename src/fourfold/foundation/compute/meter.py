"""Floating point operations, counted by the code that knows how many it does: `ff.meter`.

No counter of the processor can be asked for them everywhere, so a step that knows says so; what it said
is kept with its use and judged against the unit's measured peak.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator

from fourfold.core.errors import Refused

__all__ = ["flops", "torch_flops"]

_guard = threading.Lock()
_counted = 0.0


def flops(operations: float) -> None:
    """Report floating point operations done in the present step. They add up; outside a step nobody asks.

    >>> side = 1000
    >>> flops(2 * side**3)  # a product of two square matrices
    """
    if not operations >= 0:
        raise Refused(f"ff.meter.flops takes a number of operations, not {operations!r}")
    global _counted
    with _guard:
        _counted += operations


@contextlib.contextmanager
def torch_flops() -> Iterator[None]:
    """Count the operations of what PyTorch does within, by PyTorch's own counter (`FlopCounterMode`).

    It looks at every operator, which slows down small ones, so it is not on by itself: count one step of
    training and report the rest by `flops`.

    ```python
    with ff.meter.torch_flops():
        loss = model(batch).sum()
        loss.backward()
    ```
    """
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is None:
        raise Refused(
            "torch is not installed in this environment",
            ways_on=["add torch to the environment", "or count yourself: ff.meter.flops(2 * n**3)"],
        )
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    with counter:
        yield
    flops(float(counter.get_total_flops()))


def counted_flops() -> float:
    """All that was counted in this process; it only grows."""
    return _counted
