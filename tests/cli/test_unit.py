"""A unit is shown with what is known of it, and how to learn the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .conftest import Fourfold


def test_a_unit_is_shown_with_what_was_not_measured_yet(fourfold: Fourfold, project: Path) -> None:
    shown = fourfold("unit", "show")
    assert (shown.code, shown.lines[0].split()) == (0, ["unit", "local"])
    assert "fourfold unit bench local" in shown.err
    assert "fourfold unit quality local" in shown.err
    assert fourfold("unit", "show", "-o", "json").json["unit"]["name"] == "local"


def test_a_unit_never_measured_has_no_history(fourfold: Fourfold, project: Path) -> None:
    listed = fourfold("unit", "history")
    assert (listed.code, listed.out) == (0, "")
    assert "never measured: fourfold unit bench local" in listed.err


def test_an_unknown_unit_names_the_nearest(fourfold: Fourfold, project: Path) -> None:
    shown = fourfold("unit", "quality", "locl")
    assert shown.code != 0
    assert "did you mean 'local'" in shown.err


def test_earlier_times_to_quality_are_listed_and_nothing_is_trained(
    fourfold: Fourfold, project: Path
) -> None:
    from fourfold import wiring
    from fourfold.core.quality import TaskName, TaskResult, TimeToQuality
    from fourfold.core.times import Instant
    from fourfold.foundation.compute.tables import ComputeTables

    nothing = fourfold("unit", "quality", "--history")
    assert "never trained: fourfold unit quality local" in nothing.err

    opened = wiring.open_project()
    unit = opened.unit
    for machine, seconds, usd in ((unit.machine, 3.0, 900_000), ("other", 2.0, None)):
        result = TaskResult(TaskName.trees, "AUC", 0.952, (), seconds, seconds * 0.99, seconds * 1.01)
        versions = {"machine": machine}
        made = TimeToQuality(
            machine, "local", unit.fingerprint, Instant(1), 60.0, 1, (result,), versions, 0.0, 4
        )
        ComputeTables(opened.database).add_quality(unit, replace(made, seconds=seconds, cost_nanousd=usd))
    opened.close()

    listed = fourfold("unit", "quality", "--history")
    assert listed.code == 0
    (line,) = [line for line in listed.lines if unit.machine in line]
    assert "3 ±1%" in line
    assert "$0.00090" in line
    assert "time to quality: trees: 50% slower than 1 other unit of pool local" in listed.err
    assert len(fourfold("unit", "quality", "--history", "-o", "json").json) == 2
