"""A restore brings back all of a backup or makes no project; what is damaged or strange is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import fresh_postgres
from tests.storage.backups import Dying, back_up, bring_back, content, content_of, fill, opened

from fourfold import wiring
from fourfold.adapters.delta.copies import DeltaCopies
from fourfold.adapters.zip_archive import MANIFEST
from fourfold.core.errors import Corrupted, FourfoldError, NotFound, OutOfSpace, Refused
from fourfold.core.settings import Settings
from fourfold.foundation.storage.restore import MARK, verify

pytestmark = pytest.mark.slow


@pytest.fixture
def project(home: Path) -> Iterator[wiring.Project]:
    with opened(home) as project:
        fill(project)
        yield project


STEPS = ["copies.write", "copies.finish", "blobs.put", "online.write", "mark"]


@pytest.mark.parametrize("step", ["catalog", *(pytest.param(step, marks=pytest.mark.slow) for step in STEPS)])
def test_a_restore_that_is_cut_off_is_no_project_until_it_was_run_again(
    project: wiring.Project, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.adapters.lmdb_online import LmdbOnline
    from fourfold.adapters.local_blobs import LocalBlobs
    from fourfold.catalog import portable

    expected = content(back_up(project, tmp_path / "b"))
    home = tmp_path / "new" / ".fourfold"
    done = 0

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def die_at_second(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal done
            done += 1
            if done == 2:
                die()
            return inner(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        match step:
            case "copies.write" | "copies.finish":
                name = step.partition(".")[2]
                patch.setattr(DeltaCopies, name, die_at_second(getattr(DeltaCopies, name)))
            case "blobs.put":
                patch.setattr(LocalBlobs, "put", die_at_second(LocalBlobs.put))
            case "online.write":
                patch.setattr(LmdbOnline, "write", die)
            case "catalog":
                patch.setattr(portable, "_take_part", die_at_second(portable._take_part))
            case _:
                patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            bring_back(tmp_path / "b", home)
    with pytest.raises(Refused, match="run it again"):
        wiring.Project(home, Settings())
    assert content(bring_back(tmp_path / "b", home)) == expected
    assert not (home / MARK).exists()
    assert content_of(home, tmp_path / "again") == expected


KILLED = """
import os, signal, sys
from fourfold.catalog import portable
inner = portable._take_part
left = [12]
def take_part(*args):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args)
portable._take_part = take_part
from fourfold.cli.main import run
sys.exit(run(["restore", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_a_restore_that_is_killed_in_the_catalog_leaves_it_empty_and_is_run_again(
    project: wiring.Project, tmp_path: Path, kind: str
) -> None:
    expected = content(back_up(project, tmp_path / "b"))
    home = tmp_path / "new" / ".fourfold"
    home.parent.mkdir()
    with fresh_postgres() if kind == "postgresql" else closing_nothing() as url:
        environment = {**os.environ, "FOURFOLD_HOME": str(home), "FOURFOLD_CATALOG": url}
        command = [sys.executable, "-c", KILLED, str(tmp_path / "b")]
        assert subprocess.run(command, env=environment, check=False).returncode == -9
        bring_back(tmp_path / "b", home, catalog=url)
        assert content_of(home, tmp_path / "again", catalog=url) == expected


@contextmanager
def closing_nothing() -> Iterator[str]:
    yield ""


# Damaged, full, strange


def strike(path: Path, *, is_manifest: bool) -> None:
    """Change a byte of a backup's manifest, or of its largest piece; not all bytes of a zip say something."""
    with zipfile.ZipFile(path) as held:
        found = [each for each in held.infolist() if (each.filename == MANIFEST) == is_manifest]
    struck = max(found, key=lambda each: each.compress_size)
    data = bytearray(path.read_bytes())
    data[struck.header_offset + 30 + len(struck.filename) + struck.compress_size // 2] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_manifest_makes_no_project(project: wiring.Project, tmp_path: Path) -> None:
    back_up(project, tmp_path / "one.zip")
    strike(tmp_path / "one.zip", is_manifest=True)
    with pytest.raises(Corrupted, match="says of itself"):
        bring_back(tmp_path / "one.zip", tmp_path / "new" / ".fourfold")
    wiring.Project(tmp_path / "new" / ".fourfold", Settings()).close()


@pytest.mark.parametrize("place", ["b", pytest.param("one.zip", marks=pytest.mark.slow)])
def test_a_damaged_backup_is_found_and_not_used(project: wiring.Project, tmp_path: Path, place: str) -> None:
    backup = back_up(project, tmp_path / place)
    if place == "b":
        file = tmp_path / "b" / "pieces"
        name = backup.tables[0].digest.removeprefix("blake3:")
        file = file / name[:2] / name[2:4] / name
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        strike(tmp_path / place, is_manifest=False)
    with closing(wiring.open_archive(tmp_path / place)) as archive, pytest.raises(FourfoldError) as caught:
        verify(archive)
    assert isinstance(caught.value, Corrupted | NotFound)
    with pytest.raises(FourfoldError):
        bring_back(tmp_path / place, tmp_path / "new" / ".fourfold")
    with pytest.raises(Refused, match="run it again"):
        wiring.Project(tmp_path / "new" / ".fourfold", Settings())


@pytest.mark.slow
def test_a_file_that_was_cut_off_is_no_backup(project: wiring.Project, tmp_path: Path) -> None:
    back_up(project, tmp_path / "one.zip")
    whole = (tmp_path / "one.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupted, match="cut off"):
        wiring.open_archive(tmp_path / "half.zip")


@pytest.mark.slow
def test_an_export_that_fails_leaves_no_file(project: wiring.Project, tmp_path: Path) -> None:
    with closing(wiring.new_archive(tmp_path / "one.zip")) as archive, pytest.raises(KeyboardInterrupt):
        project.backups.write(Dying(archive, 30))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if "zip" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b", "one.zip"])
def test_a_full_disk_is_said_and_earlier_backups_are_whole(
    project: wiring.Project, small_disk: Path, name: str
) -> None:
    small = small_disk / "small"
    back_up(project, small)
    project.storage.put_blob(os.urandom(3 << 20))
    with pytest.raises(OutOfSpace):
        back_up(project, small if name == "b" else small_disk / name)
    with closing(wiring.open_archive(small)) as archive:
        assert archive.manifests() == (1,)
        verify(archive)
    assert [path.name for path in small_disk.iterdir()] == ["small"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "format 99"),
        ({"revision": "0999"}, "newer Fourfold"),
        ({"tables": "x"}, "manifest"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(
    project: wiring.Project, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    back_up(project, tmp_path / "b")
    path = tmp_path / "b" / "000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    home = tmp_path / "new" / ".fourfold"
    with pytest.raises(Refused, match=told):
        bring_back(tmp_path / "b", home)
    with opened(home) as restored:  # nothing was begun
        assert restored.storage.list_tables() == ()


@pytest.mark.parametrize("path", ["../../evil", "/etc/evil", "a/../../evil", "a//b"])
def test_a_path_out_of_the_tables_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refused, match="outside its folder"):
        DeltaCopies(tmp_path).write("flights", path, [b"x"])


@pytest.mark.slow
def test_only_an_empty_project_takes_a_backup(project: wiring.Project, tmp_path: Path) -> None:
    def write(other: wiring.Project) -> None:
        other.storage.append("t", pa.table({"n": [1]}))

    def put(other: wiring.Project) -> None:
        other.storage.put_blob(b"x")

    def note(other: wiring.Project) -> None:
        other.catalog.set_project("a", "b")

    back_up(project, tmp_path / "b")
    for do, told in ((write, "the table 't'"), (put, "the blob"), (note, "catalog_audit")):
        home = tmp_path / told / ".fourfold"
        with opened(home) as other:
            do(other)
        with pytest.raises(Refused, match=f"not empty: .*{told}"):
            bring_back(tmp_path / "b", home)
        with opened(home):
            pass  # it is as it was


@pytest.mark.slow
def test_a_project_that_was_only_looked_at_is_empty(project: wiring.Project, tmp_path: Path) -> None:
    back_up(project, tmp_path / "b")
    with opened(tmp_path / "new" / ".fourfold") as looked_at:
        assert looked_at.storage.list_tables() == ()
        assert looked_at.catalog.project() == {}
    bring_back(tmp_path / "b", tmp_path / "new" / ".fourfold")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a file", "a full folder", "a file.zip"])
def test_something_else_is_never_written_over(project: wiring.Project, tmp_path: Path, what: str) -> None:
    place = tmp_path / what
    if what == "a full folder":
        place.mkdir()
        (place / "holiday.jpg").write_bytes(b"x")
    else:
        place.write_bytes(b"x")
    with pytest.raises(Refused):
        back_up(project, place)


@pytest.mark.slow
def test_a_table_of_many_versions_opens_quickly_once_it_is_back(
    project: wiring.Project, tmp_path: Path
) -> None:
    for number in range(4, 104):
        project.tables.append("flights", pa.table({"n": [number], "name": ["x"]}))
    back_up(project, tmp_path / "b")
    home = tmp_path / "new" / ".fourfold"
    bring_back(tmp_path / "b", home)
    assert list((home / "tables" / "flights" / "_delta_log").glob("*.checkpoint.parquet"))
    with opened(home) as restored:
        assert restored.storage.read("flights", version=50).num_rows == 52
        assert restored.storage.read("flights").num_rows == 103
