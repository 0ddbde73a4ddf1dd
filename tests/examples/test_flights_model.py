"""The model of the flights example: how a row becomes numbers, and that what is fitted can be kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from examples.flights import features
from examples.flights.model import CODES, INPUTS, Recipe, featurize, fit, predict, sweep

from fourfold.adapters.sklearn_models import SklearnModels
from fourfold.core.models import TRUSTED_TYPES

pytestmark = pytest.mark.slow  # scikit-learn alone takes seconds to import


def rows(count: int) -> pa.Table:
    chance = np.random.default_rng(1)
    numbers = {name: chance.normal(size=count) for name in INPUTS if name not in CODES}
    codes = {name: [list(values)[n % len(values)] for n in range(count)] for name, values in CODES.items()}
    return pa.table({name: codes[name] if name in codes else numbers[name] for name in INPUTS})


def test_what_the_model_takes_is_what_the_service_gives() -> None:
    assert set(INPUTS) <= set(features.service.value.names)
    assert set(features.service.value.feature_names) <= set(INPUTS)


def test_unknown_codes_and_nulls_are_nan_and_nothing_else_is() -> None:
    table = rows(3)
    table = table.set_column(0, "origin", pa.array(["JFK", "XXX", None]))
    table = table.set_column(5, INPUTS[5], pa.array([1.0, None, 3.0]))
    found = featurize(table)
    assert found.shape == (3, len(INPUTS))
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 0], [1, 5], [2, 0]]
    assert found[0, 0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sweep([7], 5), ids=lambda recipe: recipe.name)
def test_every_recipe_can_be_kept_and_then_says_the_same(recipe: Recipe) -> None:
    given = featurize(rows(300))
    late = np.arange(300) % 3 == 0
    model = fit(recipe, given, late)
    kept = SklearnModels().save(model, named=lambda _: "")
    again = SklearnModels().load(
        kept.files, kind=kept.kind, trusted_types=TRUSTED_TYPES, imported=lambda _: None
    )
    assert predict(again, given).equals(predict(model, given))
    assert predict(fit(recipe, given, late), given).equals(predict(model, given))
