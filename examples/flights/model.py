"""The model: how a row becomes numbers, how the numbers become a probability, and what we try.

`featurize` and `predict` are kept with every model version and run wherever it answers (in training, in
batch, behind the endpoint), so this module imports nothing of the example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
CODES: Mapping[str, tuple[str, ...]] = {"origin": ORIGINS, "carrier": CARRIERS}

NUMBERS = (
    "hour", "weekday", "distance_mi", "scheduled_min",
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib",
    "origin_left_1h", "origin_left_3h", "origin_dep_delay_1h", "origin_dep_delay_3h",
    "origin_dep_delay_max_1h", "origin_dep_delay_max_3h",
    "origin_landed_6h", "origin_arr_delay_6h", "origin_arr_delay_max_6h",
    "carrier_left_3h", "carrier_dep_delay_3h", "carrier_dep_delay_max_3h",
    "carrier_landed_1d", "carrier_landed_7d", "carrier_arr_delay_1d", "carrier_arr_delay_7d",
    "carrier_arr_delay_max_1d",
    "dest_landed_6h", "dest_landed_1d", "dest_arr_delay_6h", "dest_arr_delay_1d", "dest_arr_delay_7d",
    "dest_arr_delay_max_1d",
    "prev_dep_delay", "prev_arr_delay", "prev_arr_delay_sum_1d",
    "built_year", "seats",
)  # fmt: skip

INPUTS = (*CODES, *NUMBERS)
"""The columns that the model takes; those that it is given beside them are ignored."""


def featurize(table: pa.Table) -> np.ndarray:
    """One row of numbers for each row: codes by their place in the lists above, unknown ones as NaN."""
    matrix = np.empty((table.num_rows, len(INPUTS)), dtype=np.float64)
    for index, name in enumerate(INPUTS):
        column = table[name]
        if name in CODES:
            column = pc.index_in(column, value_set=pa.array(CODES[name]))
        matrix[:, index] = pc.cast(column, pa.float64()).to_numpy()  # null becomes NaN
    return matrix


def predict(model: Any, features: np.ndarray) -> pa.Table:
    """The probability that each flight arrives late."""
    return pa.table({"late": pa.array(model.predict_proba(features)[:, 1], pa.float64())})


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to fit the model. `leaves=0` is a logistic regression, else boosted trees of so many leaves."""

    name: str
    leaves: int = 0
    rounds: int = 0
    learning_rate: float = 0.0
    seed: int = 7

    @property
    def parameters(self) -> dict[str, str | int | float]:
        return asdict(self)


def sweep(leaves: Sequence[int], rounds: int) -> list[Recipe]:
    """What we try: a plain model to beat, and trees from coarse to fine."""
    return [
        Recipe("logistic"),
        *(Recipe(f"trees-{count}", leaves=count, rounds=rounds, learning_rate=0.1) for count in leaves),
    ]


def fit(recipe: Recipe, features: np.ndarray, late: np.ndarray) -> Any:
    """Fit a recipe. The same rows and recipe give the same model."""
    return (_logistic() if recipe.leaves == 0 else _trees(recipe)).fit(features, late)


def _trees(recipe: Recipe) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_leaf_nodes=recipe.leaves,
        max_iter=recipe.rounds,
        learning_rate=recipe.learning_rate,
        min_samples_leaf=100,
        early_stopping=False,
        random_state=recipe.seed,
    )


def _logistic() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    codes = list(range(len(CODES)))
    numbers = list(range(len(CODES), len(INPUTS)))
    prepared = ColumnTransformer(
        [
            ("codes", OneHotEncoder(handle_unknown="ignore"), codes),
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        ],
        sparse_threshold=0.0,
    )
    return make_pipeline(prepared, LogisticRegression(solver="newton-cholesky"))
