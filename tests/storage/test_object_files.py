"""An object store as Arrow sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from tests.s3 import Proxy, fresh_bucket

from fourfold.adapters.object_store import ObstoreObjects, filesystem
from fourfold.core.errors import Unavailable
from fourfold.core.objects import Key, ObjectAddress
from fourfold.core.ports.objects import ObjectStore
from fourfold.testing.objects import LONG, MemoryObjects
from fourfold.testing.raising import raising

ROWS = pa.table({"n": list(range(1000)), "s": [f"row {n}" for n in range(1000)]})


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjects()
    return ObstoreObjects(ObjectAddress.parse(request.getfixturevalue("s3")))


def test_parquet_files_are_written_and_read_where_they_lie(objects: ObjectStore) -> None:
    files = filesystem(objects)
    for number in range(3):
        with files.open_output_stream(f"t/{number}.parquet") as sink:
            pq.write_table(ROWS, sink, row_group_size=100)
            assert sink.tell() > 0
    read = ds.dataset("t", filesystem=files).to_table(columns=["s"], filter=ds.field("n") >= 990)
    assert sorted(read["s"].to_pylist()) == sorted([f"row {n}" for n in range(990, 1000)] * 3)


def test_a_long_file_is_sent_as_it_grows_and_read_in_parts(objects: ObjectStore) -> None:
    files = filesystem(objects)
    with files.open_output_stream("long") as sink:
        for at in range(0, len(LONG), 1_000_000):
            sink.write(LONG[at : at + 1_000_000])
        assert objects.stat(Key("long")) is None
    with files.open_input_file("long") as source:
        assert source.size() == len(LONG)
        assert source.read_at(17_000_000, 100) == LONG[100:17_000_100]
        assert source.read_at(100, len(LONG) - 50) == LONG[-50:]
        source.seek(len(LONG) - 70_000)
        assert source.read() == LONG[-70_000:]


def test_what_there_is_can_be_asked(objects: ObjectStore) -> None:
    files = filesystem(objects)
    for key in ("a/b/one", "a/two"):
        objects.put(Key(key), b"123")
    kinds = [info.type for info in files.get_file_info(["a/two", "a", "a/three"])]
    assert kinds == [pafs.FileType.File, pafs.FileType.Directory, pafs.FileType.NotFound]
    assert files.get_file_info("a/two").size == 3
    found = files.get_file_info(pafs.FileSelector("a"))
    assert sorted((info.path, info.type.name) for info in found) == [("a/b", "Directory"), ("a/two", "File")]
    assert len(files.get_file_info(pafs.FileSelector("a", recursive=True))) == 2
    with pytest.raises(FileNotFoundError):
        files.open_input_file("a/three")
    files.delete_file("a/two")
    files.delete_dir("a/b")
    assert list(objects.listing("")) == []


def test_a_sender_that_fails_stops_the_writer() -> None:
    class Failing(MemoryObjects):
        def put(self, key: Key, data: bytes | Iterable[bytes], **_: Any) -> None:
            next(iter(data))
            raise Unavailable("gone")

    with raising(Unavailable, naming="gone"), filesystem(Failing()).open_output_stream("k") as sink:
        for _ in range(20):
            sink.write(LONG)


@pytest.mark.slow
def test_a_store_that_vanishes_while_a_file_is_written_has_no_file(
    moto: str, aws: pytest.MonkeyPatch
) -> None:
    bucket = fresh_bucket(moto)
    with Proxy(moto) as proxy:
        address = f"s3://{bucket}?endpoint={proxy.endpoint}&patience_s=1"
        files = filesystem(ObstoreObjects(ObjectAddress.parse(address)))

        def writes() -> Iterator[bytes]:
            yield LONG
            proxy.vanish()
            yield LONG

        with raising(Unavailable, naming=proxy.endpoint), files.open_output_stream("k") as sink:
            for piece in writes():
                sink.write(piece)
    assert ObstoreObjects(ObjectAddress.parse(f"s3://{bucket}?endpoint={moto}")).stat(Key("k")) is None
