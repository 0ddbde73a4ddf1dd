"""What `fourfold doctor` finds, and what it says to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Fourfold

from fourfold.cli.doctor import LATE_S, RECENT_S, Finding, told_elsewhere
from fourfold.core.openlineage import Outbox
from fourfold.core.times import Instant, after

NOW = Instant(1_767_225_600_000_000)
MARQUEZ = "http://marquez:5000/api/v1/lineage"
AGAIN = "fourfold lineage export tells everything again"


def found(outbox: Outbox) -> list[Finding]:
    return list(told_elsewhere(outbox, NOW))


def test_where_nobody_is_told_of_lineage_nothing_is_said() -> None:
    assert found(Outbox("", 0, None, 0, None, "")) == []


def test_events_that_are_on_their_way_are_counted_and_well() -> None:
    (none,) = found(Outbox(MARQUEZ, 0, None, 0, None, ""))
    assert (none.is_well, none.found, none.way_on) == (True, f"none waits for {MARQUEZ}", "")
    (some,) = found(Outbox(MARQUEZ, 2, after(NOW, -5), 0, None, ""))
    assert some == Finding(
        "lineage events",
        True,
        f"2 wait for {MARQUEZ}, the oldest of 2025-12-31 23:59:55Z",
        "they are sent while fourfold up runs",
    )


def test_events_that_wait_long_are_an_illness_with_a_way_on() -> None:
    (late,) = found(Outbox(MARQUEZ, 1234, after(NOW, -LATE_S - 1), 0, None, ""))
    assert not late.is_well
    assert late.found.startswith(f"1,234 wait for {MARQUEZ}, the oldest of 2025-12-31 23:49:59Z")
    assert f"see whether {MARQUEZ} answers" in late.way_on
    (nowhere,) = found(Outbox("", 3, after(NOW, -LATE_S - 1), 0, None, ""))
    assert 'openlineage = "http://…" in fourfold.toml' in nowhere.way_on
    (unknown,) = found(Outbox(MARQUEZ, 1, None, 0, None, ""))
    assert not unknown.is_well


@pytest.mark.parametrize(("age_s", "is_well"), [(60.0, False), (RECENT_S + 1, True)])
def test_events_that_were_refused_are_told_with_the_reason(age_s: float, is_well: bool) -> None:
    _, refused = found(Outbox(MARQUEZ, 0, None, 2, after(NOW, -age_s), "answered 400: no"))
    assert refused.is_well is is_well
    assert refused.found == "2 put aside, the last: answered 400: no"
    assert refused.way_on == f"see what refuses them; {AGAIN}"


@pytest.mark.slow
def test_the_doctor_asks_the_project(fourfold: Fourfold, empty: Path) -> None:
    (empty / "fourfold.toml").write_text('openlineage = "file://events.jsonl"\n')
    assert fourfold("table", "ls").code == 0
    rows = fourfold("doctor", "-o", "json").json
    (row,) = [row for row in rows if row["what"] == "lineage events"]
    assert (row["is_well"], row["found"]) == (True, f"none waits for file://{empty}/events.jsonl")
