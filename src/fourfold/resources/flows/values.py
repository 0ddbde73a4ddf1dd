"""Encoded values on their way: small ones inside the message and the row, large ones as blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fourfold.core.errors import Corrupted
from fourfold.core.flows import INLINE_BYTES, Stored
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.resources.flows import codec

Frame = tuple[dict[str, Any], list[bytes]]
"""A header and its binary parts."""


def store(data: bytes, blobs: Callable[[], BlobStore]) -> Stored:
    """Keep encoded bytes: within the value itself when small, else as a blob."""
    if len(data) <= INLINE_BYTES:
        return Stored(codec.digest(data), len(data), data)
    return Stored(str(blobs().put(data)), len(data))


def fetch(stored: Stored, blobs: Callable[[], BlobStore]) -> bytes:
    """The encoded bytes of a stored value."""
    return stored.inline if stored.inline is not None else blobs().get(Digest(stored.digest))


def to_wire(stored: Stored | None, parts: list[bytes]) -> dict[str, Any] | None:
    """A stored value for a frame's header; inline bytes become one of the parts."""
    if stored is None:
        return None
    wire: dict[str, Any] = {"digest": stored.digest, "size_bytes": stored.size_bytes}
    if stored.inline is not None:
        wire["part"] = len(parts)
        parts.append(stored.inline)
    return wire


def from_wire(wire: Mapping[str, Any] | None, parts: Sequence[bytes]) -> Stored | None:
    """The stored value that `to_wire` wrote."""
    if wire is None:
        return None
    index = wire.get("part")
    inline = None if index is None else parts[index]
    if inline is not None and len(inline) != wire["size_bytes"]:
        raise Corrupted(f"a value of {wire['size_bytes']} bytes came with {len(inline)}")
    return Stored(wire["digest"], wire["size_bytes"], inline)


def ahead_items(header: Mapping[str, Any], parts: Sequence[bytes]) -> Iterator[Frame]:
    """The items of a frame that went ahead."""
    at = 0
    for entry in header["items"]:
        count = entry["part_count"]
        yield entry["item"], list(parts[at : at + count])
        at += count
