"""Where features come from: what is not said to act on one cannot change it, and what is said is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.storage.conftest import Attempt

from fourfold.catalog.service import CatalogService
from fourfold.cli.lineage import column_lines
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.features import Join, Kind, View
from fourfold.core.lineage import ColumnGraph, Direction, How, Influence
from fourfold.foundation.storage.api import Table, query
from fourfold.mlplatform.features import api as fs
from fourfold.mlplatform.features import validate
from fourfold.mlplatform.features.columns import normal_table
from fourfold.mlplatform.features.offline import unique_events
from fourfold.mlplatform.features.provenance import labels_known, view_columns
from fourfold.mlplatform.features.tables import ViewRecord
from fourfold.mlplatform.features.training import Tables, join_features
from fourfold.mlplatform.hosting import scoring
from fourfold.mlplatform.hosting.provenance import Seen, with_features
from fourfold.mlplatform.hosting.scoring import Scoring, score
from fourfold.testing.clock import START

from .conftest import MINUTE, STAMP, Store, airport, delays, departures, flights

EVENTS = flights(
    (1, "JFK", 0, 5, 3.0, 100),
    (2, "JFK", 10, 90, 30.0, 200),
    (3, "LGA", 20, 5, float("nan"), 50),
    (4, "JFK", 30, 5, None, 10),
)
TIMES = pa.array([START + minutes * MINUTE for minutes in (40, 120, 40, 200)], pa.int64()).cast(STAMP)
LABELS = pa.table(
    {"origin": ["JFK", "JFK", "LGA", None], "due": TIMES, "hour": [1, 2, 3, 4], "late": [1, 0, 1, 0]}
)
SOURCE = "table:departures@1"
LOOKED_AT = ("left_at", "known_at", "flight", "origin")


def told(graph: ColumnGraph, *columns: str) -> set[str]:
    """The edges onto these columns, in words."""
    return {
        f"{e.column or '*'} {e.how}{'#' if e.is_masked else ''} {e.source}#{e.source_column}"
        for e in graph.edges
        if not columns or e.column in columns
    }


@pytest.fixture
def filled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    store.storage.append("departures", EVENTS)
    opened = SimpleNamespace(storage=store.storage, features=store.features)
    monkeypatch.setattr(context, "services", lambda: opened)
    return store


def columns_of(store: Store, fingerprint: str, **asked: Any) -> ColumnGraph:
    return CatalogService(store.catalog, store.clock).column_lineage("training_set", fingerprint, **asked)


# What is said of a view


def test_a_feature_comes_from_its_column_and_is_steered_by_what_finds_its_events() -> None:
    asked = [Influence("labels:x", "who", How.identity)]
    found = view_columns(delays.view, _kinds(delays.view), "t", asked)
    of = {
        name: {(each.column, each.how, each.is_masked) for each in acting} for name, acting in found.items()
    }
    seen = {(column, How.window, False) for column in (*LOOKED_AT, "who")}
    assert of["last"] == {
        ("delay", How.identity, False),
        *((c, How.joins, False) for c in (*LOOKED_AT, "who")),
    }
    assert of["left_1h"] == of["left_1d"] == seen
    assert of["worst"] == of["delay"] == seen | {("delay", How.aggregation, False)}
    assert of["seats"] == seen | {("seats", How.aggregation, False), ("delay", How.conditional, False)}
    assert of["busy"] == seen


def test_an_expression_is_followed_through_the_features_that_it_reads() -> None:
    @fs.view(entity=airport, source=departures)
    class Many:
        last = fs.latest("delay")
        seats = fs.latest("seats")
        n = fs.count("delay", over="1h")
        total = fs.expr("last * 2 + n")
        either = fs.expr("case when seats > 100 then last else 0 end")
        fixed = fs.expr("1 + 1")

    many: Any = Many
    found = view_columns(many.view, _kinds(many.view), "t", [])
    direct = {
        name: {(e.column, e.how, e.is_masked) for e in acting if e.column in ("delay", "seats")}
        for name, acting in found.items()
    }
    assert direct["n"] == {("delay", How.aggregation, True)}
    assert direct["total"] == {("delay", How.transformation, False), ("delay", How.aggregation, True)}
    assert direct["either"] == {("delay", How.transformation, False), ("seats", How.conditional, False)}
    assert found["fixed"] == ()


@pytest.mark.slow
def test_what_is_not_said_to_act_on_a_feature_cannot_change_it() -> None:
    """Each column of the events is changed, in several ways; what does not name it stays as it was."""

    @fs.view(entity=airport, source=departures, ttl="2h")
    class Wide:
        last = fs.latest("delay")
        plane = fs.latest("seats")
        left = fs.count(over="1h")
        some = fs.sum("seats", over="2h", where="gate > 2", hop="exact")
        worst = fs.max("delay", over="2h", where="delay > 1")
        share = fs.expr("coalesce(last, 0) / nullif(left, 0)")
        big = fs.expr("case when some > 150 then plane else 0 end")

    wide: Any = Wide
    view: View = wide.view
    rng = np.random.default_rng(7)
    count = 400
    minutes = rng.integers(0, 600, count)
    events = flights(
        *(
            (n, "JFK" if rng.random() < 0.5 else "LGA", int(minutes[n]), int(rng.integers(0, 90)),
             float(rng.normal(5, 10)), int(rng.integers(50, 300)))
            for n in range(count)
        )
    ).append_column("gate", pa.array(rng.integers(0, 5, count)))  # fmt: skip
    columns, kinds = validate.check_view(view, events.schema)
    record = ViewRecord(_info(view, kinds), columns)
    both = fs.FeatureService("wide", [Wide]).value
    asked = pa.table({
        "origin": ["JFK", "LGA"] * 60,
        "at": pa.array([START + n * 5 * MINUTE for n in range(120)], pa.int64()).cast(STAMP),
    })  # fmt: skip

    def features(table: pa.Table, labels: pa.Table = asked) -> pa.Table:
        normal = unique_events(normal_table(table, columns, what="t"), view.source)
        tables = Tables({view.source.name: normal})
        return join_features(both, {view.version: record}, tables, labels, at="at", join=Join.point_in_time)

    before = features(events)
    found = view_columns(view, kinds, "t", [Influence("l", c, How.identity) for c in ("origin", "at")])
    changed_some: set[str] = set()
    for column in columns:
        for changed in _changed(events, column, rng):
            after = features(changed)
            for name, acting in found.items():
                if not any(each.column == column and each.input == "t" for each in acting):
                    assert after[name].equals(before[name]), f"{column} acts on {name}"
                elif not after[name].equals(before[name]):
                    changed_some.add(f"{column} {name}")
    # and what is said does act, so the test can see it
    assert {
        "delay last",
        "seats some",
        "gate some",
        "delay worst",
        "left_at left",
        "known_at last",
    } <= changed_some
    assert {"delay share", "left_at share", "seats big", "gate big", "origin left"} <= changed_some


def _changed(events: pa.Table, column: str, rng: np.random.Generator) -> list[pa.Table]:
    """The events with one column shuffled, shifted, partly null."""
    place = events.schema.get_field_index(column)
    field, values = events.schema.field(place), events.column(column)
    shuffled = values.take(pa.array(rng.permutation(len(values))))
    holes = pa.array([None if n % 3 == 0 else v for n, v in enumerate(values.to_pylist())], field.type)
    return [events.set_column(place, field, each) for each in (shuffled, holes)]


def _kinds(view: View) -> dict[str, Kind]:
    """The kinds of a view's features over the departures."""
    return validate.check_view(view, EVENTS.schema)[1]


