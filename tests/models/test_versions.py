"""A version holds all that it must, or is refused with the list of what it lacks; then it never changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from tests.models import late_flights as project
from tests.models.conftest import Store, fitted

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.environment import Environment
from fourfold.core.errors import NotFound, Refused
from fourfold.core.models import REQUIRED, Artifact, Code, Manifest, ManifestFile, ModelVersion
from fourfold.core.ports.blobs import Digest
from fourfold.foundation.compute.environments import lock_for
from fourfold.mlplatform.models.saving import Saver
from fourfold.mlplatform.models.service import Models


def test_a_version_holds_the_eight_artifacts_and_what_goes_with_them(any_store: Store) -> None:
    with acting_as("ada"):
        version = any_store.save(metrics={"logloss": 0.4})
    manifest = any_store.models.manifest("delays", 1)
    assert {file.artifact for file in manifest.files} == set(REQUIRED)
    assert manifest.missing() == ()
    assert (version.name, version.number, version.by) == ("delays", 1, "ada")
    assert version.metrics == {"auc": 0.7, "logloss": 0.4}
    assert version.tags == {"team": "gates"}
    assert version.size_bytes == sum(file.size_bytes for file in manifest.files)
    paths = {file.path for file in manifest.files}
    assert {
        "card.md",
        "code/files/train.py",
        "data.json",
        "definition.json",
        "environment.json",
        "example.arrow",
        "expected.arrow",
        "experiment.json",
        "lock.txt",
        "parameters/state.json",
        "signature.json",
        "source/tests/models/late_flights.py",
        "source/tests/models/late_rules.py",
        "tags.json",
    } <= paths
    assert b"--hash=" in any_store.models.version_file("delays", 1, path="lock.txt")


@pytest.mark.parametrize(
    ("changes", "missing", "says"),
    [
        ({"featurize": None}, ["functions", "signature", "example"], "featurize= is missing"),
        ({"featurize": lambda table: table}, ["functions"], "featurize is a lambda"),
        ({"predict": max}, ["functions", "signature", "example"], "predict is a builtin_function_or_method"),
        ({"featurize": project.forgets_rows}, ["signature", "example"], "gave 4 answers to 5 rows"),
        (
            {"featurize": project.featurize_with_hidden_import},
            ["signature", "example"],
            "answering it raised ModuleNotFoundError",
        ),
        ({"example": None}, ["signature", "example"], "a few input rows"),
        ({"example": 5}, ["signature", "example"], "example is a int"),
        ({"example": project.flights(0)}, ["signature", "example"], "example has 0 rows"),
        ({"card": "  "}, ["card"], "its limits, its owner"),
        ({"card": "absent.md"}, ["card"], "'absent.md' cannot be read"),
        ({"tags": {}}, ["tags"], "at least one tag"),
        ({"tags": {"rows": 5}}, ["tags"], "tag 'rows' is int"),
        ({"model": open}, ["definition", "parameters"], "no safe format keeps"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, (dict, list)) else None,
)
def test_what_is_missing_is_listed_and_nothing_is_registered(
    store: Store, changes: dict[str, Any], missing: list[str], says: str
) -> None:
    with pytest.raises(Refused) as caught:
        store.save(**changes)
    assert set(missing) <= set(caught.value.facts["missing"])  # type: ignore[call-overload]
    assert says in str(caught.value)
    assert store.models.list_models() == ()


def test_one_refusal_names_all_that_is_missing(store: Store) -> None:
    run = store.recorder(code=Code(), data=())
    with run, pytest.raises(Refused, match="lacks 10 of what a version must hold") as caught:
        run.save(None, name="delays")
    missing = [str(artifact) for artifact in REQUIRED if artifact is not Artifact.dependencies]
    assert caught.value.facts["missing"] == missing
    assert store.models.list_models() == ()


def test_dependencies_without_a_lock_or_without_hashes_are_refused(store: Store) -> None:
    def no_lock(modules: Collection[str]) -> tuple[Environment, str]:
        raise Refused(f"no lock names {min(modules)}")

    def bare(modules: Collection[str]) -> tuple[Environment, str]:
        environment, lock = lock_for(modules)
        packages = tuple(replace(package, hashes=()) for package in environment.packages)
        return replace(environment, packages=packages), lock

    for dependencies, says in ((no_lock, "no lock names msgspec"), (bare, "no hashes for msgspec, numpy")):
        saver = Saver(store.models, put=store.blobs.put, get=store.blobs.get, dependencies=dependencies)
        with store.recorder() as run:
            run.log(auc=0.7)
            run.flush()
            with pytest.raises(Refused, match=says) as caught:
                saver.save(
                    store.models.get_run(run.id),
                    fitted(),
                    name="delays",
                    featurize=project.featurize,
                    predict=None,
                    example=project.flights(5),
                    card="Late flights.",
                    tags={"team": "gates"},
                )
        assert caught.value.facts["missing"] == ["dependencies"]


@pytest.mark.parametrize("name", ["", "../delays", "a/b", "a@b", "x" * 101, "-a"])
def test_a_name_that_leads_elsewhere_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Refused, match="name"):
        store.save(name=name)


# Numbers and repeated calls


def made(store: Store, run: str, *, note: str = "", changes: Callable[..., Any] | None = None) -> Manifest:
    """A whole manifest, its card ending in `note`; `changes` may alter its files."""
    files = []
    for file in store.models.manifest("delays", 1).files:
        data = store.blobs.get(file.blake3)
        if file.path == "card.md":
            data += note.encode()
        files.append(described(store, file.path, file.artifact, data))
    return Manifest(tuple(files if changes is None else changes(files)))


def described(store: Store, path: str, artifact: Any, data: bytes) -> ManifestFile:
    return ManifestFile(path, artifact, len(data), store.blobs.put(data), hashlib.sha256(data).hexdigest())


@pytest.mark.slow
def test_numbers_count_up_and_a_repeated_call_answers_as_the_first(any_store: Store) -> None:
    first = any_store.save()
    second, models = any_store.save(), any_store.models
    assert (first.number, second.number) == (1, 2)
    manifest = made(any_store, first.run, note="again")
    third = models.create_version("delays", manifest=manifest, run=first.run, key="step/1")
    assert third.number == 3
    assert models.create_version("delays", manifest=manifest, run=first.run) == third
    other = made(any_store, first.run, note="another attempt")
    assert models.create_version("delays", manifest=other, run=first.run, key="step/1") == third
    assert [version.number for version in models.list_versions("delays")] == [3, 2, 1]
    assert models.list_models()[0].latest == 3


@pytest.mark.slow
def test_creators_at_once_get_numbers_of_their_own(any_store: Store) -> None:
    first = any_store.save()
    manifests = [made(any_store, first.run, note=str(index)) for index in range(6)]
    found: list[ModelVersion] = []

    def create(manifest: Manifest) -> None:
        found.append(any_store.models.create_version("delays", manifest=manifest, run=first.run))

    threads = [threading.Thread(target=create, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version.number for version in found) == [2, 3, 4, 5, 6, 7]
    assert len({version.digest for version in found}) == 6


@pytest.mark.slow
def test_a_manifest_that_does_not_hold_is_refused(store: Store) -> None:
    run = store.save().run
    wrong: list[tuple[Callable[[list[ManifestFile]], list[ManifestFile]], str]] = [
        (lambda files: files[::-1], "not sorted by path"),
        (lambda files: sorted([*files, files[0]], key=lambda file: file.path), "names a path twice"),
        (lambda files: [moved(files[0], "../x"), *files[1:]], "path"),
        (lambda files: [moved(files[0], "/etc/x"), *files[1:]], "path"),
        (lambda files: [absent(files[0]), *files[1:]], "is not in the store"),
        (lambda files: [grown(files[0]), *files[1:]], "is not in the store as the manifest describes it"),
        (lambda files: files[1:], "lacks 1 of what a version must hold: card"),
    ]
    for changes, says in wrong:
        with pytest.raises(Refused, match=says):
            store.models.create_version("delays", manifest=made(store, run, changes=changes), run=run)
    assert len(store.models.list_versions("delays")) == 1


def moved(file: ManifestFile, path: str) -> ManifestFile:
    return ManifestFile(path, file.artifact, file.size_bytes, file.blake3, file.sha256)


def absent(file: ManifestFile) -> ManifestFile:
    unknown = Digest("blake3:" + "0" * 64)
    return ManifestFile(file.path, file.artifact, file.size_bytes, unknown, file.sha256)


def grown(file: ManifestFile) -> ManifestFile:
    return ManifestFile(file.path, file.artifact, file.size_bytes + 1, file.blake3, file.sha256)


# What is known of a version


def test_a_version_leads_back_to_its_run_and_its_data(any_store: Store, catalog: Catalog) -> None:
    version = any_store.save()
    service = CatalogService(catalog, any_store.clock)
    graph = service.lineage("model", "delays", version="1")
    assert set(graph.nodes) == {version.ref, Ref("run", version.run), Ref("table", "flights", "3")}
    assert [(entry.action, entry.ref) for entry in service.audit(kind="model")] == [
        ("model.create", version.ref)
    ]


def test_later_tags_stand_beside_the_manifest(any_store: Store) -> None:
    before = any_store.save()
    after = any_store.models.tag_version("delays", 1, tags={"team": "growth", "checked": "yes"})
    assert after.tags == {"team": "growth", "checked": "yes"}
    assert after.digest == before.digest
    assert any_store.models.version_file("delays", 1, path="tags.json") == b'{"team":"gates"}'


@pytest.mark.slow
def test_references_mean_what_they_say(any_store: Store) -> None:
    any_store.save()
    any_store.save()
    models = any_store.models
    models.promote("delays", "candidate", number=1, why="first")
    assert [models.resolve(ref).number for ref in ("delays", "delays/1", "delays@candidate")] == [2, 1, 1]
    with pytest.raises(NotFound, match="did you mean 'delays'"):
        models.resolve("delay")
    with pytest.raises(NotFound, match="versions run from 1 to 2"):
        models.resolve("delays/7")
    with pytest.raises(NotFound, match="did you mean 'candidate'"):
        models.resolve("delays@candidat")
    with pytest.raises(Refused, match="does not name a model"):
        models.resolve("delays/1/2")
    with pytest.raises(NotFound, match="has no file 'weights'"):
        models.version_file("delays", 1, path="weights")


def test_an_incomplete_version_is_kept_only_when_asked_and_says_what_it_lacks(any_store: Store) -> None:
    run = any_store.save().run
    manifest = made(any_store, run, changes=lambda files: files[1:])
    version: ModelVersion = any_store.models.create_version(
        "delays", manifest=manifest, run=run, allow_incomplete=True
    )
    assert [str(artifact) for artifact in version.missing] == ["card"]
    assert any_store.models.resolve("delays/2").missing == version.missing


@pytest.mark.slow
def test_a_model_is_saved_from_a_data_frame_and_from_rows(store: Store) -> None:
    rows = project.flights(5)
    for example in (rows.to_pandas(), rows.to_pylist(), rows.to_batches()[0]):
        store.save(example=example)
    assert len(store.models.list_versions("delays")) == 3
    with pytest.raises(Refused, match="two columns of one name"):
        store.save(example=pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]))


def test_the_store_is_the_service_that_was_promised() -> None:
    from fourfold.core.services.models import Models as Promised

    promised = {name for name in vars(Promised) if not name.startswith("_")}
    assert promised <= set(vars(Models))


def test_a_fitted_model_is_not_changed_by_saving(store: Store) -> None:
    model = fitted()
    before = (model.limit, model.weights.tolist())
    store.save(model)
    assert (model.limit, model.weights.tolist()) == before
