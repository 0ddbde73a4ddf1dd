"""`fourfold service` as a person has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Fourfold


@pytest.mark.slow
def test_a_service_is_asked_for_listed_stopped_and_forgotten(fourfold: Fourfold, empty: Path) -> None:
    assert "no services; start one" in fourfold("service", "ls").err
    started = fourfold("service", "start", "web", "--env", "A=1", "--", "python", "-m", "http.server")
    assert started.code == 0, started.err
    assert "starting: asked for" in started.out
    listed = fourfold("service", "ls")
    assert "web" in listed.out
    assert "nobody looks after services now" in listed.out + listed.err
    shown = fourfold("service", "show", "web", "-o", "json").json
    assert shown["spec"]["argv"] == ["python", "-m", "http.server"]
    wrong = fourfold("service", "show", "wep")
    assert wrong.code != 0
    assert "web" in wrong.err
    assert fourfold("service", "logs", "web").out == ""
    assert "ending" in fourfold("service", "stop", "web").out
    none = fourfold("service", "start", "other")
    assert "service 'other' has no command" in none.err
