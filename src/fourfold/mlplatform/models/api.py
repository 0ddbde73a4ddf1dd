"""What people write about models: `run(...)`, `model(ref)`.

with ff.run("late flights", params={"depth": 5}) as run:
    run.log(auc=0.71)
    version = run.save(fitted, name="delays", featurize=featurize, example=rows, card="...", tags={...})
ff.model("delays").promote(version, "champion", why="better on last month")
answers = ff.model("delays@champion").load().predict(table)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fourfold.core.models import Scalar

if TYPE_CHECKING:
    from fourfold.core.context import Ref
    from fourfold.mlplatform.models.handle import ModelHandle
    from fourfold.mlplatform.models.recorder import Recorder


def run(
    name: str,
    *,
    experiment: str = "default",
    params: Mapping[str, Scalar] | None = None,
    tags: Mapping[str, str] | None = None,
    data: Iterable[Ref | object] = (),
    seed: int | None = None,
) -> Recorder:
    """Begin a run; use it as a context manager.

    `data` names the versions it learns from (`Ref`s, or values that have a `.ref`, such as a
    `TableVersion`); inside a flow step, the tables that the step has read are added by themselves.
    """
    raise NotImplementedError


def model(ref: str) -> ModelHandle:
    """A model by name: `"delays"` (the newest version), `"delays/3"`, `"delays@champion"`."""
    raise NotImplementedError
