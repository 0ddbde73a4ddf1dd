"""Loading: verified bytes, the reader's policy, and the stored example answered as it was."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from tests.models import late_flights as project
from tests.models.conftest import Store, fitted, replay_here

from fourfold.core.errors import Corrupted, Denied, NotFound, Refused
from fourfold.core.models import LoadPolicy, Manifest, ManifestFile
from fourfold.mlplatform.models.loading import EXPECTED, load_folder, table_bytes, table_from
from fourfold.mlplatform.models.replay import replay_apart
from fourfold.mlplatform.models.service import Models

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog

ROWS = project.flights(40, seed=2)


def test_a_loaded_model_answers_as_the_saved_one(store: Store) -> None:
    model = fitted()
    store.save(model)
    loaded = store.models.load("delays")
    assert loaded.replay.matched
    assert loaded.replay.row_count == 5
    expected = model.predict(project.featurize(ROWS))
    answers = loaded.predict(ROWS)
    assert answers["score"].to_numpy().tolist() == expected.tolist()
    assert answers["late"].to_pylist() == (expected > 0.5).tolist()
    assert [column.name for column in loaded.signature.inputs] == ["distance", "departs", "carrier"]


@pytest.mark.slow
def test_scikit_learn_is_saved_as_skops_and_answers_by_default(store: Store) -> None:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(project.featurize(ROWS), project.late(ROWS))
    store.save(model, predict=None, featurize=project.featurize_as_table)
    loaded = store.models.load("delays")
    assert loaded.definition.format == "skops"
    features = np.column_stack([column.to_numpy() for column in project.featurize_as_table(ROWS).columns])
    answers = loaded.predict(ROWS)
    assert answers["prediction"].to_pylist() == model.predict(features).tolist()
    assert np.allclose(answers["probability"].to_numpy(), model.predict_proba(features)[:, 1])


@pytest.mark.slow
def test_a_version_loads_where_the_project_is_not(store: Store) -> None:
    folder = store.models.materialize(store.save(), store.folder / "out" / "delays-1")
    outcome = replay_apart(folder, LoadPolicy())
    assert (outcome.matched, outcome.reason, outcome.row_count) == (True, "", 5)


def test_rows_that_do_not_fit_are_refused_by_column(store: Store) -> None:
    store.save()
    loaded = store.models.load("delays")
    with pytest.raises(Refused, match="needs column departs"):
        loaded.predict(ROWS.drop_columns(["departs"]))
    with pytest.raises(Refused, match="column 'departs' is string, and model delays/1 takes int64"):
        loaded.predict(ROWS.set_column(1, "departs", pa.array(["noon"] * len(ROWS))))
    extra = ROWS.append_column("more", ROWS["departs"])
    assert loaded.predict(extra.select(extra.column_names[::-1])).equals(loaded.predict(ROWS))


def test_two_versions_of_one_module_live_in_one_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # both texts have one length and one second
    (tmp_path / "pyproject.toml").touch()
    for shift in (1, 2):
        (tmp_path / "shifting.py").write_text(
            f"def featurize(table):\n    return table['distance'].to_numpy() + {shift}\n"
            "\ndef predict(model, features):\n    return {'shifted': features}\n"
        )
        sys.modules.pop("shifting", None)
        import shifting  # type: ignore[import-not-found]

        store.save(featurize=shifting.featurize, predict=shifting.predict)
    sys.modules.pop("shifting")
    (tmp_path / "shifting.py").unlink()
    first, second = store.models.load("delays/1"), store.models.load("delays/2")
    distance = ROWS["distance"].to_numpy()
    assert first.predict(ROWS)["shifted"].to_pylist() == (distance + 1).tolist()
    assert second.predict(ROWS)["shifted"].to_pylist() == (distance + 2).tolist()
    assert "shifting" not in sys.modules


# A changed answer


def with_other_answers(store: Store) -> None:
    """Version 2: as version 1, but its stored answers are not what the model says."""
    manifest, run = store.models.manifest("delays", 1), store.models.resolve("delays/1").run
    files = []
    for file in manifest.files:
        if file.path == EXPECTED:
            answers = table_from({EXPECTED: store.blobs.get(file.blake3)}, EXPECTED)
            scores = answers["score"].to_pylist()
            changed = answers.set_column(1, "score", pa.array([*scores[:-1], scores[-1] + 0.5]))
            data = table_bytes(changed)
            digest = hashlib.sha256(data).hexdigest()
            files.append(ManifestFile(file.path, file.artifact, len(data), store.blobs.put(data), digest))
        else:
            files.append(file)
    store.models.create_version("delays", manifest=Manifest(tuple(files)), run=run)


def test_a_changed_answer_refuses_to_load_and_says_which(store: Store) -> None:
    store.save()
    with_other_answers(store)
    with pytest.raises(Refused, match="does not answer its stored example as it did") as caught:
        store.models.load("delays/2")
    assert "score[4] is" in str(caught.value)
    assert "load it in its own environment" in str(caught.value)
    with pytest.raises(Refused, match=r"replay: .*score\[4\] is"):
        store.models.promote("delays", "champion", number=2, why="x")


def test_a_reader_may_choose_not_to_replay(store: Store, sqlite_catalog: Catalog) -> None:
    store.save()
    with_other_answers(store)
    models = Models(sqlite_catalog, store.blobs, store.clock, policy=LoadPolicy(replay=False))
    loaded = models.load("delays/2")
    assert loaded.predict(ROWS).num_rows == len(ROWS)
    assert "not run" in loaded.replay.reason


# The reader's policy


def test_a_pickle_is_kept_when_named_and_loads_only_for_those_who_allow_it(
    store: Store, sqlite_catalog: Catalog
) -> None:
    version = store.save(format="cloudpickle")
    with pytest.raises(Denied, match="can run code hidden in the file") as caught:
        store.models.load("delays")
    assert "LoadPolicy(allow_unsafe=True)" in str(caught.value)
    folder = store.models.materialize(version, store.folder / "out")
    with pytest.raises(Denied, match="this reader does not allow that"):
        load_folder(folder)
    with pytest.raises(Refused, match="this reader does not allow that"):
        store.models.promote("delays", "champion", number=1, why="x")
    willing = Models(sqlite_catalog, store.blobs, store.clock, policy=LoadPolicy(allow_unsafe=True))
    assert willing.load("delays").replay.matched


@pytest.mark.slow
def test_a_format_that_the_reader_does_not_name_is_denied(store: Store) -> None:
    folder = store.models.materialize(store.save(), store.folder / "out")
    only_skops = LoadPolicy(formats={"skops": LoadPolicy().formats["skops"]})
    with pytest.raises(Denied, match="format 'python' is not among those"):
        load_folder(folder, policy=only_skops)


@pytest.mark.slow
def test_an_incomplete_version_loads_only_for_those_who_allow_it(
    store: Store, sqlite_catalog: Catalog
) -> None:
    run = store.save().run
    whole = store.models.manifest("delays", 1)
    part = Manifest(tuple(file for file in whole.files if file.path != "card.md"))
    store.models.create_version("delays", manifest=part, run=run, allow_incomplete=True)
    with pytest.raises(Denied, match="incomplete: it lacks card"):
        store.models.load("delays/2")
    willing = Models(sqlite_catalog, store.blobs, store.clock, policy=LoadPolicy(allow_incomplete=True))
    assert willing.load("delays/2").replay.matched


# Bytes that are not what was stored


@pytest.mark.slow
@pytest.mark.parametrize("path", ["parameters/state.json", "source/tests/models/late_flights.py", "lock.txt"])
def test_a_blob_with_wrong_bytes_is_not_used(store: Store, path: str) -> None:
    store.save()
    digest = next(file.blake3 for file in store.models.manifest("delays", 1).files if file.path == path)
    (blob,) = (store.folder / "blobs").glob(f"??/??/{digest.removeprefix('blake3:')}")
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(Corrupted, match=path):
        store.models.load("delays")


def add(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "source" / "sitecustomize.py").write_text("raise SystemExit")


def change(folder: Path) -> None:
    path = folder / "parameters" / "state.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))


def cut(folder: Path) -> None:
    os.truncate(folder / "expected.arrow", 10)


def link(folder: Path) -> None:
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/hostname")


def swap_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"card.md", b"kard.md"))


def remove(folder: Path) -> None:
    (folder / "card.md").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (add, "is not part of the version"),
        (change, "'parameters/state.json' of delays/1 was changed"),
        (cut, "'expected.arrow' of delays/1 was cut short"),
        (link, "'card.md'"),
        (swap_manifest, "is not the one that was stored"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_folder_that_was_tampered_with_is_not_used(
    store: Store, harm: Callable[[Path], None], says: str
) -> None:
    folder = store.models.materialize(store.save(), store.folder / "out")
    assert load_folder(folder).replay.matched
    harm(folder)
    with pytest.raises(Corrupted, match=says):
        load_folder(folder)
    assert not replay_here(folder).matched


@pytest.mark.slow
def test_a_folder_is_checked_against_the_digest_that_was_asked_for(store: Store) -> None:
    first, second = store.save(), store.save(card="Another card.")
    folder = store.models.materialize(first, store.folder / "out")
    load_folder(folder, digest=first.digest)
    with pytest.raises(Corrupted, match="not the version that was asked for"):
        load_folder(folder, digest=second.digest)
    with pytest.raises(NotFound, match="is not the folder of a model version"):
        load_folder(store.folder / "absent")


def test_a_file_that_is_gone_is_said_by_name(store: Store) -> None:
    folder = store.models.materialize(store.save(), store.folder / "out")
    remove(folder)
    with pytest.raises(NotFound, match=r"card\.md"):
        load_folder(folder)


@pytest.mark.slow
def test_materializing_is_all_or_nothing(store: Store) -> None:
    version = store.save()
    manifest: Any = store.models.manifest("delays", 1)
    store.blobs.delete(manifest.files[-1].blake3)
    with pytest.raises(Corrupted, match="cannot be had from the store"):
        store.models.materialize(version, store.folder / "out")
    assert not (store.folder / "out").exists()
    assert list(store.folder.glob(".out*")) == []
