"""Formats keep their port's promises, and load nothing that the reader does not trust."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from tests.models import late_flights as project

from fourfold.adapters.cloudpickle_models import CloudpickleModels
from fourfold.adapters.python_models import PythonModels
from fourfold.adapters.sklearn_models import FILE, SklearnModels
from fourfold.core.errors import Corrupted, Denied, Refused
from fourfold.testing.models import check_model_format, imported, load, named

pytestmark = pytest.mark.slow  # scikit-learn alone takes seconds to import

ROWS = np.random.default_rng(3).normal(size=(60, 3))
LATE = (ROWS[:, 0] > 0).astype(int)


def ask(model: Any) -> object:
    return model.predict_proba(ROWS).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(C=0.5),
        make_pipeline(StandardScaler(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=4),
        RandomForestClassifier(4, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_scikit_learn_models_come_back(model: Any) -> None:
    saved = check_model_format(SklearnModels(), model.fit(ROWS, LATE), ask=ask)
    assert SklearnModels().accepts(model)
    assert saved.hyper_parameters


def test_plain_classes_come_back_with_all_their_state() -> None:
    table = project.flights(50)
    model = project.Threshold().fit(project.featurize(table), project.late(table))
    check_model_format(PythonModels(), model, ask=lambda m: m.predict(project.featurize(table)).tolist())
    again = load(PythonModels(), PythonModels().save(model, named=named))
    assert again.names == ("distance", "hour")
    assert again.notes["codes"] == {"a", "b"}
    assert np.isnan(again.notes[7])
    assert type(again.notes["best"]) is np.float64


def test_cloudpickle_is_declared_unsafe_and_never_chosen() -> None:
    model = LogisticRegression().fit(ROWS, LATE)
    assert CloudpickleModels().is_unsafe
    assert not CloudpickleModels().accepts(model)
    saved = CloudpickleModels().save(model, named=named)
    assert ask(load(CloudpickleModels(), saved)) == ask(model)


@pytest.mark.slow
def test_a_function_of_ones_own_inside_a_skops_file_is_denied_by_name() -> None:
    model = make_pipeline(FunctionTransformer(project.late), LogisticRegression())
    saved = SklearnModels().save(model, named=named)
    with pytest.raises(Denied, match=r"late_flights\.late"):
        load(SklearnModels(), saved)


class Bomb:
    """Unpickling it runs a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was run",)


def test_a_pickle_in_place_of_parameters_is_not_unpickled() -> None:
    bomb = pickle.dumps(Bomb())
    for reader, path in ((SklearnModels(), FILE), (PythonModels(), "state.json")):
        with pytest.raises(Corrupted):
            reader.load({path: bomb}, kind="x:y", trusted_types=(), imported=imported)


def test_another_class_than_the_definition_says_is_corruption() -> None:
    saved = SklearnModels().save(LogisticRegression().fit(ROWS, LATE), named=named)
    with pytest.raises(Corrupted, match="the definition says"):
        SklearnModels().load(saved.files, kind="sklearn.svm:SVC", trusted_types=(), imported=imported)


def test_a_zip_that_is_no_skops_file_is_corruption() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(Corrupted):
        SklearnModels().load({FILE: buffer.getvalue()}, kind="x:y", trusted_types=(), imported=imported)


def test_state_that_cannot_be_kept_is_refused_by_its_place() -> None:
    model = project.Threshold(notes={"open": open(__file__)})  # noqa: SIM115
    with pytest.raises(Refused, match=r"model\.notes\['open'\] is a _io\.TextIOWrapper"):
        PythonModels().save(model, named=named)
    model.notes["open"].close()
    model.notes = {"self": model}
    with pytest.raises(Refused, match="nests deeper"):
        PythonModels().save(model, named=named)
