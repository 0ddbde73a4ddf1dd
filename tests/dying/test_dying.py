"""Nothing acknowledged is lost, and nothing is left half done, whatever step a process dies at or a disk is
full from: every write path above the stores. `FOURFOLD_DYING=all` tries every step, else some of each path.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.dying import kernel, world
from tests.dying.cutting import ALL, ROOMS, Cutting, Server, cases
from tests.dying.kernel import Fate

from fourfold.core.services.datasets import Datasets
from fourfold.core.services.files import Files
from fourfold.core.services.storage import Storage
from fourfold.core.services.upkeep import Upkeep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not kernel.CAN_WATCH, reason="system calls are watched on Linux on x86-64 only"),
]

CASES = {name: case for room in ROOMS for name, case in cases(room).items()}

CHANGES_NOTHING = {
    *("storage.read", "storage.scan", "storage.changes", "storage.history", "storage.describe"),
    *("storage.list_tables", "storage.branches", "storage.forgotten", "storage.table_grants"),
    *("storage.get_blob", "files.describe", "files.history", "files.list_files", "files.renew"),
    *("files.renew_pieces", "files.pieces", "files.read", "files.manifest"),
    *("datasets.expectations", "datasets.check", "datasets.checks", "datasets.rejections"),
    *("datasets.rejected_rows", "datasets.list_datasets", "datasets.dataset", "datasets.released"),
    *("datasets.releases", "datasets.diff_releases", "datasets.check_dataset"),
    *("upkeep.check", "upkeep.missing", "upkeep.quarantine"),
}
"""Methods that only read; what they fill in on their way others have cut."""
AS_ANOTHER = {"storage.forget_again": "storage.forget"}
"""Methods that do what another one here does."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base") / "world"
    world.begin(place)
    return place


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


@pytest.mark.parametrize("name", CASES)
def test_what_dies_or_has_no_room_at_any_step_is_done_whole_or_not_at_all(
    server: Server, base: Path, tmp_path: Path, name: str
) -> None:
    cutting = Cutting(server, base, tmp_path, name, CASES[name])
    for index, at in enumerate(cutting.samples()):
        for fate in (Fate.dies, Fate.full) if ALL else ((Fate.dies, Fate.full)[index % 2],):
            step = cutting.undisturbed.steps[at]
            try:
                cutting.check(fate, at)
            except BaseException as error:
                error.add_note(f"{name}, {fate} at step {at}: {step}")
                raise


def test_every_method_that_writes_is_cut() -> None:
    services = {"storage": Storage, "files": Files, "datasets": Datasets, "upkeep": Upkeep}
    there = {
        f"{name}.{each}"
        for name, service in services.items()
        for each, _ in inspect.getmembers(service, inspect.isfunction)
        if each[0] != "_"
    }
    cut = {method for case in CASES.values() for method in case.covers}
    assert there - cut - CHANGES_NOTHING - set(AS_ANOTHER) == set(), "add a case for these"
    assert (CHANGES_NOTHING | set(AS_ANOTHER)) - there == set(), "these are no more"
    assert set(AS_ANOTHER.values()) <= cut
