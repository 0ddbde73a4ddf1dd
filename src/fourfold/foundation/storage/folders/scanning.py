"""What a folder on the disk holds, and what of it can be saved."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fourfold.core.errors import NotFound, Refused
from fourfold.core.files import check_path

PROJECT = ".fourfold"
"""A project's own folder is never part of what is saved."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be saved."""

    path: str
    at: Path
    size_bytes: int
    is_executable: bool


def scan(folder: Path, *, follow_links: bool) -> list[Found]:
    """The files below a folder, or the one file, sorted by path.

    Links are refused: what they point at is not part of the folder, and may not be there tomorrow. With
    `follow_links` a link to a file counts as that file. Folders without files leave no trace; pipes,
    sockets and devices are refused.
    """
    if folder.is_file() and (follow_links or not folder.is_symlink()):
        return [_found(folder.name, folder)]
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", ways_on=["name a folder, or one file"], path=str(folder))
    return sorted(_below(folder, "", follow_links=follow_links), key=lambda found: found.path)


def _below(folder: Path, prefix: str, *, follow_links: bool) -> Iterator[Found]:
    for entry in os.scandir(folder):
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name != PROJECT:
                yield from _below(Path(entry.path), path + "/", follow_links=follow_links)
        elif entry.is_symlink() and not (follow_links and entry.is_file()):
            raise Refused(
                f"{entry.path} is a link",
                ways_on=[
                    "save links to files as the files that they point at: follow_links=True, --follow-links",
                    "or remove it; links to folders are never followed",
                ],
                path=entry.path,
            )
        elif not entry.is_file():
            raise Refused(f"{entry.path} is no file and no folder, and cannot be saved", path=entry.path)
        else:
            yield _found(path, Path(entry.path))


def _found(path: str, at: Path) -> Found:
    known = at.stat()
    return Found(check_path(path), at, known.st_size, bool(known.st_mode & stat.S_IXUSR))
