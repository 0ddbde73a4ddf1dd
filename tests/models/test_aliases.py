"""Aliases: gates before a promotion, a history of every move, and nobody overtaken unawares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models import late_flights as project
from tests.models.conftest import HERE, Store, replay_here

from fourfold.catalog.service import CatalogService
from fourfold.core.catalog import acting_as
from fourfold.core.decide import gates as rule
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.models import (
    AliasAction,
    AliasEvent,
    AliasRules,
    Artifact,
    Manifest,
    ManifestFile,
    MetricRule,
    ModelVersion,
    Replay,
)
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant
from fourfold.mlplatform.models.handle import ModelHandle
from fourfold.mlplatform.models.service import Models

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog


@pytest.fixture
def filled(any_store: Store) -> Store:
    """Three versions of 'delays', of growing and then falling quality."""
    _fill(any_store)
    return any_store


@pytest.fixture
def small(store: Store) -> Store:
    """The same on SQLite only."""
    _fill(store)
    return store


def _fill(store: Store) -> None:
    first = store.save(metrics={"auc": 0.70})
    manifest = store.models.manifest("delays", 1)
    for index, auc in enumerate((0.80, 0.75)):
        with store.recorder() as run:
            run.log(auc=auc)
        card = store.blobs.put(f"card {index}".encode())
        files = tuple(
            _again(file.path, store, card) if file.path == "card.md" else file for file in manifest.files
        )
        store.models.create_version("delays", manifest=Manifest(files), run=run.id)
    assert first.number == 1


def _again(path: str, store: Store, digest: Digest) -> ManifestFile:
    data = store.blobs.get(digest)
    return ManifestFile(path, Artifact.card, len(data), digest, hashlib.sha256(data).hexdigest())


# Moves and their history


def test_history_tells_who_moved_what_when_why_and_from_where(filled: Store) -> None:
    with acting_as("ada"):
        filled.models.promote("delays", "champion", number=1, why=" first ")
    filled.clock.advance(60)
    with acting_as("bob"):
        filled.models.promote("delays", "champion", number=2, why="better on March")
    filled.clock.advance(60)
    filled.models.rollback("delays", "champion", why="alarms")
    told = [(e.action, e.number, e.before, e.by, e.why) for e in filled.models.history("delays")]
    assert told == [
        ("rolled_back", 1, 2, "local", "alarms"),
        ("promoted", 2, 1, "bob", "better on March"),
        ("promoted", 1, None, "ada", "first"),
    ]
    assert filled.models.resolve("delays").aliases == ()
    assert filled.models.resolve("delays@champion").number == 1
    assert all(gate.passed for gate in filled.models.history("delays")[1].gates)


@pytest.mark.slow
def test_what_was_in_production_then_is_known(filled: Store) -> None:
    start = filled.clock.now()
    for number in (1, 2):
        filled.models.promote("delays", "champion", number=number, why="x")
        filled.clock.advance(100)
    filled.models.remove_alias("delays", "champion", why="closed")
    then = [filled.models.held_at("delays", "champion", at=Instant(start + at)) for at in (0, 99_999_999)]
    assert [version.number for version in then] == [1, 1]
    assert filled.models.held_at("delays", "champion", at=Instant(start + 100_000_000)).number == 2
    for at in (-1, 200_000_000):
        with pytest.raises(NotFound, match="pointed at nothing then"):
            filled.models.held_at("delays", "champion", at=Instant(start + at))


@pytest.mark.slow
def test_promoting_what_is_there_or_with_the_same_key_changes_nothing(filled: Store) -> None:
    first = filled.models.promote("delays", "champion", number=1, why="first", key="run/promote/1")
    filled.models.promote("delays", "champion", number=2, why="second")
    assert filled.models.promote("delays", "champion", number=1, why="first", key="run/promote/1") == first
    assert filled.models.resolve("delays@champion").number == 2
    again = filled.models.promote("delays", "champion", number=2, why="once more")
    assert again.why == "second"
    assert len(filled.models.history("delays")) == 2


@pytest.mark.slow
def test_rollbacks_go_back_one_promotion_each_and_then_refuse(filled: Store) -> None:
    for number in (1, 2, 3):
        filled.models.promote("delays", "champion", number=number, why="x")
    assert filled.models.rollback("delays", "champion", why="x").number == 2
    assert filled.models.rollback("delays", "champion", why="x").number == 1
    with pytest.raises(Refused, match="nothing to roll back to"):
        filled.models.rollback("delays", "champion", why="x")
    assert filled.models.resolve("delays@champion").number == 1


@pytest.mark.slow
def test_moves_are_in_the_audit(filled: Store, catalog: Catalog) -> None:
    filled.models.promote("delays", "champion", number=1, why="first")
    filled.models.remove_alias("delays", "champion", why="closed")
    entries = CatalogService(catalog, filled.clock).audit(kind="model", limit=2)
    assert [(entry.action, str(entry.ref), entry.facts["why"]) for entry in entries] == [
        ("model.removed", "model:delays", "closed"),
        ("model.promoted", "model:delays@1", "first"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("came_between", ["promoted", "removed and set again"])
def test_a_move_that_came_between_is_a_conflict(
    catalog: Catalog, make_store: Callable[[Catalog], Store], came_between: str
) -> None:
    store = make_store(catalog)
    _fill(store)
    store.models.promote("delays", "champion", number=1, why="first")

    def meanwhile(folder: Path) -> Replay:
        if came_between == "promoted":
            store.models.promote("delays", "champion", number=3, why="quicker")
        else:
            store.models.remove_alias("delays", "champion")
            store.models.promote("delays", "champion", number=3, why="quicker")
        return replay_here(folder)

    slow = Models(catalog, store.blobs, store.clock, replay=meanwhile, here=HERE)
    with pytest.raises(Conflict, match="moved by somebody else meanwhile"):
        slow.promote("delays", "champion", number=2, why="slower")
    assert store.models.resolve("delays@champion").number == 3
    assert store.models.history("delays")[0].why == "quicker"


@pytest.mark.slow
@pytest.mark.parametrize("alias", ["", "3", "a/b", "a@b", "x" * 101])
def test_a_word_that_cannot_be_an_alias_is_refused(store: Store, alias: str) -> None:
    with pytest.raises(Refused, match="alias"):
        store.models.promote("delays", alias, number=1, why="x")


@pytest.mark.slow
def test_a_promotion_says_why(small: Store) -> None:
    with pytest.raises(Refused, match="says why"):
        small.models.promote("delays", "champion", number=1, why="  ")
    assert small.models.history("delays") == ()


# Gates


@pytest.mark.slow
def test_a_protected_alias_refuses_what_is_incomplete_and_says_so(filled: Store) -> None:
    whole = filled.models.manifest("delays", 1)
    part = Manifest(tuple(file for file in whole.files if file.artifact is not Artifact.card))
    run = filled.models.resolve("delays/1").run
    version = filled.models.create_version("delays", manifest=part, run=run, allow_incomplete=True)
    with pytest.raises(Refused, match="2 of 2 gates failed") as caught:
        filled.models.promote("delays", "champion", number=version.number, why="x")
    assert "delays/4 lacks card" in str(caught.value)
    assert filled.models.history("delays") == ()
    filled.models.promote("delays", "candidate", number=version.number, why="to look at")  # not protected


@pytest.mark.slow
def test_a_protected_alias_asks_its_metrics(filled: Store) -> None:
    handle = ModelHandle(filled.models, "delays@champion")
    handle.protect("champion", MetricRule("auc", limit=0.72, tolerance=0.01))
    with pytest.raises(Refused, match=r"metric auc: auc 0.7 is not at least 0.72"):
        handle.promote(1, "champion", why="x")
    handle.promote(2, "champion", why="x")
    with pytest.raises(Refused, match=r"auc 0.75 is worse than 0.8 of delays/2 \(tolerance 0.01\)"):
        handle.promote(3, "champion", why="x")
    assert [gate.passed for gate in handle.check(3, "champion")] == [True, True, False]
    handle.protect("champion", MetricRule("auc", against_present=False), MetricRule("latency"))
    with pytest.raises(Refused, match=r"has no metric 'latency' \(it has: auc\)"):
        handle.promote(3, "champion", why="x")


@pytest.mark.slow
def test_a_version_that_no_longer_replays_is_not_promoted(
    sqlite_catalog: Catalog, make_store: Callable[[Catalog], Store]
) -> None:
    store = make_store(sqlite_catalog)
    _fill(store)
    broken = Models(
        sqlite_catalog, store.blobs, store.clock, replay=lambda _: Replay(False, "late[0] is True"), here=HERE
    )
    with pytest.raises(Refused, match=r"replay: late\[0\] is True"):
        broken.promote("delays", "production", number=1, why="x")
    assert broken.rules("delays", "production").is_protected
    broken.set_rules("delays", "production", rules=AliasRules("production", is_protected=False))
    assert broken.promote("delays", "production", number=1, why="x").gates == ()


@pytest.mark.slow
def test_a_promotion_replays_the_version_in_a_process_of_its_own(
    small: Store, sqlite_catalog: Catalog
) -> None:
    models = Models(sqlite_catalog, small.blobs, small.clock, here=HERE)
    event = models.promote("delays", "champion", number=1, why="first")
    assert [(gate.gate, gate.passed) for gate in event.gates] == [("complete", True), ("replay", True)]
    assert "5 stored rows gave their stored answers" in event.gates[1].reason


# The rules by themselves

NAN = float("nan")
figures = st.one_of(st.none(), st.floats(-10, 10), st.just(NAN))


def version(number: int, auc: float | None) -> ModelVersion:
    metrics = {} if auc is None else {"auc": auc}
    return ModelVersion("m", number, f"digest {number}", "run", created_at=Instant(0), metrics=metrics)


@pytest.mark.slow
@given(
    figures,
    figures,
    st.one_of(st.none(), st.floats(-10, 10)),
    st.floats(0, 5),
    st.sampled_from(["higher", "lower"]),
)
def test_a_metric_gate_lets_through_only_what_meets_it(
    mine: float | None, held: float | None, limit: float | None, tolerance: float, better: str
) -> None:
    asked = MetricRule("auc", better=better, limit=limit, tolerance=tolerance)  # type: ignore[arg-type]
    rules = AliasRules("champion", is_protected=False, metrics=(asked,))
    (result,) = rule.gates(rules, version(2, mine), present=version(1, held), replay=None)
    sign = 1 if better == "higher" else -1
    expected = mine is not None and mine == mine
    if expected and mine is not None:
        expected = limit is None or sign * mine >= sign * limit
        if held is not None and held == held:
            expected = expected and not (mine < held - tolerance if sign == 1 else mine > held + tolerance)
    assert result.passed == expected
    assert result.reason


@pytest.mark.slow
@given(st.lists(st.integers(0, 3)))
def test_rollbacks_are_the_undo_of_promotions(moves: list[int]) -> None:
    """0 rolls back where that is possible; any other number is promoted."""
    history: list[AliasEvent] = []
    held: list[int] = []

    def add(action: AliasAction, number: int) -> None:
        before = held[-1] if held else None
        history.append(AliasEvent("m", "a", action, number, before, "me", "why", Instant(len(history))))

    for move in moves:
        target = rule.rollback_target(history)
        assert target == (held[-2] if len(held) > 1 else None)
        if move:
            add(AliasAction.promoted, move)
            held.append(move)
        elif target is not None:
            add(AliasAction.rolled_back, target)
            held.pop()


@pytest.mark.slow
def test_a_handle_asks_what_the_reference_means_now(small: Store) -> None:
    handle = ModelHandle(small.models, "delays@champion")
    present = [handle.exists]
    handle.promote(handle.versions()[2], "champion", why="first")
    assert [*present, handle.exists] == [False, True]
    assert (handle.version.number, handle.metrics, handle.name) == (1, {"auc": 0.7}, "delays")
    assert handle.card.startswith("Will a flight be late?")
    assert handle.load().predict(project.flights(3)).num_rows == 3
    handle.promote(2, "champion", why="second")
    assert handle.version.number == 2
    assert handle.rollback(why="x").number == 1
    then = handle.held_at(datetime(2026, 1, 2, tzinfo=UTC))
    assert then.number == 1
    with pytest.raises(Refused, match="which alias of 'delays'"):
        ModelHandle(small.models, "delays").rollback(why="x")
