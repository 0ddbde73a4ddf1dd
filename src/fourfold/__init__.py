"""The four layers of ML infrastructure for a company of reasonable scale, in one install.

>>> import fourfold as ff
>>> @ff.step
... def double(x: int) -> int:
...     return 2 * x
>>> double(21)  # outside a flow, a step is just its function
42
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fourfold.core import context as _context

if TYPE_CHECKING:
    from fourfold.core.services import Services

__version__ = "0.1.0"

_ROOMS = {
}
"""Where each public name is written; loaded when it is first asked for."""

_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fourfold' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _open_services() -> Services:
    from fourfold import wiring

    return wiring.open_services()


_context.set_opener(_open_services)
