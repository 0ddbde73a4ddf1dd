"""Messages between the loop and the processes it talks to, as bytes.

A frame is a JSON header and any number of binary parts: four bytes of length of all that follows, four
bytes of length of the header, the header, the parts. The header's `parts` holds their lengths. Standard
library only, because every worker imports it before anything else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from fourfold.core.errors import Refused

MOST_BYTES = 256 * 1024 * 1024
"""A longer frame is refused: what is larger travels by digest."""

Header = dict[str, Any]
_LENGTHS = struct.Struct(">II")


def encode(header: Header, parts: Sequence[bytes] = ()) -> bytes:
    """One frame.

    >>> Frames().feed(encode({"type": "hello"}, [b"abc"]))
    [({'type': 'hello', 'parts': [3]}, [b'abc'])]
    """
    if parts:
        header = {**header, "parts": [len(part) for part in parts]}
    head = json.dumps(header, separators=(",", ":")).encode()
    size = 4 + len(head) + sum(map(len, parts))
    if size > MOST_BYTES:
        raise Refused(
            f"a message of {size} bytes is more than the {MOST_BYTES} that may travel at once",
            ways_on=["keep large values in a table or a blob and pass its name"],
        )
    return b"".join((_LENGTHS.pack(size, len(head)), head, *parts))


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def waiting_bytes(self) -> int:
        """How much has come of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[tuple[Header, list[bytes]]]:
        """Take bytes as they come and return the frames that are complete now."""
        self._buffer += data
        return list(self._cut())

    def _cut(self) -> Iterator[tuple[Header, list[bytes]]]:
        buffer = self._buffer
        while len(buffer) >= _LENGTHS.size:
            size, head_size = _LENGTHS.unpack_from(buffer)
            if size > MOST_BYTES or head_size + 4 > size:
                raise Refused("not a frame of ours: the lengths make no sense")
            end = size + 4
            if len(buffer) < end:
                return
            body = bytes(buffer[8:end])
            del buffer[:end]
            header: Header = json.loads(body[:head_size])
            parts, at = [], head_size
            for length in header.get("parts", ()):
                parts.append(body[at : at + length])
                at += length
            yield header, parts
