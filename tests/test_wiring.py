"""Where a project is found, what its settings may say, and how its parts are opened."""

from __future__ import annotations

import ast
import stat
from pathlib import Path

import pytest

import fourfold
from fourfold import wiring
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.services import PROTOCOLS

from .conftest import fresh_postgres


def test_the_nearest_folder_with_a_project_is_the_home(tmp_path: Path) -> None:
    (tmp_path / "fourfold.toml").write_text("")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert wiring.find_home({}, deep) == tmp_path / ".fourfold"
    (deep / ".fourfold").mkdir()
    assert wiring.find_home({}, deep) == deep / ".fourfold"
    assert wiring.find_home({"FOURFOLD_HOME": str(tmp_path / "x")}, deep) == tmp_path / "x"


def test_settings_that_are_not_toml_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "fourfold.toml").write_text("catalog = ")
    with pytest.raises(Refused, match=r"fourfold\.toml is not TOML"):
        wiring.read_settings(tmp_path / ".fourfold", {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pools.a]\ndefault = true\n[pools.b]\ndefault = true\n", "only one pool can be the default.*a, b"),
        ('[pools."a/b"]\n', "cannot be the name of a pool"),
        ("[pools.a]\nmost_units = -1\n", "pools.a.most_units' is negative"),
        ("[pools.a]\ndefault = 3\n", "takes true or false"),
        ('[pools.lab]\n[flows]\npool = "lap"\n', "(?s)'flows.pool' names pool 'lap'.*did you mean 'lab'"),
        ('[pools.lab]\n[flows.pools]\n"*/fit" = "gpu"\n', r"'flows.pools.\*/fit' names pool 'gpu'"),
    ],
)
def test_pools_that_make_no_sense_are_refused_in_words(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "fourfold.toml").write_text(text)
    with pytest.raises(Refused, match=told):
        wiring.read_settings(tmp_path / ".fourfold", {})


def test_the_first_pool_is_the_default_unless_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "fourfold.toml").write_text("[pools.a]\n[pools.b]\n")
    assert wiring.read_settings(tmp_path / ".fourfold", {}).default_pool == "a"
    by_environment = {"FOURFOLD_POOLS_B_DEFAULT": "true", "FOURFOLD_FLOWS_POOL": "b"}
    settings = wiring.read_settings(tmp_path / ".fourfold", by_environment)
    assert (settings.default_pool, settings.flows.pool) == ("b", "b")


def test_a_project_is_opened_once_and_only_for_its_owner(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = wiring.open_project()
    try:
        assert wiring.open_services() is project
        assert project.storage is project.storage
        assert (home / ".gitignore").read_text() == "*\n"
        token = home / "token"
        assert project.token in token.read_text()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
    finally:
        project.close()
    assert wiring.open_project() is not project
    wiring.open_project().close()


def test_a_folder_that_cannot_be_made_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOURFOLD_HOME", str(tmp_path / "file" / ".fourfold"))
    with pytest.raises(Refused, match="cannot be used"):
        wiring.open_project()


def test_a_server_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_URL", "http://127.0.0.1:4040")
    monkeypatch.delenv("FOURFOLD_TOKEN", raising=False)
    with pytest.raises(Refused, match="FOURFOLD_TOKEN is not set"):
        wiring.open_services()


def test_embedded_and_remote_offer_every_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = wiring.open_project()
    try:
        for name in PROTOCOLS:
            assert getattr(project, name) is not None
    finally:
        project.close()
    monkeypatch.setenv("FOURFOLD_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FOURFOLD_TOKEN", "ff_x")
    remote = wiring.open_services()
    for name in PROTOCOLS:
        assert getattr(remote, name) is not None


@pytest.mark.service
def test_a_catalog_on_postgresql_is_a_change_of_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_postgres() as url:
        monkeypatch.setenv("FOURFOLD_CATALOG", url.replace("+psycopg", ""))
        project = wiring.open_project()
        try:
            import pyarrow as pa

            project.storage.append("t", pa.table({"x": [1]}))
            project.storage.insert("t", pa.table({"x": [2]}))
            assert [table.name for table in project.storage.list_tables()] == ["t"]
            assert project.storage.read("t")["x"].to_pylist() == [1, 2]
            assert "PostgresBuffer" in repr(project.buffer)
        finally:
            project.close()
    assert not list(home.glob("catalog*.db"))


def test_inserted_rows_wait_beside_the_catalog_and_are_there_when_the_project_is_opened_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    project = wiring.open_project()
    project.storage.append("t", pa.table({"x": [1]}))
    assert not (home / "catalog.buffer.db").exists()  # who inserts nothing has no buffer
    project.storage.insert("t", pa.table({"x": [2]}))
    project.close()
    assert (home / "catalog.buffer.db").exists()
    monkeypatch.setenv("FOURFOLD_BUFFER_FLUSH_ROWS", "77")
    project = wiring.open_project()
    assert project.settings.buffer.flush_rows == 77
    assert project.storage.read("t")["x"].to_pylist() == [1, 2]
    assert project.current_version(Ref("table", "t")) == "1"  # what waits is new to who read version 0
    project.close()


@pytest.mark.parametrize("line", ["flush_rows = 0", "most_bytes = -1", "flush_s = 0.0", "most_row = 1"])
def test_a_bound_of_the_buffer_that_makes_no_sense_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "fourfold.toml").write_text(f"[buffer]\n{line}\n")
    with pytest.raises(Refused, match=r"'buffer\.most_row' is not known|is not above 0"):
        wiring.read_settings(tmp_path / ".fourfold", {})


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(Path(fourfold.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.asname or alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {(name, room.rpartition(".")[0]) for name, room in fourfold._MODULES.items()}
    private = {("Services", "fourfold.core.services")}
    assert modules <= seen
    assert seen - private - modules == {(name, room) for name, room in fourfold._HOMES.items()}
    for name in fourfold.__all__:
        assert getattr(fourfold, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tabel'"):
        _ = fourfold.tabel
