"""The search language finds exactly what it says, on both databases, and points at mistakes."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.conftest import Store

from fourfold.core.errors import Refused
from fourfold.core.models import Metric
from fourfold.mlplatform.models.runs.search import language


def fill(store: Store) -> None:
    for name, auc, depth, team in (
        ("a", 0.7, 3, "growth"),
        ("b", 0.9, 5, "Gates"),
        ("c", float("nan"), 7, "gates_x"),
        ("d", None, "deep", "100%"),
        ("e", 0.8, 10, ""),
    ):
        store.clock.advance(1)
        run = store.models.create_run(
            store.new_run(name=name, params={"depth": depth}, tags={"team": team} if team else {})
        )
        if auc is not None:
            store.models.log(run.id, metrics=(Metric("auc", auc if auc == auc else "NaN"),))


def names(store: Store, where: str = "", *order_by: str, **page: int) -> str:
    return "".join(run.name for run in store.models.search_runs(where, order_by=order_by, **page))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("", "edcba"),
        ("metrics.auc > 0.75", "eb"),
        ("metrics.auc >= 0.7 and metrics.auc < 0.9", "ea"),
        ("metrics.auc = nan", "c"),
        ("metrics.auc != 0.9", "eca"),
        ("not metrics.auc > 0", "dc"),
        ("params.depth = 5", "b"),
        ("params.depth = '5'", "b"),
        ("params.depth > 4", "ecb"),
        ("params.depth in (3, 'deep')", "da"),
        ("params.depth not in (3, 5)", "edc"),
        ("tags.team like 'g%'", "ca"),
        ("tags.team ilike 'g%'", "cba"),
        ("tags.team like '%_x'", "c"),
        ("tags.team like '100%'", "d"),
        ("tags.team != 'growth'", "dcb"),
        ("not tags.team = 'growth'", "edcb"),
        ("name = 'a' or (name = 'b' and metrics.auc > 0.8)", "ba"),
        ("attributes.name in ('a', 'e')", "ea"),
        ("started_at >= '2026-01-01T00:00:04Z'", "ed"),
        ("ended_at > 0", ""),
        ("experiment = 'default' and status = 'running'", "edcba"),
        ("metrics.none > 0", ""),
    ],
)
def test_conditions_mean_what_they_say(any_store: Store, where: str, found: str) -> None:
    fill(any_store)
    assert names(any_store, where) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        (("metrics.auc desc",), "beadc"),
        (("metrics.auc",), "aebdc"),
        (("params.depth desc", "name"), "ecbad"),
        (("tags.team", "name"), None),
        (("name desc",), "edcba"),
        (("started_at",), "abcde"),
    ],
)
def test_order_puts_what_lacks_a_value_last(
    any_store: Store, order: tuple[str, ...], found: str | None
) -> None:
    fill(any_store)
    whole = names(any_store, "", *order)
    assert found is None or whole == found
    assert sorted(whole) == list("abcde")
    # Pages of any size, laid side by side, are the whole.
    for size in (1, 2, 3, 4):
        pages = [names(any_store, "", *order, limit=size, offset=start) for start in range(0, 6, size)]
        assert "".join(pages) == whole


def test_a_filter_holds_also_when_ordered_by_a_metric(any_store: Store) -> None:
    fill(any_store)
    assert names(any_store, "not name = 'b'", "metrics.auc desc") == "eadc"


def test_text_is_ordered_by_code_points_on_both_databases(any_store: Store) -> None:
    for name in ("a", "B", "é", "Z", "_"):
        any_store.models.create_run(any_store.new_run(name=name, tags={"team": name}))
    assert names(any_store, "", "name") == "BZ_aé"
    assert names(any_store, "", "tags.team desc") == "éa_ZB"
    assert names(any_store, "name > 'Z'", "name") == "_aé"
    assert names(any_store, "tags.team <= '_'", "name") == "BZ_"


@pytest.mark.parametrize(
    ("where", "mark", "says"),
    [
        ("metrics.auc > ", 14, "a value was expected"),
        ("metrics.auc >> 1", 13, "a value was expected"),
        ("auc > 1", 0, "is not a field"),
        ("attributes.colour = 'x'", 0, "no attribute 'colour'"),
        ("metrics.auc > 'high'", 20, "compare it with one"),
        ("metrics.auc like 'h%'", 17, "is a number"),
        ("(name = 'a'", 11, "')' was expected"),
        ("name = 'a' name = 'b'", 11, "should end here"),
        ("name = 'a'; drop table model_run", 10, "not understood"),
        ("name ~ 'a'", 5, "not understood"),
        ("name in ()", 9, "a value was expected"),
        ("started_at > 'yesterday'", 0, "is not a time"),
    ],
)
def test_a_mistake_is_shown_where_it_is(store: Store, where: str, mark: int, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)) as caught:
        store.models.search_runs(where)
    if "time" not in says:
        assert str(caught.value).splitlines()[2].index("^") == mark + 2


def test_a_condition_is_bounded() -> None:
    with pytest.raises(Refused, match="nest"):
        language.parse("(" * 100 + "name = 'a'" + ")" * 100)
    with pytest.raises(Refused, match="characters"):
        language.parse("name = 'a' or " * 1000 + "name = 'b'")


@given(st.text(alphabet="metrics.auc <>=!'\"`()andortipsl0123456789%_-", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):  # anything else is a defect
        language.parse(text)
