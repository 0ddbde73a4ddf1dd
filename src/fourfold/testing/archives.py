"""The conformance kit of the archive port: what every place for backups must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

from fourfold.core.errors import FourfoldError, NotFound, OutOfSpace
from fourfold.core.ports.archive import Archive, OpenArchive
from fourfold.core.storage import Digest
from fourfold.testing.raising import raising

LONG = bytes(range(256)) * 20_000


def check_archive(write: Callable[[], OpenArchive], read: Callable[[], Archive]) -> None:
    """`write` opens an empty place to be written to, `read` the same place afterwards."""
    archive = write()
    texts = {name: name.encode() * 1000 for name in ("a", "b")} | {"empty": b"", "long": LONG}
    digests = {name: archive.put(lambda data=data: pieces_of(data)) for name, data in texts.items()}  # type: ignore[misc]
    assert len(set(digests.values())) == len(texts), "different bytes have different digests"
    assert archive.put(lambda: [texts["a"]]) == digests["a"], "cut otherwise, it is the same piece"
    assert all(archive.has(digest) for digest in digests.values())
    absent = Digest("blake3:" + "0" * 64)
    assert not archive.has(absent)
    _at_once(archive)
    _fails(archive)
    assert archive.commit(b'{"first": 1}') == 1
    archive.close()
    archive.close()

    found = read()
    try:
        assert str(found)
        assert found.manifests() == (1,)
        assert found.manifest(1) == b'{"first": 1}'
        with raising(NotFound):
            found.manifest(2)
        for name, digest in digests.items():
            assert b"".join(found.read(digest)) == texts[name], name
        with raising(FourfoldError):
            b"".join(found.read(absent))
    finally:
        found.close()


def check_many(write: Callable[[], OpenArchive]) -> None:
    """A place that takes several backups: they share pieces and have numbers of their own."""
    first, second = write(), write()
    digest = first.put(lambda: [b"shared"])
    assert second.has(digest)
    numbers: list[int] = []
    threads = [
        Thread(target=lambda archive=archive, n=n: numbers.append(archive.commit(b"%d" % n)))
        for n, archive in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2]
    assert first.manifests() == second.manifests() == (1, 2)
    assert {first.manifest(1), first.manifest(2)} == {b"0", b"1"}


def pieces_of(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


def _at_once(archive: OpenArchive) -> None:
    found: list[Digest] = []
    threads = [
        Thread(target=lambda n=n: found.append(archive.put(lambda: pieces_of(b"%d" % n * 100_000))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4
    assert all(archive.has(digest) for digest in found)


def _fails(archive: OpenArchive) -> None:
    """A piece whose bytes cannot be read is none, and the archive goes on."""

    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise OutOfSpace("as it might be")

    with raising(OutOfSpace):
        archive.put(broken)
    assert archive.has(archive.put(lambda: [b"after"]))
