"""What people write about models: `run(...)`, `model(ref)`.

with ff.run("late flights", params={"depth": 5}, data=[flights]) as run:
    run.log(auc=0.71)
    version = run.save(fitted, name="delays", featurize=featurize, example=rows, card="...", tags={...})
ff.model("delays").promote(version, "champion", why="better on last month")
answers = ff.model("delays@champion").load().predict(table)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fourfold.core import context
from fourfold.core.models import NewRun, Run, Scalar

if TYPE_CHECKING:
    from fourfold.mlplatform.models.handle import ModelHandle
    from fourfold.mlplatform.models.runs.recorder import Recorder


def run(
    name: str,
    *,
    experiment: str = "default",
    params: Mapping[str, Scalar] | None = None,
    tags: Mapping[str, str] | None = None,
    data: Iterable[object] = (),
    seed: int | None = None,
) -> Recorder:
    """Begin a run; use it as a context manager.

    `data` names the versions it learns from (`Ref`s, or values that have a `.ref`, such as a
    `TableVersion`); inside a flow step, the tables that the step has read are added by themselves. Its code,
    environment and machine are noted without being asked.
    """
    from fourfold.foundation.compute.environments import lock_for
    from fourfold.mlplatform.models.runs import capture
    from fourfold.mlplatform.models.runs.recorder import Recorder
    from fourfold.mlplatform.models.saving import Saver

    here = context.services()
    storage, models = here.storage, here.models
    step, attempt = capture.step()
    present = here.compute.present_environment()
    new = NewRun(
        name=name,
        experiment=experiment,
        params=dict(params or {}),
        tags=dict(tags or {}),
        code=capture.code(storage.put_blob),
        environment=present.identity,
        seed=seed,
        host=capture.host(),
        data=capture.data(data),
        step=step,
        attempt=attempt,
    )
    return Recorder(
        models,
        new,
        key=context.write_key() or "",
        put=storage.put_blob,
        put_file=storage.put_file,
        saver=Saver(
            models,
            put=storage.put_blob,
            get=storage.get_blob,
            dependencies=lambda modules: lock_for(modules, within=present),
        ),
    )


def model(ref: str) -> ModelHandle:
    """A model by name: `"delays"` (the newest version), `"delays/3"`, `"delays@champion"`."""
    from fourfold.mlplatform.models.handle import ModelHandle

    return ModelHandle(context.services().models, ref)


def runs(where: str = "", *, order_by: str | Iterable[str] = (), limit: int = 100) -> tuple[Run, ...]:
    """Runs that meet a condition: `runs("metrics.auc > 0.9", order_by="metrics.auc desc")`."""
    terms = (order_by,) if isinstance(order_by, str) else tuple(order_by)
    return context.services().models.search_runs(where, order_by=terms, limit=limit)
