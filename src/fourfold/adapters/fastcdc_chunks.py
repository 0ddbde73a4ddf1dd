"""Content-defined chunks by FastCDC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fourfold.core.errors import Missing

AVERAGE_BYTES, LEAST_BYTES, MOST_BYTES = 64 << 10, 8 << 10, 128 << 10


class FastCdcChunks:
    """Fulfils `core.ports.chunks.Chunker` with chunks of 64 KiB (8 to 128), as model hubs use them."""

    name = f"fastcdc-2020/{AVERAGE_BYTES}/{LEAST_BYTES}/{MOST_BYTES}"

    def __init__(self) -> None:
        try:
            from pyfastcdc import FastCDC
        except ImportError as error:
            raise Missing(
                "saving in chunks needs the library pyfastcdc",
                ways_on=["pip install 'fourfold[chunks]'", "or save whole files: chunked=False"],
                library="pyfastcdc",
            ) from error
        self._new = FastCDC

    def cut(self, file: BinaryIO) -> Iterator[bytes]:
        cutter = self._new(AVERAGE_BYTES, min_size=LEAST_BYTES, max_size=MOST_BYTES)  # one stream at a time
        for chunk in cutter.cut_stream(file):
            yield bytes(chunk.data)
