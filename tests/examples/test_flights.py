"""The flights example from beginning to end, in a folder of its own: what it finds, and what it redoes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--rounds", "40", "--leaves", "15")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Clone:
    """A copy of what the example needs, as in a fresh clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("examples", "locks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "fourfold.toml", folder)

    def run(self, *arguments: str) -> dict[str, Any]:
        """`python -m examples.flights`; the summary that it wrote."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
        done = subprocess.run(
            [sys.executable, "-m", "examples.flights", *arguments],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=1200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        assert str(self.page) in done.stdout
        assert "fourfold up" in done.stdout
        found: dict[str, Any] = json.loads((self.page.parent / "summary.json").read_text())
        return found

    @property
    def page(self) -> Path:
        return self.folder / ".fourfold" / "flights" / "report.html"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def first(clone: Clone) -> dict[str, Any]:
    return clone.run(*SMALL)


def test_no_flight_is_lost_on_the_way(first: dict[str, Any]) -> None:
    data = first["data"]
    assert data["flights"] == data["landed"] + data["cancelled"] + data["diverted"] == 336_776
    assert data["labelled"] == data["landed"]
    for way in ("naive", "point_in_time"):
        made = first["training_sets"][way]
        assert made["rows"] == made["entity_rows"] == data["labelled"]


def test_online_equals_offline_for_every_feature_over_the_whole_day(first: dict[str, Any]) -> None:
    parity, replay = first["parity"], first["replay"]
    assert parity["is_equal"]
    assert parity["mismatches"] == 0
    assert parity["values"] == parity["rows"] * first["features"]["count"] > 30_000
    assert parity["rows"] == replay["requests"] == parity["batch_rows"] == 1004
    assert parity["skipped"] == replay["errors"] == 0
    assert parity["batch_difference"] < 1e-12
    assert sum(replay["events"].values()) > 2_000


def test_the_naive_join_promises_more_than_it_keeps(first: dict[str, Any]) -> None:
    naive, honest = first["leak"]["naive"], first["leak"]["point_in_time"]
    for days in ("validation", "offline"):
        assert naive[days]["auc"] > honest[days]["auc"]
    assert naive["served"]["auc"] < honest["served"]["auc"]
    assert honest["served"] == honest["offline"]


def test_the_best_of_the_sweep_is_chosen_and_beats_the_plain_model(first: dict[str, Any]) -> None:
    losses = {one["recipe"]: one["score"]["log_loss"] for one in first["sweep"]}
    best = next(one for one in first["sweep"] if one["is_best"])
    assert set(losses) == {"logistic", "trees-15"}
    assert best["recipe"] == min(losses, key=lambda name: losses[name]) == "trees-15"
    assert first["evaluation"]["score"]["auc"] > 0.7


def test_the_decision_follows_its_rule(first: dict[str, Any]) -> None:
    told = first["challenger"]
    low, high = told["interval"]
    assert low < told["difference"] < high
    assert told["is_promoted"] is (high < 0)
    assert told["rule"]
    assert ("it is promoted" in told["reason"]) is told["is_promoted"]
    assert told["challenger"]["trained_rows"] > told["champion"]["trained_rows"]
    assert told["pairs"] <= told["shadowed"] == first["replay"]["requests"] - told["missed"]


def test_every_step_has_its_time_use_and_cost(first: dict[str, Any]) -> None:
    calls = {one["key"]: one for one in first["flow"]["calls"]}
    assert {"land#0", "join:naive", "train:trees-15", "replay#0", "audit#0", "decide#0"} <= calls.keys()
    for one in calls.values():
        assert one["wall_s"] > 0
        assert one["cpu_s"] > 0
        assert one["memory_bytes"] > 0
        assert one["cost_usd"] > 0
        assert not one["is_cached"]


def test_the_page_holds_all_pictures_and_needs_nothing_else(first: dict[str, Any], clone: Clone) -> None:
    page = clone.page.read_text()
    labels = re.findall(r'role="img"[^>]*aria-label="([^"]+)"|aria-label="([^"]+)"', page)
    pictures = " | ".join(a or b for a, b in labels)
    for wanted in ("calibration", "both joins", "late flights by hour", "greatest difference", "latency",
                   "the flow", "the sweep", "challenger"):  # fmt: skip
        assert wanted in pictures
    assert "<script" not in page
    assert "@import" not in page
    for address in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", page):
        assert "".join(address).startswith(("#", "notebook.html"))
    assert (clone.page.parent / "notebook.html").read_text().count("<table") >= 2


def test_what_did_not_change_comes_from_the_cache(first: dict[str, Any], clone: Clone) -> None:
    again = clone.run(*SMALL)
    fresh = {one["key"] for one in again["flow"]["calls"] if not one["is_cached"]}
    assert fresh - {"deploy:challenger"} == {"deploy:champion"}  # a deployment is asked for each time
    assert again["parity"] == first["parity"]

    changed = clone.run("--rounds", "40", "--leaves", "15,31")
    cached = {one["key"] for one in changed["flow"]["calls"] if one["is_cached"]}
    assert {
        "land#0",
        "look#0",
        "join:naive",
        "join:point-in-time",
        "train:logistic",
        "train:trees-15",
    } <= cached
    assert "train:trees-31" not in cached
    assert changed["parity"]["mismatches"] == 0
