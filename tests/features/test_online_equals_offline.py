"""Online equals offline: whatever order events come in, a served value is the recomputed one."""

from __future__ import annotations

import math
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.features import (
    Entity,
    Expression,
    FeatureService,
    Function,
    Key,
    Kind,
    Latest,
    Pick,
    Source,
    Status,
    Use,
    View,
    ViewInfo,
    Window,
)
from fourfold.core.times import Instant
from fourfold.mlplatform.features import audit
from fourfold.mlplatform.features.columns import normal_table
from fourfold.mlplatform.features.ingest import Feed, Ingest, batch_of
from fourfold.mlplatform.features.offline import SEQUENCE, feature_kinds, unique_events
from fourfold.mlplatform.features.plan import ServicePlan
from fourfold.mlplatform.features.state import Program
from fourfold.mlplatform.features.tables import ViewRecord
from fourfold.mlplatform.features.training import Tables
from fourfold.testing.clock import MovableClock
from fourfold.testing.online import MemoryOnline

KINDS = {
    "k": Kind.string, "j": Kind.int, "time": Kind.time, "known": Kind.time, "id": Kind.int,
    "x": Kind.float, "n": Kind.int, "t": Kind.string,
}  # fmt: skip
SOURCE = Source("s", "s", "time", ("id",), "known")
FUNCTIONS: tuple[Function, ...] = ("sum", "count", "mean", "min", "max")
WHOLE = View(
    "v",
    Entity("e", ("k", "j")),
    SOURCE,
    latest=(Latest("last_x", "x"), Latest("last_t", "t")),
    windows=(
        *(
            Window(f"{function}_{column}_{length}_{hop}_{len(where)}", function, column, length, hop, where)
            for function in FUNCTIONS
            for column in ("x", "n")
            for length, hop, where in ((10, 0, ""), (10, 4, "n > 1"), (25, 10, ""))
        ),
        Window("events", "count", "", 10, 4),
    ),
    expressions=(Expression("share", "events / nullif(count_x_25_10_0, 0)"),),
    ttl_us=12,
    lag_us=15,
)
WINDOWS_ONLY = View("w", Entity("e", ("k", "j")), SOURCE, windows=WHOLE.windows[:7], lag_us=3)
LATEST_ONLY = View("l", Entity("f", ("k",)), SOURCE, latest=WHOLE.latest, lag_us=0)
VIEWS = (WHOLE, WINDOWS_ONLY, LATEST_ONLY)


def use(view: View) -> Use:
    picks = tuple(Pick(name, f"{view.name}_{name}") for name in view.feature_names)
    return Use(view.name, picks, tuple(Key(key, key) for key in view.entity.keys), view.version)


SERVICE = FeatureService("service", tuple(use(view) for view in VIEWS))
RECORDS = {
    view.version: ViewRecord(
        ViewInfo(view, view.version, feature_kinds(view, KINDS), Instant(0), True),
        {c: KINDS[c] for c in sorted(KINDS)},
    )
    for view in VIEWS
}
PROGRAMS = {version: Program(record.info.view, dict(record.columns)) for version, record in RECORDS.items()}

