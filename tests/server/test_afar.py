"""Runs and models from afar: what a project keeps is the same, and what runs is the client's process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from tests.models import late_flights as flights

import fourfold as ff
from fourfold.core import context
from fourfold.core.catalog import Identity
from fourfold.core.errors import Corrupted, Denied, Refused, Unauthenticated
from fourfold.core.routes import Role, routes
from fourfold.core.services import PROTOCOLS, Services
from fourfold.core.settings import Settings
from fourfold.foundation.compute.environments import identify_lock
from fourfold.server.app import Access, Bounds, Mounted, build_app
from fourfold.server.identity import Bearers
from fourfold.server.pages import About
from fourfold.wiring import Project, RemoteProject

from .conftest import OWNER, TOKENS, answering

pytestmark = pytest.mark.slow

BODY_BYTES = 100_000
SERVED = ("catalog", "storage", "files", "compute", "models")
PAGE = Path(__file__).parents[2] / "docs" / "internals" / "server.md"


class OnTheWay:
    """A service whose answers may be changed before they are sent."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self.changes: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)
        return lambda *args, **kwargs: self.changes.get(name, lambda answer: answer)(method(*args, **kwargs))


@dataclass
class Afar:
    """A project behind a server, and the addresses of its client."""

    project: Project
    url: str
    storage: OnTheWay
    models: OnTheWay

    def services(self, token: str = OWNER) -> Services:
        return cast(Services, RemoteProject(self.url, token))


def _identity(secret: str) -> Identity:
    for role in Role:
        if secret == TOKENS[role.name]:
            return Identity(f"a-{role.name}", role, f"tok_{role.name}")
    raise Unauthenticated("the token is not one of this project's")


@pytest.fixture
def afar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Afar]:
    """A project's services behind a real port; this process stands in an empty folder, as its client."""
    project = Project(tmp_path / "project" / ".fourfold", Settings())
    client = tmp_path / "client"
    client.mkdir()
    monkeypatch.chdir(client)
    monkeypatch.delenv("FOURFOLD_HOME", raising=False)
    storage, models = OnTheWay(project.storage), OnTheWay(project.models)
    changed = {"storage": storage, "models": models}
    app = build_app(
        [Mounted(name, PROTOCOLS[name], changed.get(name) or getattr(project, name)) for name in SERVED],
        access=Access(Bearers(OWNER, _identity)),
        about=About("1"),
        bounds=Bounds(body_bytes=BODY_BYTES),
    )
    with answering(app, tmp_path / "s.sock") as url:
        made = Afar(project, url, storage, models)
        remote = made.services()
        monkeypatch.setattr(context, "_opener", lambda: remote)
        yield made
        assert list(client.iterdir()) == [], "a client of a server needs no folder"
    project.close()


def saved(**changes: Any) -> ff.ModelVersion:
    rows = flights.flights()
    learned = ff.table("flights").append(rows)
    given: dict[str, Any] = {
        "name": "delays",
        "featurize": flights.featurize,
        "predict": flights.predict,
        "example": rows.slice(0, 5),
        "card": "Late? Owner: ada.",
        "tags": {"team": "gates"},
    }
    with ff.run("train", params={"depth": 3}, tags={"why": "test"}, data=[learned], seed=7) as run:
        run.log(auc=0.5, step=1)
        run.log(auc=0.7, step=2)
        run.log_file(b"a plot", "plots/roc.txt")
        run.log_file(__file__)
        return run.save(fitted(), **{**given, **changes})


def fitted() -> flights.Threshold:
    rows = flights.flights()
    return flights.Threshold().fit(flights.featurize(rows), flights.late(rows))


def test_a_run_from_afar_is_kept_as_one_beside_the_project(afar: Afar) -> None:
    version = saved()
    models = afar.project.models
    run = models.get_run(version.run)
    assert (run.metrics, run.params, run.seed) == ({"auc": 0.7}, {"depth": 3}, 7)
    assert [point.value for point in models.metric_history(run.id, key="auc")] == [0.5, 0.7]
    assert models.get_file(run.id, path=Path(__file__).name) == Path(__file__).read_bytes()
    assert run.data == (context.Ref("table", "flights", "0"),)
    assert (run.host.pid, run.code.is_captured) == (os.getpid(), True)
    assert version.missing == ()
    assert models.load("delays").predict(flights.flights(3)).num_rows == 3  # beside the project too


