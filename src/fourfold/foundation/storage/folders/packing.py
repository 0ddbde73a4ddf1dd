"""Files as chunks in packs, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fourfold.core.chunks import MOST_CHUNKS, PACK_BYTES, Layout, Span, key, stretches
from fourfold.core.errors import Corrupted, TooMuch
from fourfold.core.files import PIECE_BYTES
from fourfold.core.ports.chunks import Chunker
from fourfold.core.ports.digests import Digester
from fourfold.core.storage import Digest
from fourfold.foundation.storage.files import callers_file
from fourfold.foundation.storage.folders.ways import Progress, Way

_HASH = len("blake3:")
NOWHERE = Digest("")
"""Stands for the pack that is being filled: it has no digest yet."""


class Packer:
    """Cuts files into chunks, and stores those that `known` does not have."""

    def __init__(self, way: Way, digests: Digester, chunker: Chunker, known: Layout | None) -> None:
        self._way = way
        self._digests = digests
        self._chunker = chunker
        self._packs: list[Digest] = []
        self._number_of: dict[Digest, int] = {}
        self._places: dict[str, tuple[Digest, int, int]] = {}
        """Chunk to pack, offset and length, of the version before."""
        if known is not None and known.cut == chunker.name:
            for spans in known.files.values():
                self._places |= {h: (known.packs[pack], at, length) for pack, at, length, h in spans}
        self._mine: dict[str, Span] = {}
        self._files: dict[str, tuple[Span, ...]] = {}
        self._count = 0
        self._filling = bytearray()
        self._number = -1
        """The place in `_packs` of the pack that is being filled."""

    def add(self, path: Path, progress: Progress) -> Digest:
        """Store a file's new chunks; the digest of the whole."""
        whole = self._digests.begin()
        spans: list[Span] = []
        with callers_file(path), path.open("rb", buffering=0) as file:
            for chunk in self._chunker.cut(file):
                whole.update(chunk)
                spans.append(self._place(chunk))
                progress.add(len(chunk))
        self._count += len(spans)
        if self._count > MOST_CHUNKS:
            raise TooMuch(
                f"these files have more than {MOST_CHUNKS:,} chunks",
                ways_on=["save them in parts, under several names", "or save whole files: chunked=False"],
            )
        digest = whole.digest()
        self._files[key(digest)] = tuple(spans)
        return digest

    def layout(self) -> Layout:
        """Where all chunks are, once the last pack is stored."""
        self._seal()
        return Layout(self._chunker.name, tuple(self._packs), self._files)

    def _place(self, chunk: bytes) -> Span:
        name = self._digests.of(chunk)[_HASH:]
        if (span := self._mine.get(name)) is not None:
            return span
        if (place := self._places.get(name)) is not None:
            pack, offset, length = place
            span = (self._numbered(pack), offset, length, name)
        else:
            if not self._filling:
                self._number = len(self._packs)
                self._packs.append(NOWHERE)
            span = (self._number, len(self._filling), len(chunk), name)
            self._filling += chunk
            if len(self._filling) >= PACK_BYTES:
                self._seal()
        self._mine[name] = span
        return span

    def _numbered(self, pack: Digest) -> int:
        if pack not in self._number_of:
            self._number_of[pack] = len(self._packs)
            self._packs.append(pack)
        return self._number_of[pack]

    def _seal(self) -> None:
        if self._filling:
            self._packs[self._number] = self._way.put(bytes(self._filling))
            self._filling.clear()


class Packed:
    """Reads files that lie in packs. Each chunk is verified, and so is the whole."""

    def __init__(self, way: Way, digests: Digester, layout: Layout) -> None:
        self._way = way
        self._digests = digests
        self._layout = layout

    def pieces(self, digest: Digest) -> Iterator[bytes] | None:
        """A file's bytes; none where it is not in chunks."""
        spans = self._layout.spans(digest)
        return None if spans is None else self._verified(digest, spans)

    def _verified(self, digest: Digest, spans: tuple[Span, ...]) -> Iterator[bytes]:
        whole = self._digests.begin()
        for number, offset, joined in stretches(spans, PIECE_BYTES):
            pack = self._layout.packs[number]
            data = self._way.part(pack, offset, sum(length for _, _, length, _ in joined))
            at = 0
            for _, _, length, name in joined:
                if self._digests.of(data[at : at + length])[_HASH:] != name:
                    raise _wrong(digest, pack)
                at += length
            whole.update(data)
            yield data
        if whole.digest() != digest:
            raise _wrong(digest, None)


def _wrong(digest: Digest, pack: Digest | None) -> Corrupted:
    where = "the list of its chunks" if pack is None else f"pack {pack}"
    return Corrupted(
        f"a file in chunks ({digest}) does not hold the bytes that were stored, because {where} is wrong; "
        "it was not used",
        ways_on=["see what else is: fourfold storage check", "save the files again, or restore a backup"],
        digest=digest,
    )
