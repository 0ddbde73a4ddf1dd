"""A folder on the disk becomes a version, and a version a folder."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core import context
from fourfold.core.chunks import Layout
from fourfold.core.errors import Corrupted, NotFound, Refused, did_you_mean
from fourfold.core.files import File, FilesVersion, Manifest, check_path, files_name, manifest_of
from fourfold.core.ports.chunks import Chunker
from fourfold.core.ports.digests import Digester
from fourfold.foundation.storage.files import writing
from fourfold.foundation.storage.folders.packing import Packed, Packer
from fourfold.foundation.storage.folders.scanning import scan
from fourfold.foundation.storage.folders.ways import Progress, Way, at_once

if TYPE_CHECKING:
    from fourfold.core.services.files import Files

TRIES = 3
Tell = Callable[[int, int], None]


class Folders:
    """What `Files` does with the caller's own files, over whatever way this process has to the blobs."""

    def __init__(self, files: Files, way: Way, digests: Digester, chunker: Callable[[], Chunker]) -> None:
        self._files = files
        self._way = way
        self._digests = digests
        self._chunker = chunker

    def save(
        self,
        name: str,
        folder: Path,
        *,
        message: str = "",
        chunked: bool | None = None,
        sha256: bool = False,
        follow_links: bool = False,
        tell: Tell | None = None,
    ) -> FilesVersion:
        """Save a folder, or one file, as the newest version of a name."""
        found = scan(folder, follow_links=follow_links)
        if not found:
            raise Refused(f"{folder} has no files in it", path=str(folder))
        known, was_chunked = self._known(files_name(name))
        for tries_left in reversed(range(TRIES)):
            progress = Progress(tell, sum(each.size_bytes for each in found))
            chunks = None
            if was_chunked if chunked is None else chunked:
                _refuse_both(sha256)
                packer = Packer(self._way, self._digests, self._chunker(), known)
                digests = [packer.add(each.at, progress) for each in found]
                chunks = self._way.put(packer.layout().encoded())
            else:
                digests = self._way.put_files([each.at for each in found], progress, sha256=sha256)
            manifest = manifest_of(
                File(each.path, digest, each.size_bytes, each.is_executable)
                for each, digest in zip(found, digests, strict=True)
            )
            try:
                listed = self._way.put(manifest.encoded())
                return self._files.commit(name, manifest=listed, chunks=chunks, message=message)
            except NotFound as error:  # saving took longer than the grace of the garbage collection
                if "digests" not in error.facts or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _known(self, name: str) -> tuple[Layout | None, bool]:
        """Where the chunks of the newest version lie, and whether it was saved in chunks."""
        try:
            newest = self._files.describe(name)
            if newest.chunks is None:
                return None, False
        except NotFound:
            return None, False
        try:
            return Layout.read(self._way.get(newest.chunks)), True
        except (NotFound, Corrupted):
            return None, True  # that version is lost, and this one must not be

    def materialize(
        self,
        name: str,
        folder: Path,
        *,
        version: int | None = None,
        tag: str | None = None,
        tell: Tell | None = None,
    ) -> FilesVersion:
        """Put a version's files into a folder that is not there yet, or empty: all of them or none."""
        chosen, manifest = self._open(name, version=version, tag=tag)
        packed = self._packed(chosen)
        progress = Progress(tell, manifest.size_bytes)
        with _new_folder(folder.absolute(), chosen, is_kept=self._way.is_far) as part:

            def fetch(file: File) -> None:
                place = part / file.path
                if place.exists() and self._digests.of_file(place) == file.digest:
                    progress.add(file.size_bytes)
                    return
                with writing(place):
                    place.parent.mkdir(parents=True, exist_ok=True)
                if packed is not None and (pieces := packed.pieces(file.digest)) is not None:
                    _write(place, file, pieces, progress)
                    return
                self._way.fetch(
                    file.digest,
                    place,
                    size_bytes=file.size_bytes,
                    executable=file.is_executable,
                    progress=progress,
                )

            for _ in at_once(fetch, manifest.files):
                pass
        context.record_read(chosen.ref)
        return chosen

    def manifest(self, name: str, *, version: int | None = None, tag: str | None = None) -> Manifest:
        """The list of a version's files."""
        return self._open(name, version=version, tag=tag)[1]

    def read(self, name: str, path: str, *, version: int | None = None, tag: str | None = None) -> bytes:
        """One file of a version."""
        chosen, manifest = self._open(name, version=version, tag=tag)
        file = manifest.named(check_path(path))
        if file is None:
            raise NotFound(
                f"files '{name}' have no '{path}' at version {chosen.version}",
                ways_on=did_you_mean(path, [each.path for each in manifest.files], what="files"),
                path=path,
            )
        packed = self._packed(chosen)
        pieces = None if packed is None else packed.pieces(file.digest)
        data = self._way.get(file.digest) if pieces is None else b"".join(pieces)
        context.record_read(chosen.ref)
        return data

    def _open(self, name: str, *, version: int | None, tag: str | None) -> tuple[FilesVersion, Manifest]:
        chosen = self._files.describe(name, version=version, tag=tag)
        return chosen, Manifest.read(self._way.get(chosen.manifest))

    def _packed(self, chosen: FilesVersion) -> Packed | None:
        if chosen.chunks is None:
            return None
        return Packed(self._way, self._digests, Layout.read(self._way.get(chosen.chunks)))


def _write(place: Path, file: File, pieces: Iterator[bytes], progress: Progress) -> None:
    """Put a file's verified pieces at a place: the whole of them or nothing."""
    part = place.with_name(f".{place.name[:100]}.{file.digest[7:23]}.part")
    part.unlink(missing_ok=True)  # of one that died
    with writing(place):
        with part.open("wb") as target:
            for piece in pieces:
                target.write(piece)
                progress.add(len(piece))
        part.chmod(0o555 if file.is_executable else 0o444)
        part.replace(place)


def _refuse_both(sha256: bool) -> None:
    if sha256:
        raise Refused(
            "files in chunks are not kept whole, so no SHA-256 of them can be looked up",
            ways_on=["save whole files: chunked=False"],
        )


@contextmanager
def _new_folder(folder: Path, version: FilesVersion, *, is_kept: bool) -> Iterator[Path]:
    """A folder beside the one that is wanted, which takes its name when the block ends well.

    One that `is_kept` stays when the block fails, and the next who wants the same version there goes on with
    it; of two at once, the second takes one of its own.
    """
    _refuse_full(folder)
    part = folder.with_name(f".{folder.name[:100]}.{version.manifest[7:23]}.part")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_kept = False
            part = part.with_name(f"{part.name}.{secrets.token_hex(4)}")
            with writing(folder):
                part.mkdir()
        if not is_kept:  # what one that died beside the store has left is sooner made anew
            for left in part.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield part
            _refuse_full(folder)
            with writing(folder):
                part.rename(folder)
        except BaseException:
            if not is_kept:
                shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _refuse_full(folder: Path) -> None:
    if (
        folder.is_symlink()
        or (folder.exists() and not folder.is_dir())
        or (folder.is_dir() and any(folder.iterdir()))
    ):
        raise Refused(
            f"{folder} is there already, and not an empty folder",
            ways_on=["name a folder that is not there yet"],
            path=str(folder),
        )
