"""Fit one recipe on one training set: a run of the experiment `flights`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from typing import Any

import fourfold as ff
from examples.flights.labels import split
from examples.flights.model import Recipe, featurize, fit, predict
from examples.flights.scores import Score, score
from examples.flights.steps.join import Joined


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model with where it came from."""

    recipe: Recipe
    way: str
    run: str
    rows: int
    fit_s: float
    score: Score
    model: Any


@ff.step(cpu=1, cache=True, memory="1GiB", retries=1)
def train(
    joined: Joined, recipe: Recipe, since: date, validate_from: date, validate_before: date
) -> Fitted:
    """Learn from the days before `validate_from`, and be judged on those that follow."""
    table = ff.table(joined.table.name).read(version=joined.table.version)
    learn = split(table, since=since, before=validate_from, known=True)
    judge = split(table, since=validate_from, before=validate_before, known=False)
    with ff.run(
        f"{joined.way}/{recipe.name}",
        experiment="flights",
        params={**recipe.parameters, "join": joined.way, "rows": learn.num_rows},
        seed=recipe.seed,
        data=[joined.table],
    ) as run:
        began = time.perf_counter()
        model = fit(recipe, featurize(learn), learn["late"].to_numpy())
        fit_s = time.perf_counter() - began
        said = predict(model, featurize(judge))["late"].to_numpy()
        found = score(said, judge["late"].to_numpy())
        run.log({f"validation_{name}": value for name, value in found.items()}, fit_s=fit_s)
        return Fitted(recipe, joined.way, run.id, learn.num_rows, fit_s, found, model)
