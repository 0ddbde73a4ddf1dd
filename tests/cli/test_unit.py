"""A unit is shown with what is known of it, and how to learn the rest."""

from __future__ import annotations

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