def _info(view: View, kinds: dict[str, Kind]) -> Any:
    from fourfold.core.features import ViewInfo

    return ViewInfo(view, view.version, kinds, START, True)


# What is kept of a training set


def test_a_training_set_says_which_columns_of_which_versions_it_came_from(filled: Store) -> None:
    filled.storage.append("labels", LABELS)
    asked = query('select origin, due as at, hour, late from "labels@v0" where hour > 0')
    made = fs.training_set("delays", asked)
    found = columns_of(filled, made.info.fingerprint)
    label = "table:labels@0"
    assert told(found, "origin", "at", "hour", "late", "") == {
        f"origin identity {label}#origin",
        f"at identity {label}#due",
        f"hour identity {label}#hour",
        f"late identity {label}#late",
        f"* filter {label}#hour",
    }
    steered = {f"{SOURCE}#{column}" for column in LOOKED_AT} | {f"{label}#origin", f"{label}#due"}
    assert told(found, "last") == {
        f"last identity {SOURCE}#delay",
        *(f"last join {each}" for each in steered),
    }
    assert told(found, "seats") == {
        f"seats aggregation {SOURCE}#seats",
        f"seats conditional {SOURCE}#delay",
        *(f"seats window {each}" for each in steered),
    }
    things = CatalogService(filled.catalog, filled.clock).lineage("training_set", made.info.fingerprint)
    assert {ref.kind for ref in things.nodes} == {"training_set", "table", "feature_service"}
    assert Ref("table", "labels", "0") in things.nodes


def test_labels_of_which_nothing_is_known_are_what_was_handed_in(filled: Store) -> None:
    made = fs.training_set("delays", LABELS.rename_columns(["origin", "at", "hour", "late"]))
    found = columns_of(filled, made.info.fingerprint)
    handed = f"labels:{made.info.labels_digest}"
    assert told(found, "late") == {f"late identity {handed}#late"}
    assert f"last join {handed}#at" in told(found, "last")


