"""What people write: `ff.files("images").save("data/images")`."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.files import KIND, File, FilesDiff, FilesVersion, diff, files_name

if TYPE_CHECKING:
    from fourfold.core.services.files import Files as Service

Tell = Callable[[int, int], None]


class Files:
    """A folder of files by its name: saving makes a version, materialising puts one on the disk.

    The handle itself touches nothing. `version` and `tagged` give handles on one version.

        images = ff.files("images")
        images.save("data/images", message="10,000 more cats")
        images.tagged("report-2013").materialize("/tmp/images")
    """

    def __init__(
        self,
        name: str,
        *,
        version: int | None = None,
        tag: str | None = None,
        service: Service | None = None,
    ) -> None:
        self.name = files_name(name)
        self._pin: dict[str, Any] = {"version": version, "tag": tag}
        self._given = service

    def __repr__(self) -> str:
        pinned = "".join(f" {key}={value!r}" for key, value in self._pin.items() if value is not None)
        return f"<Files {self.name}{pinned}>"

    @property
    def ref(self) -> Ref:
        """The files as lineage and datasets know them, at the version that the handle pins, if it does."""
        if self._pin["tag"] is not None:
            return self.describe().ref
        pinned = self._pin["version"]
        return Ref(KIND, self.name, "" if pinned is None else str(pinned))

    def version(self, number: int) -> Files:
        """The files as they were at a version."""
        return Files(self.name, version=number, service=self._given)

    def tagged(self, tag: str) -> Files:
        """The version that carries a tag."""
        return Files(self.name, tag=tag, service=self._given)

    def save(
        self,
        folder: str | PathLike[str],
        *,
        message: str = "",
        chunked: bool | None = None,
        sha256: bool = False,
        follow_links: bool = False,
        tell: Tell | None = None,
    ) -> FilesVersion:
        """Save a folder, or one file, as the newest version; the same files make no new one.

        With `chunked` files are cut where their contents say, and only chunks that the version before has
        not are stored: for large files of which little changes. It pays for datasets (for Parquet that was
        written with `use_content_defined_chunking` above all), and not for the weights of successive
        trainings, of which everything changes. Unsaid, it is as the version before.

        `sha256` computes that digest of each file in the same pass, for what asks `sha256` for it later.

        Links are refused, or with `follow_links` links to files are saved as what they point at. `tell` hears
        how many bytes of how many are done.
        """
        if any(value is not None for value in self._pin.values()):
            raise Refused(
                f"cannot save into an older version: {self!r}", ways_on=[f"use files({self.name!r})"]
            )
        return self._service.save(
            self.name,
            Path(folder),
            message=message,
            chunked=chunked,
            sha256=sha256,
            follow_links=follow_links,
            tell=tell,
        )

    def materialize(self, folder: str | PathLike[str], *, tell: Tell | None = None) -> FilesVersion:
        """Put the files into a folder that is not there yet, read-only: all of them or none."""
        return self._service.materialize(self.name, Path(folder), **self._pin, tell=tell)

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        return self._service.read(self.name, path, **self._pin)

    def sha256(self, path: str) -> str:
        """The SHA-256 of one file in hexadecimal, as OCI registries and model hubs want it."""
        files = {file.path: file for file in self.ls()}
        if path not in files:
            raise NotFound(f"{self!r} has no '{path}'", ways_on=did_you_mean(path, files, what="files"))
        return self._service.sha256(files[path].digest)

    def ls(self) -> tuple[File, ...]:
        """The files, sorted by path."""
        return self._service.manifest(self.name, **self._pin).files

    def diff(self, other: Files) -> FilesDiff:
        """What is different in `other`: added, removed and changed files."""
        before = self._service.manifest(self.name, **self._pin)
        return diff(before, other._service.manifest(other.name, **other._pin))

    def describe(self) -> FilesVersion:
        """The version: when, by whom, how many files and bytes."""
        return self._service.describe(self.name, **self._pin)

    def history(self, *, limit: int = 1000) -> tuple[FilesVersion, ...]:
        """The versions, newest first."""
        return self._service.history(self.name, limit=limit)

    def tag(self, tag: str, *, why: str = "") -> FilesVersion:
        """Give this version (the newest, if the handle pins none) a name of its own."""
        return self._service.tag(self.name, tag, version=self.describe().version, why=why)

    @property
    def _service(self) -> Service:
        return self._given if self._given is not None else context.services().files


def files(name: str) -> Files:
    """The files of this name in the present project; they need not exist yet."""
    return Files(name)
