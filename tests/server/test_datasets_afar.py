"""What is expected of tables, over HTTP: the same calls, the same refusals, and who may make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fourfold as ff
from fourfold.core import context
from fourfold.core.catalog import Identity
from fourfold.core.errors import Denied, Refused
from fourfold.core.routes import Role
from fourfold.core.services import PROTOCOLS, Services
from fourfold.core.settings import Settings
from fourfold.server.app import Access, Mounted, build_app
from fourfold.server.identity import Bearers
from fourfold.server.pages import About
from fourfold.wiring import Project, RemoteProject

from .conftest import OWNER, answering

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A project's storage and datasets behind a real port."""
    project = Project(tmp_path / ".fourfold", Settings())
    app = build_app(
        [Mounted(name, PROTOCOLS[name], getattr(project, name)) for name in ("storage", "datasets")],
        access=Access(Bearers(OWNER, lambda _: Identity("somebody", Role.viewer, "tok"))),
        about=About("1"),
    )
    with answering(app, tmp_path / "s.sock") as url:
        yield url
    project.close()


@pytest.fixture
def afar(url: str, monkeypatch: pytest.MonkeyPatch) -> Services:
    remote: Services = RemoteProject(url, OWNER)  # type: ignore[assignment]
    monkeypatch.setattr(context, "_opener", lambda: remote)
    return remote


def test_expectations_hold_from_afar(afar: Services, url: str) -> None:
    table = ff.table("t")
    table.append(pa.table({"id": [1, 2]}))
    table.expect(ff.expect.unique("id"), ff.expect.between("id", 0, 9), why="keys")
    with pytest.raises(Refused, match="id is between 0 and 9: not so for 1 of 2 rows"):
        table.append(pa.table({"id": [3, 10]}))
    with pytest.raises(Refused, match="id is unique"):
        table.append(pa.table({"id": [1]}))
    table.append(pa.table({"id": [3]}))
    assert sorted(table.read()["id"].to_pylist()) == [1, 2, 3]
    assert table.expectations().expectations[0] == ff.expect.unique("id")
    newest, *_ = table.rejections()
    assert table.rejected(newest.id)["id"].to_pylist() == [1]
    assert table.check().passed
    assert table.stats().column("id").greatest == 3
    with pytest.raises(Refused, match="did you mean 'id'"):
        table.expect(ff.expect.not_null("ids"))
    viewer: Services = RemoteProject(url, "ff_viewer")  # type: ignore[assignment]
    assert viewer.datasets.statistics("t").rows == 3
    with pytest.raises(Denied):
        viewer.datasets.discard("t", newest.id)