def test_labels_that_could_not_be_followed_are_unknown_and_features_are_not(filled: Store) -> None:
    filled.storage.append("labels", LABELS.rename_columns(["origin", "at", "hour", "late"]))
    made = fs.training_set("delays", query('select columns(*) from "labels@v0"'))
    found = columns_of(filled, made.info.fingerprint)
    assert told(found, "late") == {"late unknown table:labels@0#"}
    assert {f"last identity {SOURCE}#delay", "last unknown table:labels@0#"} <= told(found, "last")


@pytest.mark.slow
def test_a_version_as_it_was_read_is_known_to_be_the_labels(filled: Store) -> None:
    filled.storage.append("labels", LABELS.rename_columns(["origin", "at", "hour", "late"]))
    rows = Table("labels", storage=filled.storage).version(0).read(where=[("late", "==", 1)])
    made = fs.training_set("delays", rows)
    found = columns_of(filled, made.info.fingerprint)
    assert told(found, "late", "") == {"late identity table:labels@0#late", "* filter table:labels@0#late"}
    assert made.data.num_rows == 2
    fewer = fs.training_set("delays", rows.slice(1))  # another object, so nothing is claimed of it
    digest = fewer.info.labels_digest
    assert told(columns_of(filled, fewer.info.fingerprint), "late") == {f"late identity labels:{digest}#late"}


def test_a_table_written_from_a_training_set_is_followed_to_its_sources(filled: Store) -> None:
    made = fs.training_set("delays", LABELS.rename_columns(["origin", "at", "hour", "late"]))
    Table("train", storage=filled.storage).overwrite(made.data)
    catalog = CatalogService(filled.catalog, filled.clock)
    found = catalog.column_lineage("table", "train", version="0", column="worst")
    assert "worst identity training_set:" + made.info.fingerprint + "#worst" in told(found)
    assert f"worst aggregation {SOURCE}#delay" in told(found)
    down = catalog.column_lineage(
        "table", "departures", version="1", column="delay", direction=Direction.downstream
    )
    assert {edge.target.name for edge in down.edges} == {"train", made.info.fingerprint}
    lines = column_lines(found)
    assert lines[0] == "table:train@0"
    assert any(line.split() == ["worst", "aggregation", f"{SOURCE}#delay"] for line in lines)
    drawn = catalog.lineage_picture("table", "train", version="0", column="worst")
    assert b"departures" in drawn


def test_in_a_step_the_step_is_named_and_the_same_set_again_adds_nothing(filled: Store) -> None:
    labels = LABELS.rename_columns(["origin", "at", "hour", "late"])
    attempt = Attempt()
    with context.within(attempt):
        made = fs.training_set("delays", labels)
        again = fs.training_set("delays", labels)
    assert again.info.is_cached
    assert Ref("training_set", made.info.fingerprint) in attempt.writes
    (kept,) = columns_of(filled, made.info.fingerprint).queries
    assert (kept.target, kept.sql, kept.unknown) == (Ref("training_set", made.info.fingerprint), "", "")


# Predictions


@pytest.mark.slow
def test_predictions_over_features_come_from_the_columns_of_both(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.storage.append("asked", LABELS.rename_columns(["origin", "at", "hour", "late"]))
    given = pa.schema([("hour", pa.int64()), ("last", pa.float64())])
    model: Any = SimpleNamespace(
        example=given.empty_table(),
        version="m/1",
        predict=lambda rows: pa.table({"score": rows["last"]}),
    )
    asked = Scoring("asked", "scores", "delays", keep=("late",), time_column="at")
    monkeypatch.setattr(scoring, "BATCH_ROWS", 2)
    look_up = filled.features.training_set

    def while_others_write(*names: Any, **more: Any) -> pa.Table:
        found = look_up(*names, **more)
        filled.storage.append("departures", EVENTS.slice(0, 0))  # so the next batch reads another version
        return found

    monkeypatch.setattr(filled.features, "training_set", while_others_write)
    score(asked, model, storage=filled.storage, features=filled.features, now=START)
    found = CatalogService(filled.catalog, filled.clock).column_lineage("table", "scores", version="0")
    assert told(found, "late", "") == {"late identity table:asked@0#late"}
    into = told(found, "score")
    assert {
        "score transformation table:asked@0#hour",
        "score transformation table:departures@1#delay",
        "score transformation table:departures@2#delay",
        "score join table:departures@1#left_at",
        "score join table:asked@0#at",
    } <= into
    assert not any(column in edge for edge in into for column in ("#late", "#seats"))


def test_of_features_whose_versions_are_not_told_nothing_is_claimed(filled: Store) -> None:
    seen = Seen(lambda rows: rows)
    seen(LABELS)
    asked = labels_known(None, LABELS.schema.names, "x")
    assert with_features(asked, filled.features, "delays", seen, at="due") is None
