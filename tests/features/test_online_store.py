"""The online store port: LMDB and the in-memory fake keep the same promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fourfold.adapters.lmdb_online import LmdbOnline
from fourfold.core.errors import OutOfSpace
from fourfold.core.ports.online import Space
from fourfold.testing.online import MemoryOnline, Records, check_online_store


def test_lmdb_passes_the_kit(tmp_path: Path) -> None:
    check_online_store(lambda: LmdbOnline(tmp_path / "online"))


def test_the_fake_passes_the_kit() -> None:
    records: Records = {}
    check_online_store(lambda: MemoryOnline(records))


WRITE = """
import sys; from pathlib import Path
from fourfold.adapters.lmdb_online import LmdbOnline
from fourfold.core.ports.online import Space
with LmdbOnline(Path(sys.argv[1])).write() as writer:
    writer.put(Space.state, b"from", b"there")
"""


def test_another_process_writes_and_this_one_reads(tmp_path: Path) -> None:
    store = LmdbOnline(tmp_path / "online")
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "online")], check=True, timeout=60)
    with store.read() as reader:
        assert bytes(reader.get(Space.state, b"from") or b"") == b"there"
    store.close()


def test_two_objects_for_one_folder_share_it(tmp_path: Path) -> None:
    one, two = LmdbOnline(tmp_path / "online"), LmdbOnline(tmp_path / "online")
    with one.write() as writer:
        writer.put(Space.meta, b"k", b"v")
    one.close()
    with two.read() as reader:
        assert bytes(reader.get(Space.meta, b"k") or b"") == b"v"
    two.close()


def fill(store: LmdbOnline) -> None:
    with store.write() as writer:
        for i in range(10_000):
            writer.put(Space.state, f"{i}".encode(), b"x" * 1000)


def test_a_full_store_is_refused_and_unharmed(tmp_path: Path) -> None:
    store = LmdbOnline(tmp_path / "online", map_bytes=256 * 1024)
    with store.write() as writer:
        writer.put(Space.state, b"before", b"x")
    with pytest.raises(OutOfSpace, match="nothing was changed"):
        fill(store)
    with store.read() as reader:
        assert bytes(reader.get(Space.state, b"before") or b"") == b"x"
        assert reader.get(Space.state, b"0") is None
    store.close()
