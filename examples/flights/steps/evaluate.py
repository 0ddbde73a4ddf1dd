"""Judge the chosen model by days it never saw, and show what the naive join would have promised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from examples.flights.labels import Span, split
from examples.flights.model import featurize, predict
from examples.flights.scores import Bin, Hour, Score, by_hour, calibration, score
from examples.flights.steps.join import Joined
from examples.flights.steps.train import Fitted

import fourfold as ff


@dataclass(frozen=True, slots=True)
class Promise:
    """What a model's own data promise, and what it does on features as they were known."""

    validation: Score | None
    """On the validation days, joined as the model's own training set was."""
    offline: Score
    served: Score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The chosen model on the test days, and the same recipe on the naive join."""

    score: Score
    calibration: list[Bin]
    by_hour: list[Hour]
    point_in_time: Promise
    naive: Promise


@ff.step(cache=True, memory="1GiB")
def evaluate(best: Fitted, naive: Fitted, test: Span) -> Evaluation:
    """Both models on the test days; each on its own kind of join, and on the honest one."""
    honest, leaking = _rows(best.joined, test), _rows(naive.joined, test)
    late = honest["late"].to_numpy()
    said = _said(best, honest)
    found = score(said, late)
    return Evaluation(
        score=found,
        calibration=calibration(said, late),
        by_hour=by_hour(honest["hour"].to_numpy(), said, late),
        point_in_time=Promise(best.score, offline=found, served=found),
        naive=Promise(
            naive.score,
            offline=score(_said(naive, leaking), leaking["late"].to_numpy()),
            served=score(_said(naive, honest), late),
        ),
    )


def _rows(joined: Joined, span: Span) -> pa.Table:
    return split(ff.table(joined.table.name).version(joined.table.version).read(), span)


def _said(fitted: Fitted, rows: pa.Table) -> np.ndarray:
    said: np.ndarray = predict(fitted.model, featurize(rows))["late"].to_numpy()
    return said
