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
from fourfold.core.package import VERSION

if TYPE_CHECKING:
    from fourfold.core.context import Ref as Ref
    from fourfold.core.errors import FourfoldError as FourfoldError
    from fourfold.core.models import ModelVersion as ModelVersion
    from fourfold.core.services import Services
    from fourfold.core.storage import TableVersion as TableVersion
    from fourfold.foundation.compute import meter as meter
    from fourfold.foundation.compute.batches import map_batches as map_batches
    from fourfold.foundation.storage import expect as expect
    from fourfold.foundation.storage.api import Table as Table
    from fourfold.foundation.storage.api import query as query
    from fourfold.foundation.storage.api import table as table
    from fourfold.foundation.storage.datasets.api import Dataset as Dataset
    from fourfold.foundation.storage.datasets.api import dataset as dataset
    from fourfold.foundation.storage.folders.api import Files as Files
    from fourfold.foundation.storage.folders.api import files as files
    from fourfold.mlplatform.features import api as features
    from fourfold.mlplatform.hosting.api import deploy as deploy
    from fourfold.mlplatform.hosting.api import endpoint as endpoint
    from fourfold.mlplatform.hosting.api import predict_table as predict_table
    from fourfold.mlplatform.models.api import model as model
    from fourfold.mlplatform.models.api import run as run
    from fourfold.mlplatform.models.api import runs as runs
    from fourfold.resources.flows.api import Future as Future
    from fourfold.resources.flows.api import as_completed as as_completed
    from fourfold.resources.flows.api import cron as cron
    from fourfold.resources.flows.api import flow as flow
    from fourfold.resources.flows.api import now as now
    from fourfold.resources.flows.api import random as random
    from fourfold.resources.flows.api import scheduled_day as scheduled_day
    from fourfold.resources.flows.api import step as step
    from fourfold.resources.flows.api import wait as wait
    from fourfold.resources.flows.nodes import Node as Node
    from fourfold.resources.flows.nodes import node as node
    from fourfold.workbench.api import notebook as notebook

__version__ = VERSION

_ROOMS: dict[str, tuple[str, ...]] = {
    "fourfold.core.context": ("Ref",),
    "fourfold.core.errors": ("FourfoldError",),
    "fourfold.core.models": ("ModelVersion",),
    "fourfold.core.storage": ("TableVersion",),
    "fourfold.foundation.compute.batches": ("map_batches",),
    "fourfold.foundation.storage.api": ("Table", "query", "table"),
    "fourfold.foundation.storage.datasets.api": ("Dataset", "dataset"),
    "fourfold.foundation.storage.folders.api": ("Files", "files"),
    "fourfold.mlplatform.hosting.api": ("deploy", "endpoint", "predict_table"),
    "fourfold.mlplatform.models.api": ("model", "run", "runs"),
    "fourfold.resources.flows.api": (
        *("Future", "as_completed", "cron", "flow", "now", "random", "scheduled_day", "step", "wait"),
    ),
    "fourfold.resources.flows.nodes": ("Node", "node"),
    "fourfold.workbench.api": ("notebook",),
}
"""Where each public name is written; loaded when it is first asked for."""

_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

_MODULES = {
    "expect": "fourfold.foundation.storage.expect",
    "features": "fourfold.mlplatform.features.api",
    "meter": "fourfold.foundation.compute.meter",
}
"""Names under which a whole module is public."""

__all__ = [*sorted(_HOMES), "expect", "features", "meter"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        value: object = importlib.import_module(_MODULES[name])
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'fourfold' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _open_services() -> Services:
    from fourfold import wiring

    return wiring.open_services()


_context.set_opener(_open_services)