def test_the_environment_of_a_run_is_the_clients_and_can_be_built_again(afar: Afar) -> None:
    lock = "numpy==2.4.6 --hash=sha256:" + "a" * 64 + "\n"
    file = Path("requirements.lock")
    file.write_text(lock)
    with ff.run("train") as run:
        pass
    file.unlink()
    kept = afar.project.compute.environment(afar.project.models.get_run(run.id).environment)
    assert (kept.identity, kept.lock) == (identify_lock(lock).identity, lock)
    assert kept.origin == "requirements"


def test_a_model_is_loaded_in_the_clients_process_and_answers_as_it_did(afar: Afar) -> None:
    saved()
    rows = flights.flights(20)
    loaded = ff.model("delays").load()
    assert loaded.predict(rows).equals(pa.table(flights.predict(fitted(), flights.featurize(rows))))
    folder = afar.services().models.materialize(loaded.version, afar.project.home / "out")
    assert (folder / "card.md").read_text() == "Late? Owner: ada."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "method", "change", "said"),
    [
        ("storage", "get_blob", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was changed after"),
        ("storage", "get_blob", lambda data: data[:-1], "cut short"),
        ("models", "manifest", lambda found: type(found)(found.files[1:]), "not the one that was stored"),
    ],
)
def test_what_was_changed_on_the_way_is_refused_before_any_of_it_runs(
    afar: Afar, where: str, method: str, change: Any, said: str
) -> None:
    saved()
    getattr(afar, where).changes[method] = change
    with pytest.raises(Corrupted, match=said):
        ff.model("delays").load()


@pytest.mark.slow
def test_what_was_changed_in_the_store_is_refused_and_named(afar: Afar) -> None:
    version = saved()
    source = next(file for file in ff.model("delays").manifest.files if file.path.startswith("source/"))
    blob = next((afar.project.home / "blobs").glob(f"??/??/{source.blake3.removeprefix('blake3:')}"))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes() + b"\nimport this\n")
    with pytest.raises(Corrupted, match=f"file '{source.path}' cannot be had"):
        ff.model(str(version)).load()


def test_the_clients_policy_says_what_it_loads(afar: Afar) -> None:
    saved(format="cloudpickle")
    with pytest.raises(Denied, match="this reader does not allow that"):
        ff.model("delays").load()


@pytest.mark.slow
def test_a_file_larger_than_a_body_is_sent_in_pieces(afar: Afar, tmp_path: Path) -> None:
    storage = afar.services().storage
    for size in (0, 1, BODY_BYTES + 1, 17 * 2**20):
        (tmp_path / "file").write_bytes(os.urandom(size))
        digest = storage.put_file(tmp_path / "file")
        assert afar.project.storage.put_file(tmp_path / "file") == digest
        assert storage.get_blob(digest) == (tmp_path / "file").read_bytes()
    with pytest.raises(ff.FourfoldError, match="is not a file"):
        storage.put_file(tmp_path)


def test_a_viewer_reads_models_and_writes_nothing(afar: Afar, monkeypatch: pytest.MonkeyPatch) -> None:
    version = saved()
    before = afar.project.models.search_runs(), afar.project.compute.environments()
    viewer = afar.services(TOKENS["viewer"])
    monkeypatch.setattr(context, "_opener", lambda: viewer)
    assert ff.model("delays").load().predict(flights.flights(3)).num_rows == 3
    for write in (
        lambda: ff.run("mine"),
        lambda: viewer.storage.put_file(Path(__file__)),
        lambda: viewer.models.tag_version("delays", 1, tags={"a": "b"}),
        lambda: ff.model("delays").promote(version, "champion", why="mine"),
        lambda: viewer.compute.remember_environment("env-1", python="", platform="", lock="", origin=""),
    ):
        with pytest.raises(Denied, match="has the role viewer here"):
            write()
    assert (afar.project.models.search_runs(), afar.project.compute.environments()) == before


def answers(service: object, method: str) -> bool:
    try:
        getattr(service, method)
    except Refused as error:
        return "works only beside the project" not in str(error)
    return True


def test_what_works_only_beside_the_project_says_so_and_is_written_down() -> None:
    services = RemoteProject("http://127.0.0.1:9", OWNER)
    page = PAGE.read_text()
    refused = set()
    for name, protocol in PROTOCOLS.items():
        routed = {route.method for route in routes(name, protocol)}
        for method in set(vars(protocol)) - routed:
            if not method.startswith("_") and not answers(getattr(services, name), method):
                refused.add(f"{name}.{method}")
    assert {each for each in refused if f"`{each}`" not in page} == set()
    assert refused == {
        "compute.record",
        "compute.python_for",
        "compute.advise_flow",
        "features.plan",
        "catalog.verify_token",
        "catalog.record_edges",
        "catalog.record_query",
        "catalog.record",
    }
