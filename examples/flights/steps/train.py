"""Fit one recipe on one training set: a run of the experiment `flights`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from examples.flights.labels import Span, split
from examples.flights.model import Recipe, featurize, fit, predict
from examples.flights.scores import Score, named, score
from examples.flights.steps.join import Joined

import fourfold as ff


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model with where it came from. `score` is empty when nothing was left to judge it by."""

    recipe: Recipe
    joined: Joined
    learned: Span
    run: str
    rows: int
    fit_s: float
    score: Score | None
    model: Any


@ff.step(cache=True, memory="1536MiB", retries=1)
def train(joined: Joined, recipe: Recipe, learn: Span, judge: Span | None = None) -> Fitted:
    """Learn from some days, as far as their outcomes were known by the end, and be judged on others."""
    table = ff.table(joined.table.name).version(joined.table.version).read()
    rows = split(table, learn, known=True)
    with ff.run(
        f"{recipe.name} on {joined.way}",
        experiment="flights",
        params={**recipe.parameters, "join": joined.way, "learn": str(learn)},
        seed=recipe.seed,
        data=[joined.table],
    ) as run:
        began = time.perf_counter()
        model = fit(recipe, featurize(rows), rows["late"].to_numpy())
        fit_s = time.perf_counter() - began
        found = None
        run.log(fit_s=fit_s, rows=rows.num_rows)
        if judge is not None:
            judged = split(table, judge)
            said = predict(model, featurize(judged))["late"].to_numpy()
            found = score(said, judged["late"].to_numpy())
            run.log(named(found, "validation"))
        return Fitted(recipe, joined, learn, run.id, rows.num_rows, fit_s, found, model)
