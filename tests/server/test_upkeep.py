"""Upkeep over HTTP: who may ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.core.catalog import Identity
from fourfold.core.routes import Role
from fourfold.core.services.upkeep import Upkeep
from fourfold.core.settings import Settings
from fourfold.server.app import Access, Mounted, build_app
from fourfold.server.identity import Bearers
from fourfold.server.pages import About
from fourfold.wiring import Project

from .client import Client

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("role", [Role.deployer, Role.admin])
def test_only_an_admin_removes_garbage(tmp_path: Path, role: Role) -> None:
    project = Project(tmp_path / ".fourfold", Settings())
    try:
        app = build_app(
            [Mounted("upkeep", Upkeep, project.upkeep)],
            access=Access(Bearers("ff_owner", lambda _: Identity("somebody", role, "tok"))),
            about=About("1"),
        )
        client = Client(app, {"Authorization": "Bearer ff_somebody"})
        answer = client.request("POST", "/api/v1/storage/gc", json={"is_dry_run": True})
        assert answer.status_code == (200 if role is Role.admin else 403)
    finally:
        project.close()
