"""Versioned folders of files: the values that they are spoken of in, and what may be in one.

A version is a *manifest*: the list of its files with digests, sizes and the executable bit. Its canonical
bytes are stored as a blob, so its digest is its identity: equal manifests are the same files, whatever
they are called and wherever they were saved.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.storage import Digest, table_name
from fourfold.core.times import Instant

KIND = "files"
"""The kind under which tags, lineage and the audit know versioned files."""
FORMAT = 1
MOST_FILES = 1_000_000
MOST_PATH_BYTES = 1024
PIECE_BYTES = 8 << 20
"""Large files travel in pieces of this size."""
MOST_PIECES = 1 << 17
"""A file that is sent is at most 1 TiB."""
MOST_ASKED = 10_000
"""Digests in one question."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version."""

    path: str
    digest: Digest
    size_bytes: int
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a version, sorted by path. Make one with `manifest_of`, read one with `Manifest.read`."""

    files: tuple[File, ...]
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def encoded(self) -> bytes:
        """Its canonical bytes: equal manifests have equal bytes."""
        return wire.encode(self)

    @classmethod
    def read(cls, data: bytes) -> Manifest:
        """The manifest with these bytes; refused unless they are canonical and all is as it must be."""
        given = wire.decode(data, cls, what="the manifest")
        if given.format != FORMAT:
            raise Refused(
                f"the manifest has format {given.format}, and this Fourfold reads format {FORMAT}",
                ways_on=["upgrade: pip install -U fourfold"],
            )
        checked = manifest_of(given.files)
        if checked.encoded() != data:
            raise Refused("the manifest is not written in its canonical form")
        return checked

    def named(self, path: str) -> File | None:
        return next((file for file in self.files if file.path == path), None)


def manifest_of(files: Iterable[File]) -> Manifest:
    """The manifest of these files, in whatever order; refused when one cannot be part of a folder.

    >>> manifest_of([File("b/c", Digest("blake3:" + "0" * 64), 3)]).files[0].path
    'b/c'
    """
    ordered = tuple(sorted(files, key=lambda file: file.path))
    if len(ordered) > MOST_FILES:
        raise Refused(
            f"{len(ordered):,} files are too many for one version",
            ways_on=[f"at most {MOST_FILES:,} are taken"],
        )
    folders: set[str] = set()
    names: set[str] = set()
    for file in ordered:
        check_path(file.path)
        if file.path in names:
            raise Refused(f"the path '{file.path}' is there twice")
        if file.size_bytes < 0 or len(file.digest) != 71:
            raise Refused(f"the file '{file.path}' has no sound size or digest")
        names.add(file.path)
        at = file.path.rfind("/")
        while at > 0 and (folder := file.path[:at]) not in folders:
            folders.add(folder)
            at = folder.rfind("/")
    if both := names & folders:
        raise Refused(f"'{min(both)}' is both a file and a folder")
    return Manifest(ordered)


def check_path(path: str) -> str:
    """The path if it names a place inside a folder, else refused.

    >>> check_path("train/cat 1.png")
    'train/cat 1.png'
    >>> check_path("../secrets")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: path '../secrets' is not inside the folder
      use a relative path with '/', without '..', empty parts or control characters
    """
    parts = path.split("/")
    bad = (
        any(part in {"", ".", ".."} for part in parts)
        or any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in path)
        or "\\" in path
        or len(path.encode()) > MOST_PATH_BYTES
        or any(len(part.encode()) > 255 for part in parts)
    )
    if bad:
        shown = path[:200].encode("unicode_escape", "surrogatepass").decode("ascii", "replace")
        raise Refused(
            f"path '{shown}' is not inside the folder",
            ways_on=["use a relative path with '/', without '..', empty parts or control characters"],
        )
    return path


def files_name(name: str) -> str:
    """The name if it may name files: as for tables, because it becomes part of addresses."""
    try:
        return table_name(name)
    except Refused as error:
        raise Refused(error.message.replace("a table", "files"), ways_on=error.ways_on, name=name) from None


@dataclass(frozen=True, slots=True)
class FilesVersion:
    """One version of named files. Versions are numbered from 0 without gaps."""

    name: str
    version: int
    at: Instant
    manifest: Digest
    """Its identity, and the blob that lists its files."""
    file_count: int
    size_bytes: int
    added_bytes: int
    """What this version added to the store, beside what the version before it has."""
    by: str
    step: str = ""
    """The step call that saved it, if one did."""
    message: str = ""
    chunks: Digest | None = None
    """The blob that tells where the chunks of its files lie, if they were saved in chunks."""

    @property
    def ref(self) -> Ref:
        return Ref(KIND, self.name, str(self.version))


@dataclass(frozen=True, slots=True)
class FilesInfo:
    """Named files as they are now."""

    name: str
    version: int
    at: Instant
    file_count: int
    size_bytes: int
    tags: Mapping[str, int] = field(default_factory=dict)
    """Tag to version."""


@dataclass(frozen=True, slots=True)
class FilesDiff:
    """What changed from one manifest to another; moved files are removed and added."""

    added: tuple[File, ...]
    removed: tuple[File, ...]
    changed: tuple[File, ...]
    """As they are in the second: with other bytes, or another executable bit."""
    same_count: int


def diff(before: Manifest, after: Manifest) -> FilesDiff:
    """What changed from `before` to `after`, each part sorted by path."""
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    both = [path for path in new if path in old]
    changed = tuple(new[path] for path in both if new[path] != old[path])
    return FilesDiff(
        added=tuple(file for path, file in new.items() if path not in old),
        removed=tuple(file for path, file in old.items() if path not in new),
        changed=changed,
        same_count=len(both) - len(changed),
    )


@dataclass(frozen=True, slots=True)
class Pieces:
    """A blob cut into pieces of `PIECE_BYTES`, each with a digest of its own: for who fetches it so."""

    size_bytes: int
    digests: tuple[Digest, ...]
