"""Batch prediction writes each row once, whole or not at all, and refuses before it writes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.context import Executing, Ref
from fourfold.core.errors import NotFound, Refused
from fourfold.core.lineage import How
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.mlplatform.hosting import scoring
from fourfold.mlplatform.hosting.scoring import Scoring, score
from fourfold.testing.clock import MovableClock

FLIGHTS = pa.table(
    {
        "day": ["mon", "mon", "tue"],
        "carrier": ["UA", None, "AA"],
        "distance": pa.array([100, 200, None], pa.int64()),
    }
)


def doubled(rows: pa.Table) -> pa.Table:
    return pa.table({"score": pc.multiply(rows["distance"], 2.0)})


MODEL: Any = SimpleNamespace(
    example=pa.table({"distance": pa.array([1.0], pa.float64())}), version="m/1", predict=doubled
)


def run(storage: Storage, **asked: Any) -> Any:
    given = Scoring(**{"table": "flights", "out": "scores", **asked})
    return score(given, MODEL, storage=storage, features=None, now=Instant(5))  # type: ignore[arg-type]


@pytest.fixture
def filled(storage: Storage) -> Storage:
    storage.append("flights", FLIGHTS)
    return storage


def test_each_row_gets_its_answer_beside_what_is_kept(filled: Storage) -> None:
    done = run(filled, keep=("carrier",))
    assert (done.row_count, done.model, done.table_version) == (3, "m/1", 0)
    rows = filled.read("scores")
    assert rows.column_names == ["carrier", "score", "model_version", "scored_at"]
    assert rows["carrier"].to_pylist() == ["UA", None, "AA"]
    assert rows["score"].to_pylist() == [200.0, 400.0, None]  # integers became what the model takes


@pytest.mark.slow
def test_predictions_say_which_columns_they_came_from(
    filled: Storage, sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    run(filled, keep=("carrier",), where={"day": "mon"})
    found = CatalogService(sqlite_catalog, clock).column_lineage("table", "scores", version="0")
    told = {(e.column, e.how, str(e.source), e.source_column) for e in found.edges}
    assert told == {
        ("carrier", How.identity, "table:flights@0", "carrier"),
        ("score", How.transformation, "table:flights@0", "distance"),
        ("", How.filter, "table:flights@0", "day"),
    }


def test_batches_make_one_commit(filled: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BATCH_ROWS", 1)
    done = run(filled)
    assert done.out_version == 0
    assert filled.read("scores")["score"].to_pylist() == [200.0, 400.0, None]


def test_a_day_scored_again_replaces_only_itself(filled: Storage) -> None:
    day = {"keep": ("day",), "partition_by": ("day",)}
    run(filled, where={"day": "mon"}, **day)
    run(filled, where={"day": "tue"}, **day)
    run(filled, where={"day": "mon"}, **day)
    assert sorted(filled.read("scores")["day"].to_pylist()) == ["mon", "mon", "tue"]


def test_the_version_of_the_features_that_was_named_is_the_one_looked_up(filled: Storage) -> None:
    class Features:
        """Version 1 says kilometres, the newest says metres."""

        def training_set(self, service: str, entities: pa.Table, *, at: str, cache: bool) -> pa.Table:
            del at, cache
            times = 1.0 if service == "far@1" else 1000.0
            return entities.set_column(2, "distance", pc.multiply(entities["distance"], times))

    def scores(service: str) -> list[float | None]:
        asked = Scoring("flights", service.partition("@")[0] + service[-1], service, time_column="day")
        score(asked, MODEL, storage=filled, features=Features(), now=Instant(5))  # type: ignore[arg-type]
        return filled.read(asked.out)["score"].to_pylist()  # type: ignore[no-any-return]

    assert scores("far@1") == [200.0, 400.0, None]
    assert scores("far") == [200_000.0, 400_000.0, None]


def test_a_step_that_is_tried_again_writes_once(filled: Storage) -> None:
    class Step:
        executing = Executing("run", "score#0", 1, "", "")

        def record_read(self, ref: Ref) -> None:
            del ref

        record_write = record_read

        def write_key(self) -> str:
            return "run/score#0/0"

    for _ in range(2):
        with context.within(Step()):
            run(filled)
    assert filled.read("scores").num_rows == 3


def test_nothing_to_score_leaves_an_empty_table_of_the_right_kind(filled: Storage) -> None:
    assert run(filled, where={"day": "sun"}).row_count == 0
    rows = filled.read("scores")
    assert rows.num_rows == 0
    assert rows.schema.field("score").type == pa.float64()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"keep": ("carier",)}, "has no column 'carier'"),
        ({"where": {"dya": "mon"}}, "has no column 'dya'"),
        ({"partition_by": ("day",)}, "cannot partition 'scores' by 'day'"),
        ({"features": "delays"}, "features are looked up as of a time"),
        ({"features": "delays", "time_column": "tt"}, "has no column 'tt'"),
        ({"table": "narrow"}, "lacks column 'distance' of the model"),
        ({"table": "clashing", "keep": ("score",)}, "column 'score' is both kept and an output"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(filled: Storage, asked: dict[str, Any], words: str) -> None:
    filled.append("narrow", FLIGHTS.drop_columns(["distance"]))
    filled.append("clashing", FLIGHTS.append_column("score", pa.array([1.0, 2.0, 3.0])))
    with pytest.raises(Refused, match=words):
        run(filled, **asked)
    with pytest.raises(NotFound):
        filled.describe("scores")


def test_a_model_that_fails_in_the_middle_writes_nothing(
    filled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_ROWS", 1)
    answers: Iterator[int] = iter([1])

    def fails(rows: pa.Table) -> pa.Table:
        next(answers)
        return doubled(rows)

    monkeypatch.setattr(MODEL, "predict", fails)
    with pytest.raises((StopIteration, RuntimeError)):
        run(filled)
    with pytest.raises(NotFound):
        filled.describe("scores")
