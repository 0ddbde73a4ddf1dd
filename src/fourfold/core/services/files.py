"""Versioned folders of files, and the ways by which large blobs travel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from fourfold.core.files import FilesInfo, FilesVersion, Manifest, Pieces
from fourfold.core.routes import Role, route
from fourfold.core.storage import Digest


class Files(Protocol):
    """Named folders of files whose every version stays readable.

    A version that was answered survives `kill -9` and, locally, a power cut; until then nothing of it is
    seen. Inside a step, saving and reading are recorded as lineage, and a repeated attempt's save answers as
    the first one did. Saving what the newest version holds makes no new version.

    Errors: `Refused` for a wrong name, path or kind of file, `NotFound` for unknown names, versions, tags and
    digests, `Corrupted`, `OutOfSpace`, `Unavailable`.
    """

    @route("POST /files/{name}/versions", needs=Role.editor)
    def commit(
        self,
        name: str,
        *,
        manifest: Digest,
        chunks: Digest | None = None,
        message: str = "",
    ) -> FilesVersion:
        """Make a manifest the newest version of a name; all that it lists must be stored, as whole blobs or,
        as the list of `chunks` tells, in packs.

        `NotFound` lists in its fact `digests` some that are not: store them and commit again.
        """
        ...

    @route("GET /files/{name}", needs=Role.viewer)
    def describe(self, name: str, *, version: int | None = None, tag: str | None = None) -> FilesVersion:
        """The newest version, or one named by number or tag."""
        ...

    @route("GET /files/{name}/history", needs=Role.viewer)
    def history(self, name: str, *, limit: int = 1000) -> tuple[FilesVersion, ...]:
        """The versions, newest first."""
        ...

    @route("GET /files", needs=Role.viewer)
    def list_files(self) -> tuple[FilesInfo, ...]:
        """All named files, sorted by name."""
        ...

    @route("POST /files/{name}/tags/{tag}", needs=Role.editor)
    def tag(self, name: str, tag: str, *, version: int | None = None, why: str = "") -> FilesVersion:
        """Give a version a name of its own (the newest, if none is given); the tag may move later."""
        ...

    @route("DELETE /files/{name}", needs=Role.admin)
    def drop(self, name: str, *, why: str = "") -> None:
        """Forget all versions of a name, which is retired. Blobs that nothing else cites become garbage."""
        ...

    @route("GET /blobs/{digest}/sha256", needs=Role.viewer)
    def sha256(self, digest: Digest) -> str:
        """The SHA-256 of a blob in hexadecimal, for OCI registries and model hubs; kept once computed."""
        ...

    @route("PUT /blobs/renewed", needs=Role.editor)
    def renew(self, digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
        """Which of these blobs are not stored; the others are renewed, so that they may be cited."""
        ...

    @route("PUT /uploads/renewed", needs=Role.editor)
    def renew_pieces(self, digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
        """Which of these pieces of uploads are not here; the others are kept for a day from now."""
        ...

    @route("PUT /uploads/pieces", needs=Role.editor)
    def put_piece(self, data: bytes | Iterable[bytes]) -> Digest:
        """Keep a piece of an upload, for a day."""
        ...

    @route("PUT /uploads/whole/{digest}", needs=Role.editor)
    def put_pieces(self, digest: Digest, pieces: tuple[Digest, ...], *, timeout_s: float = 600.0) -> None:
        """Store the blob that these pieces make, in this order. `NotFound` when one of them is not here,
        `Refused` when they make something else."""
        ...

    @route("GET /blobs/{digest}/pieces", needs=Role.viewer)
    def pieces(self, digest: Digest) -> Pieces:
        """How a blob is cut into pieces, for who fetches them at once or goes on after a break."""
        ...

    @route("GET /blobs/{digest}/part", needs=Role.viewer)
    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        """Some bytes of a blob, for who knows their digest; not verified here."""
        ...

    # In process only: these touch the caller's own files.

    def save(
        self,
        name: str,
        folder: Path,
        *,
        message: str = "",
        chunked: bool | None = None,
        sha256: bool = False,
        follow_links: bool = False,
        tell: Callable[[int, int], None] | None = None,
    ) -> FilesVersion:
        """Save a folder, or one file, as the newest version of a name.

        `chunked` stores only the chunks that the version before has not; unsaid, it is as the version before.
        `sha256` computes that digest of each file too, in the same pass.
        `tell` hears how many bytes of how many are done.
        """
        ...

    def materialize(
        self,
        name: str,
        folder: Path,
        *,
        version: int | None = None,
        tag: str | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> FilesVersion:
        """Put a version's files into a folder that is not there yet, or empty: all of them or none."""
        ...

    def read(self, name: str, path: str, *, version: int | None = None, tag: str | None = None) -> bytes:
        """One file of a version."""
        ...

    def manifest(self, name: str, *, version: int | None = None, tag: str | None = None) -> Manifest:
        """The list of a version's files."""
        ...