events_ = st.fixed_dictionaries(
    {
        "k": st.sampled_from(["a", "a", "b", None]),
        "j": st.sampled_from([1, 2]),
        "time": st.integers(0, 60),
        "known": st.integers(0, 90),
        "x": st.one_of(
            st.none(), st.sampled_from([math.nan, math.inf, -math.inf, 1e20, -1e20]), st.floats(-100, 100)
        ),
        "n": st.one_of(st.none(), st.integers(-5, 5)),
        "t": st.sampled_from(["p", "q", None]),
    }
)
reads_ = st.fixed_dictionaries(
    {"k": st.sampled_from(["a", "b", "c", None]), "j": st.sampled_from([1, 2]), "ahead": st.integers(-20, 30)}
)
doings_ = st.lists(
    st.one_of(
        st.lists(events_, min_size=1, max_size=6),
        st.lists(events_, min_size=1, max_size=20).map(tuple),
        reads_,
    ),
    min_size=2,
    max_size=30,
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {name: pa.chunked_array([pa.array([r[name] for r in rows])]) for name in KINDS}
    return normal_table(pa.table(columns), KINDS, what="test")


repeats_ = st.lists(st.integers(0, 10_000), max_size=5)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(doings=doings_, repeats=repeats_)
def test_a_served_vector_is_what_the_events_before_t_up_to_its_watermark_say(
    doings: list[Any], repeats: list[int]
) -> None:
    check(doings, repeats)


def crowded(seed: int) -> list[Any]:
    """Many events of few entities, close together and often tied, and reads all around them."""
    chance = random.Random(seed)
    numbers = [None, math.nan, math.inf, -math.inf, 1e20, -1e20, *[1.5, -2.25, 3.0, 7.5] * 12]
    doings: list[Any] = []
    now = 20
    for _ in range(45):
        now += chance.choice([0, 0, 1, 2, 5])
        events = [
            {
                "k": chance.choice(["a", "a", "a", "b", None] if chance.random() < 0.3 else ["a"]),
                "j": 1,
                "time": max(0, now - chance.choice([0, 0, 1, 2, 3, 8, 14, 15, 16, 20, 40])),
                "known": now + chance.choice([0, 0, 0, 1]),
                "x": chance.choice(numbers if seed % 2 else numbers[4:]),
                "n": chance.choice([None, -3, 1, 2, 5]),
                "t": chance.choice(["p", "q", None]),
            }
            for _ in range(chance.choice([1, 1, 2, 3]))
        ]
        doings.append(tuple(events) if chance.random() < 0.2 else events)
        ahead = [-15, -9, -4, -1, 0, 1, 2, 4, 9, 11, 25]
        doings += [{"k": "a", "j": 1, "ahead": a} for a in chance.sample(ahead, 4)]
    return doings


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 60))]
)
def test_so_it_is_where_events_crowd(seed: int) -> None:
    check(crowded(seed), repeats=[seed])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(doings=doings_, repeats=repeats_)
def test_so_it_is_in_many_more_cases(doings: list[Any], repeats: list[int]) -> None:
    check(doings, repeats)


def check(doings: list[Any], repeats: list[int]) -> None:
    """Push, load and read as told, then audit all that was served."""
    store, clock = MemoryOnline(), MovableClock(Instant(0))
    ingest = Ingest(store, clock)
    plan = ServicePlan(SERVICE, PROGRAMS, store, ingest, clock)
    pushed: list[dict[str, Any]] = []
    served: list[dict[str, Any]] = []
    for doing in doings:
        if isinstance(doing, dict):
            at = clock.now() + doing["ahead"]
            vectors, watermark = plan.read([doing], Instant(at))
            row = {"k": doing["k"], "j": doing["j"], "at": at, "watermark": watermark}
            row |= dict(zip(plan.names, vectors[0].values, strict=True))
            if Status.too_old not in vectors[0].statuses:  # that is a refusal, not an answer
                served.append(row)
            continue
        # A list is pushed; a tuple comes as history, from the table.
        rows = [{**event, "id": len(pushed) + i} for i, event in enumerate(doing)]
        rows += [pushed[r % len(pushed)] for r in repeats[:1] if pushed]
        pushed += rows[: len(doing)]
        clock.set(Instant(max(clock.now(), rows[0]["time"])))
        newest = max(row["time"] for row in rows)
        with store.read() as reader:
            feed = Feed(SOURCE, tuple(PROGRAMS.values()), ingest.stamp(reader))
        outcome = ingest.apply(
            batch_of(SOURCE, table(rows)), feed, history_until=newest if isinstance(doing, tuple) else None
        )
        assert outcome is not None
        assert outcome.watermark == len(pushed)
        assert len(outcome.fresh) == len(doing)
    if not served or not pushed:
        return
    offline = unique_events(table(pushed), SOURCE)
    numbers = ingest.sequences(SOURCE, batch_of(SOURCE, offline).ids)
    offline = offline.append_column(SEQUENCE, pa.array(numbers, pa.int64()))
    log = pa.table({name: pa.array([row[name] for row in served]) for name in served[0]})
    audits, skipped = audit.compare(
        SERVICE, RECORDS, Tables({"s": offline}), log, at="at", watermark="watermark"
    )
    assert skipped == 0
    assert [each for each in audits if each.equal != each.rows] == []
