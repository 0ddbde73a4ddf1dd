"""What a killed writer, a power cut and writers at once leave behind in a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tests.storage.conftest import numbers, rows

from fourfold.adapters import local_blobs
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog.database import Catalog
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Mark
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import START, MovableClock

WRITER = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.disk import Disk
from fourfold.adapters.delta.local import LocalPlace
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog.database import Catalog
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.tables import TableRecords
from fourfold.testing.clock import MovableClock

home, point = Path(sys.argv[1]), sys.argv[2]
storage = Storage(
    Catalog.open(f"sqlite:///{home}/catalog.db"),
    LocalBlobs(home / "blobs"),
    DeltaTables(LocalPlace(home / "tables", disk := Disk())),
    MovableClock(),
)
storage.append("t", pa.table({"n": [1]}))

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def link_and_die(path, name):
    os.link(path, name)
    die()

match point:
    case "before the commit":
        disk.link = die
    case "before it is synced":
        disk.link = link_and_die
    case "before the catalog":
        TableRecords.add = die
for n in range(2, 12):
    storage.append("t", pa.table({"n": [n]}))
"""


def write(home: Path, point: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(home), point], env=os.environ)


def opened(home: Path) -> Storage:
    return Storage(
        Catalog.open(f"sqlite:///{home}/catalog.db"),
        LocalBlobs(home / "blobs"),
        DeltaTables(home / "tables"),
        MovableClock(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "kept"),
    [("before the commit", [1]), ("before it is synced", [1, 2]), ("before the catalog", [1, 2])],
)
def test_a_writer_killed_in_mid_append_leaves_all_of_it_or_nothing(
    tmp_path: Path, point: str, kept: list[int]
) -> None:
    assert write(tmp_path, point).wait(timeout=60) == -9
    storage = opened(tmp_path)
    assert numbers(storage) == kept
    assert len(storage.history("t")) == len(kept)
    assert storage.append("t", pa.table({"n": [7]})).version == len(kept)
    assert numbers(storage) == [*kept, 7]
    assert [version.rows for version in storage.history("t")] == list(range(len(kept) + 1, 0, -1))


@pytest.mark.slow
def test_processes_that_append_at_once_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    writers = [write(tmp_path, "never") for _ in range(2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    storage = opened(tmp_path)
    assert numbers(storage) == sorted([*range(1, 12)] * 2)
    history = storage.history("t")
    assert [version.version for version in history] == list(range(21, -1, -1))
    assert [version.rows for version in history] == list(range(22, 0, -1))


def test_a_blob_that_was_there_is_acknowledged_once_its_names_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_blobs, "_sync_folder", killed)
    with pytest.raises(KeyboardInterrupt):  # renamed into place, and no folder synced
        LocalBlobs(tmp_path).put(b"bytes")
    monkeypatch.setattr(local_blobs, "_sync_folder", synced.add)
    digest = LocalBlobs(tmp_path).put(b"bytes").partition(":")[2]
    assert synced == {tmp_path, tmp_path / digest[:2], tmp_path / digest[:2] / digest[2:4]}


def test_a_log_entry_torn_by_a_power_cut_is_put_aside(tmp_path: Path) -> None:
    DeltaTables(tmp_path).append("t", rows(1))
    log = tmp_path / "t" / "_delta_log"
    whole = (log / f"{0:020d}.json").read_bytes()
    (log / f"{1:020d}.json").write_bytes(whole[: len(whole) // 2])
    store = DeltaTables(tmp_path)
    assert store.snapshot("t").version == 0
    assert store.append("t", rows(2)).version == 1
    assert store.snapshot("t").rows == 2
    assert len(list(log.glob("*.torn"))) == 1


def test_a_checkpoint_torn_by_a_power_cut_is_put_aside(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    for number in range(3):
        store.append("t", rows(number))
    log = tmp_path / "t" / "_delta_log"
    (log / f"{2:020d}.checkpoint.parquet").write_bytes(b"PAR1 half of it")
    (log / "_last_checkpoint").write_text(json.dumps({"version": 2, "size": 5}))
    again = DeltaTables(tmp_path)
    assert again.snapshot("t").rows == 3
    assert again.append("t", rows(9)).version == 3


@pytest.mark.slow
def test_a_table_of_many_versions_is_opened_by_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourfold.adapters.delta.transaction.CHECKPOINT_EVERY", 5)
    store = DeltaTables(tmp_path)
    for number in range(12):
        store.append("t", rows(number), mark=Mark(key=f"k{number}"))
    checkpoints = sorted((tmp_path / "t" / "_delta_log").glob("*.checkpoint.parquet"))
    assert [int(path.name[:20]) for path in checkpoints] == [5, 10]
    again = DeltaTables(tmp_path)
    assert again.append("t", rows(0), mark=Mark(key="k0")).version == 0  # keys outlive the checkpoint
    assert [commit.version for commit in again.history("t")] == list(range(11, -1, -1))
    assert again.snapshot("t", version=3).rows == 4


def test_a_file_that_another_program_wrote_is_read_whole(tmp_path: Path) -> None:
    """Its ranges leave out NaN and cut times to the millisecond; nothing may be skipped for that."""
    from deltalake import write_deltalake

    store = DeltaTables(tmp_path)
    at = pa.array([1_000_001, 2_000_999], pa.timestamp("us", "UTC"))
    data = pa.table({"x": [1.5, float("nan")], "word": ["a" * 100, "b"], "at": at})
    store.append("t", data.slice(0, 0))
    write_deltalake(str(tmp_path / "t"), data, mode="append")
    table = store.scan("t", version=1, where=(("at", ">", 2_000_500),)).read_all()
    assert table["word"].to_pylist() == ["b"]
    assert store.scan("t", version=1, where=(("word", ">=", "a" * 100),)).read_all().num_rows == 2
    assert store.history("t")[0].rows == 2
    assert store.append("t", data).rows == 4


def test_what_only_other_programs_can_read_is_refused(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", rows(1))
    first = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            line["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
    first.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(Refused, match="deletionVectors"):
        DeltaTables(tmp_path).scan("t", version=0).read_all()


def test_a_branch_that_was_never_begun_leaves_its_folder_to_the_next_vacuum(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", rows(1))
    store.fork("t", "dev", version=0)
    unbegun = tmp_path / "t" / "_branches" / "lost" / "_delta_log"
    unbegun.mkdir(parents=True)
    (unbegun / ".turn").touch()
    store.vacuum("t", keep=(), before=START, dry_run=True)
    assert unbegun.exists()
    store.vacuum("t", keep=(), before=START)
    assert [path.name for path in (tmp_path / "t" / "_branches").iterdir()] == ["dev"]
    assert store.branches("t") == ("dev",)
