"""A small project: what a user's own modules look like. Tests save models with these functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from tests.models.late_rules import hour_of

LATE_MINUTES = 30


def featurize(table: pa.Table) -> np.ndarray[Any, Any]:
    """Distance and hour of departure."""
    return np.column_stack([table["distance"].to_numpy(), hour_of(table["departs"].to_numpy())])


def featurize_as_table(table: pa.Table) -> pa.Table:
    return pa.table({"distance": table["distance"], "hour": hour_of(table["departs"].to_numpy())})


def predict(model: Any, features: Any) -> dict[str, Any]:
    return {"late": model.predict(features) > 0.5, "score": model.predict(features)}


def forgets_rows(table: pa.Table) -> np.ndarray[Any, Any]:
    return featurize(table)[1:]


def featurize_with_hidden_import(table: pa.Table) -> np.ndarray[Any, Any]:
    import importlib

    importlib.import_module("late_rules_elsewhere")
    return featurize(table)


@dataclass
class Threshold:
    """A model of one's own: no library, some state of every kind that is kept."""

    limit: float = 0.0
    weights: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(2))
    names: tuple[str, ...] = ("distance", "hour")
    notes: dict[Any, Any] = field(default_factory=dict)

    def fit(self, features: np.ndarray[Any, Any], late: np.ndarray[Any, Any]) -> Threshold:
        self.weights = np.linalg.lstsq(features, late.astype(float), rcond=None)[0]
        self.limit = float(np.median(features @ self.weights))
        self.notes = {"rows": len(late), 7: float("nan"), "codes": {"a", "b"}, "best": np.float64(0.25)}
        return self

    def predict(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        answers: np.ndarray[Any, Any] = features @ self.weights - self.limit
        return answers


def flights(count: int = 200, seed: int = 1) -> pa.Table:
    chance = np.random.default_rng(seed)
    return pa.table(
        {
            "distance": chance.integers(100, 3000, count).astype(float),
            "departs": chance.integers(0, 2400, count),
            "carrier": [["UA", "DL", "AA"][i % 3] for i in range(count)],
        }
    )


def late(table: pa.Table) -> np.ndarray[Any, Any]:
    score = table["distance"].to_numpy() / 3000 + table["departs"].to_numpy() / 2400
    outcome: np.ndarray[Any, Any] = score > 1
    return outcome
