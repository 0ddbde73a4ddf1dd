"""The model that `hosting.py` serves: logistic regression over twenty numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

NAMES = tuple(f"x{index}" for index in range(20))


def featurize(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.column_stack([table[name].to_numpy() for name in NAMES])


def predict(model: Any, features: Any) -> dict[str, Any]:
    return {"score": model.predict_proba(features)[:, 1]}


def rows(count: int) -> pa.Table:
    chance = np.random.default_rng(3)
    return pa.table({name: chance.normal(size=count) for name in NAMES})


def fitted() -> Any:
    from sklearn.linear_model import LogisticRegression

    features = featurize(rows(2000))
    return LogisticRegression().fit(features, features.sum(axis=1) > 0)
