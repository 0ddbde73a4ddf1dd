"""What a user's own module looks like: two models, one of a library and one of one's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

import fourfold as ff
from fourfold.core.context import Ref
from fourfold.core.models import ModelVersion

CARD = "Will a flight be late? For planning gates; not for passengers. Owner: ada."
LEARNED_FROM = (Ref("table", "flights", "0"),)


def featurize(table: pa.Table) -> np.ndarray[Any, Any]:
    """Distance in thousands of miles, and the hour of departure. A null becomes NaN, then 0."""
    columns = [table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("distance", "hour")]
    matrix: np.ndarray[Any, Any] = np.nan_to_num(np.column_stack(columns) / [1000.0, 1.0])
    return matrix


def predict(model: Any, features: Any) -> dict[str, Any]:
    return {"late": model.predict_proba(features)[:, 1]}


@dataclass
class Always:
    """A model of one's own: the same chance for every flight."""

    chance: float = 0.25

    def predict_proba(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        late = np.full(len(features), self.chance)
        return np.column_stack([1 - late, late])


@dataclass
class Moody(Always):
    """Answers by what it finds around it: its example comes out otherwise elsewhere."""

    def predict_proba(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.chance = float(os.environ.get("LATE_CHANCE", "0.25"))
        return super().predict_proba(features)


class ByDelay:
    """The chance grows with the airport's mean delay; of an unknown airport it is one half."""

    def predict_proba(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        late = np.where(np.isnan(features[:, 0]), 0.5, features[:, 0] / 100)
        return np.column_stack([1 - late, late])


def featurize_delay(table: pa.Table) -> np.ndarray[Any, Any]:
    matrix: np.ndarray[Any, Any] = table["delay"].to_numpy(zero_copy_only=False).astype(float)[:, None]
    return matrix


def flights(count: int = 50) -> pa.Table:
    chance = np.random.default_rng(7)
    return pa.table(
        {"distance": chance.integers(100, 3000, count).astype(float), "hour": chance.integers(0, 24, count)}
    )


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    rows = flights(200)
    return LogisticRegression().fit(featurize(rows), rows["hour"].to_numpy() > 15)


def save(model: Any, *, by: Any = featurize, example: pa.Table | None = None) -> ModelVersion:
    """A version of 'late' that lacks nothing."""
    with ff.run("late", data=LEARNED_FROM) as run:
        run.log(auc=0.7)
        return run.save(
            model,
            name="late",
            featurize=by,
            predict=predict,
            example=flights(3) if example is None else example,
            card=CARD,
            tags={"team": "gates"},
        )
