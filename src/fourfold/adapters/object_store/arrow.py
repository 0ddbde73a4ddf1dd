"""An object store as Arrow sees it: where Parquet files are read and written.

One client, one chain of credentials and one way to try again for all that is read, whichever format names it.
A file is opened by one request, for its last bytes, which tell its size and hold a Parquet footer; a small
file has then been read whole.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from fourfold.core.errors import NotFound
from fourfold.core.objects import Key, ObjectStat
from fourfold.core.ports.objects import ObjectStore

TAIL_BYTES = 64 << 10
"""What is read when a file is opened."""
WHOLE_BYTES = 8 << 20
"""A written file of up to this is sent by one request when it is closed; a longer one as it grows."""


def filesystem(objects: ObjectStore) -> pafs.FileSystem:
    """Arrow's file system over the objects below the store's prefix; paths are keys."""
    return pafs.PyFileSystem(_Handler(objects))


class _Handler(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and other._objects.address == self._objects.address

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return f"fourfold+{self._objects.address.scheme}"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[pafs.FileInfo]:
        found = [_file(stat) for stat in self._objects.listing(selector.base_dir)]
        if not selector.recursive:
            below = f"{selector.base_dir.rstrip('/')}/".lstrip("/")
            found = [each for each in found if "/" not in each.path.removeprefix(below)]
            found += [
                pafs.FileInfo(below + folder, pafs.FileType.Directory)
                for folder in self._objects.folders(selector.base_dir)
            ]
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return found

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_Reader(self._objects, Key(path)), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:  # noqa: ARG002
        return pa.PythonFile(_Writer(self._objects, Key(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("an object is written once, whole")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Folders are there when something is in them."""

    def delete_file(self, path: str) -> None:
        self._objects.delete([Key(path)])

    def delete_dir(self, path: str) -> None:
        self._objects.delete(stat.key for stat in list(self._objects.listing(path)))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:  # noqa: ARG002
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a whole store is not emptied by this way")

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError("an object store does not rename")

    def copy_file(self, src: str, dest: str) -> None:
        self._objects.copy(Key(src), Key(dest))

    def _info(self, path: str) -> pafs.FileInfo:
        stat = self._objects.stat(Key(path)) if path else None
        if stat is not None:
            return _file(stat)
        has_more = next(self._objects.listing(path), None) is not None
        return pafs.FileInfo(path, pafs.FileType.Directory if has_more else pafs.FileType.NotFound)


class _Reader(io.RawIOBase):
    """An object as a file to read from any place."""

    def __init__(self, objects: ObjectStore, key: Key) -> None:
        self._objects = objects
        self._key = key
        try:
            self._tail, self._size = objects.tail(key, TAIL_BYTES)
        except NotFound as error:
            raise FileNotFoundError(str(error)) from error
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        tail_at = self._size - len(self._tail)
        if self._at >= tail_at:
            data = self._tail[self._at - tail_at : max(stop - tail_at, 0)]
        else:
            data = self._objects.read(self._key, self._at, stop)
        self._at += len(data)
        return data


class _Writer(io.RawIOBase):
    """An object as a file to write, from the beginning to the end.

    What is written is sent by a thread, a piece at a time. Nothing is stored before `close`, and nothing by
    a process that dies.
    """

    def __init__(self, objects: ObjectStore, key: Key) -> None:
        self._objects = objects
        self._key = key
        self._at = 0
        self._buffer = bytearray()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        self._sender: threading.Thread | None = None
        self._failure: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._at += len(view)
        self._buffer += view
        if len(self._buffer) >= WHOLE_BYTES:
            if self._sender is None:
                self._sender = threading.Thread(target=self._send, daemon=True)
                self._sender.start()
            self._hand_on(bytes(self._buffer))
            self._buffer.clear()
        return len(view)

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._sender is None:
            self._objects.put(self._key, bytes(self._buffer))
            return
        self._hand_on(bytes(self._buffer))
        self._hand_on(None)
        self._sender.join()
        if self._failure is not None:
            raise self._failure

    def _hand_on(self, piece: bytes | None) -> None:
        while self._failure is None:
            with suppress(queue.Full):
                self._pieces.put(piece, timeout=0.1)
                return
        raise self._failure

    def _send(self) -> None:
        def pieces() -> Iterator[bytes]:
            while (piece := self._pieces.get()) is not None:
                yield piece

        try:
            self._objects.put(self._key, pieces())
        except BaseException as error:
            self._failure = error


def _file(stat: ObjectStat) -> pafs.FileInfo:
    return pafs.FileInfo(
        stat.key,
        pafs.FileType.File,
        size=stat.object_bytes,
        mtime_ns=stat.modified * 1000,
    )
