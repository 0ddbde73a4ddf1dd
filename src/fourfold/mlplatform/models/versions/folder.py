"""A version as a folder of verified files: what workers load from, without a catalog.

The folder holds `manifest.json`, `version.json` and every file of the manifest, read-only. Only the
standard library and the values of `core` are needed to read it back.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from fourfold.core import wire
from fourfold.core.errors import Corrupted, NotFound
from fourfold.core.models import Manifest, ManifestFile, ModelVersion, check_path
from fourfold.core.ports.blobs import Digest

MANIFEST = "manifest.json"
VERSION = "version.json"
OWN = frozenset({MANIFEST, VERSION})


def write(version: ModelVersion, manifest: Manifest, get: Callable[[Digest], bytes], path: Path) -> Path:
    """Write a version's files into a new folder; whole, or not there at all."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for file in manifest.files:
            _write(draft / check_path(file.path), verified(file, fetched(file, get), of=str(version)))
        _write(draft / MANIFEST, wire.encode(manifest))
        _write(draft / VERSION, wire.encode(version))
        try:
            draft.rename(path)
        except OSError:
            if not path.exists():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def read(path: Path, *, digest: str | None) -> tuple[ModelVersion, Manifest, dict[str, bytes]]:
    """All files of a folder, verified; nothing but bytes is made of them.

    A file that the manifest does not name is refused too: somebody put it there.
    """
    try:
        body = _read(path / MANIFEST)
        version = wire.decode(_read(path / VERSION), ModelVersion, what=VERSION)
    except NotFound as error:
        raise NotFound(
            f"{path} is not the folder of a model version", ways_on=["write one with materialize()"]
        ) from error
    if digest is not None and version.digest != digest:
        raise Corrupted(f"{path} holds {version}, which is not the version that was asked for", path=VERSION)
    manifest = wire.decode(checked_manifest(body, version), Manifest, what=MANIFEST)
    named = {file.path for file in manifest.files}
    for found in sorted(path.rglob("*")):
        relative = found.relative_to(path).as_posix()
        if found.is_symlink() or not (found.is_dir() or relative in named or relative in OWN):
            raise Corrupted(
                f"'{relative}' in the folder of {version} is not part of the version",
                ways_on=["remove the folder; it is written again from the store"],
                path=relative,
            )
    files = {
        file.path: verified(file, _read(path / check_path(file.path)), of=str(version))
        for file in manifest.files
    }
    return version, manifest, files


def digest_of(manifest: bytes) -> str:
    """A version's identity, of its manifest's JSON. SHA-256, as the rest of the world compares by it."""
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def checked_manifest(body: bytes, version: ModelVersion) -> bytes:
    """The manifest's JSON, if it is this version's."""
    if digest_of(body) != version.digest:
        raise Corrupted(f"{MANIFEST} of {version} is not the one that was stored", path=MANIFEST)
    return body


def verified(file: ManifestFile, data: bytes, *, of: str) -> bytes:
    """The bytes, if they are what the manifest says."""
    if len(data) != file.size_bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        what = "was cut short or padded" if len(data) != file.size_bytes else "was changed"
        raise Corrupted(
            f"file '{file.path}' of {of} {what} after it was stored; nothing of the version was used",
            ways_on=["restore the blob from a backup, or save the model again from its run"],
            path=file.path,
            version=of,
        )
    return data


def fetched(file: ManifestFile, get: Callable[[Digest], bytes]) -> bytes:
    """A file's bytes from a blob store, with its path in the error when they are not there or wrong."""
    try:
        return get(file.blake3)
    except (Corrupted, NotFound) as error:
        raise Corrupted(
            f"file '{file.path}' cannot be had from the store: {error.message}",
            ways_on=["restore the blob from a backup, or save the model again from its run"],
            path=file.path,
        ) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)


def _read(path: Path) -> bytes:
    """A regular file's bytes, not following a link that was put in its place."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError as error:
        raise NotFound(f"'{path.name}' is not there", path=path.name) from error
    except OSError as error:
        raise Corrupted(f"'{path.name}' cannot be read: {error.strerror}", path=path.name) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Corrupted(f"'{path.name}' is not a file", path=path.name)
        return file.read()
