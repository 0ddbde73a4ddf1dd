"""Where the chunks of files lie: which stretches of which packs, in order, make each file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fourfold.core import wire
from fourfold.core.errors import Refused
from fourfold.core.storage import Digest

FORMAT = 1
PACK_BYTES = 32 << 20
"""Chunks are stored together in blobs of about this size."""
MOST_CHUNKS = 1_000_000
"""Chunks of one version: about 64 GiB. Saving holds some 300 bytes for each in memory."""

Span = tuple[int, int, int, str]
"""A chunk: the number of its pack, where in it, how long, and the digest of its bytes (hexadecimal)."""


def key(digest: Digest) -> str:
    """How a layout names a file: not as a digest of a blob, because no blob holds the whole file.

    >>> key(Digest("blake3:ab"))
    'chunked:ab'
    """
    return "chunked:" + digest.removeprefix("blake3:")


@dataclass(frozen=True, slots=True)
class Layout:
    """The packs of a version's files, and the spans of each file, by `key` of its digest."""

    cut: str
    """How the files were cut."""
    packs: tuple[Digest, ...]
    files: Mapping[str, tuple[Span, ...]]
    format: int = FORMAT

    def encoded(self) -> bytes:
        return wire.encode(self)

    @classmethod
    def read(cls, data: bytes) -> Layout:
        """The layout with these bytes; refused when a span lies in no pack."""
        given = wire.decode(data, cls, what="the list of chunks")
        if given.format != FORMAT:
            raise Refused(
                f"the list of chunks has format {given.format}, and this Fourfold reads format {FORMAT}",
                ways_on=["upgrade: pip install -U fourfold"],
            )
        for name, spans in given.files.items():
            for pack, offset, length, digest in spans:
                if not (0 <= pack < len(given.packs) and offset >= 0 and length > 0 and len(digest) == 64):
                    raise Refused(f"the list of chunks has a span of {name} that lies in no pack")
        return given

    def spans(self, digest: Digest) -> tuple[Span, ...] | None:
        """The chunks of a file, in order; none where the file is not chunked."""
        return self.files.get(key(digest))

    def size_bytes(self, digest: Digest) -> int:
        return sum(length for _, _, length, _ in self.files[key(digest)])


def stretches(spans: Iterable[Span], most_bytes: int) -> Iterable[tuple[int, int, tuple[Span, ...]]]:
    """Spans that follow one another in a pack, joined: (pack, offset, spans), each at most `most_bytes`.

    >>> list(stretches([(0, 0, 5, "a"), (0, 5, 5, "b"), (0, 12, 1, "c")], 100))
    [(0, 0, ((0, 0, 5, 'a'), (0, 5, 5, 'b'))), (0, 12, ((0, 12, 1, 'c'),))]
    """
    joined: list[Span] = []
    size = 0
    for span in spans:
        pack, offset, length, _ = span
        if joined:
            last_pack, last_offset, last_length, _ = joined[-1]
            follows = pack == last_pack and offset == last_offset + last_length
            if not follows or size + length > most_bytes:
                yield joined[0][0], joined[0][1], tuple(joined)
                joined, size = [], 0
        joined.append(span)
        size += length
    if joined:
        yield joined[0][0], joined[0][1], tuple(joined)
