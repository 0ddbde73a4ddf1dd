"""`fourfold backup`: the whole project, written down while it is in use."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import home, only_here
from fourfold.cli.output import Column, note, output_option, show, size, when

if TYPE_CHECKING:
    from fourfold.core.backups import Backup, Progress
    from fourfold.core.settings import Settings

EVERY_S = 0.2


class _Backups(Verbs):
    """`fourfold backup FOLDER` needs no verb: what is no verb is where the backup goes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["to", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Backups, name="backup")
def command() -> None:
    """Back the project up, and verify backups.

    `fourfold backup FOLDER` (or an address such as s3://bucket/prefix) writes one while the project is in
    use, and sends only what is not there yet; `fourfold backup FILE.zip` writes one file.
    """


@command.command("to")
@click.argument("target", metavar="PLACE")
def to(target: str) -> None:
    """Write a backup; one that was cut off goes on where it stopped."""
    number, backup = write(target, "take a backup")
    note(f"backup {number} of project '{backup.project}' is in {target}: {told(backup)}")
    note("the owner's token, environments, and logs of jobs are not in it; restoring makes a new token")


@command.command("ls")
@click.argument("place")
@output_option
def ls(place: str, output: str) -> None:
    """The backups in a place, newest first."""
    from fourfold import wiring
    from fourfold.foundation.storage.backup import chosen

    with closing(wiring.open_archive(place)) as archive:
        found = [
            {"number": number, "backup": chosen(archive, number)} for number in reversed(archive.manifests())
        ]
    show(
        found,
        [
            Column("NUMBER", lambda row: row["number"], is_number=True),
            Column("AT", lambda row: when(row["backup"].at)),
            Column("PROJECT", lambda row: row["backup"].project),
            Column("TABLES", lambda row: len(row["backup"].tables), is_number=True),
            Column("BLOBS", lambda row: row["backup"].blobs.count, is_number=True),
            Column("ROWS", lambda row: row["backup"].rows, is_number=True),
            Column("SIZE", lambda row: size(row["backup"].size_bytes), is_number=True),
            Column("BY", lambda row: row["backup"].fourfold),
        ],
        output,
        nothing="no complete backup; one that was cut off goes on: fourfold backup FOLDER",
    )


@command.command("verify")
@click.argument("place")
@click.option("--number", type=int, default=None, help="[default: the newest]")
def verify(place: str, number: int | None) -> None:
    """Read every byte of a backup and compare it with its digests."""
    from fourfold import wiring
    from fourfold.foundation.storage.restore import verify

    with closing(wiring.open_archive(place)) as archive, _watched() as progress:
        backup = verify(archive, number=number, progress=progress)
    note(f"the backup of {when(backup.at)} is whole: {told(backup)}")


def write(target: str, what: str) -> tuple[int, Backup]:
    """Write the present project to a folder or file."""
    from fourfold import wiring
    from fourfold.core.errors import NotFound, Refused

    only_here(what)
    folder = home().resolve()
    if not folder.is_dir():
        raise NotFound(f"there is no project in {folder}", ways_on=["name one: --project FOLDER"])
    if "://" not in target and Path(target).resolve().is_relative_to(folder):
        raise Refused(
            f"{target} lies in the project's own folder, and would be lost with it",
            ways_on=["name a place outside it, best on another disk"],
        )
    with (
        closing(wiring.open_project()) as project,
        closing(wiring.new_archive(target)) as archive,
        _watched() as progress,
    ):
        return project.backups.write(archive, progress=progress)


def bring_back(place: str, *, number: int | None = None, is_forced: bool = False) -> Backup:
    """Restore the present project from a folder or file."""
    from fourfold import wiring
    from fourfold.foundation.storage.backup import chosen
    from fourfold.foundation.storage.restore import forgotten_since

    only_here("restore a project")
    folder = home().resolve()
    settings = wiring.read_settings(folder, os.environ)
    with closing(wiring.open_archive(place)) as archive:
        chosen(archive, number)  # before anything is moved: it is there and can be read
        if is_forced and folder.exists():
            _move_aside(folder, settings)
        with _watched() as progress:
            backup = wiring.restore(folder, settings, archive, number=number, progress=progress)
        if count := forgotten_since(archive, backup):
            note(f"since then somebody's rows were forgotten {count} times, and they are here again:")
            note("see of which tables (fourfold table forgotten), and: fourfold table forget NAME --again")
        return backup


def _move_aside(folder: Path, settings: Settings) -> None:
    from fourfold.core.errors import Refused
    from fourfold.resources.flows.owner import Lock

    elsewhere = [part for part in ("catalog", "storage", "tables", "online") if getattr(settings, part)]
    if elsewhere:
        raise Refused(
            f"--force moves {folder} aside, and the settings put elsewhere: {', '.join(elsewhere)}",
            ways_on=["name an empty database and an empty store in fourfold.toml; restore without --force"],
        )
    lock = Lock(folder)
    if not lock.take():
        raise Refused(f"{lock.holder()} works on this project", ways_on=["stop it first: fourfold up, flows"])
    aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    folder.rename(aside)
    lock.release()
    note(f"what was here is now in {aside}")


def told(backup: Backup) -> str:
    """A backup in one line."""
    return (
        f"{backup.rows} rows of the catalog, {len(backup.tables)} tables, {backup.blobs.count} blobs, "
        f"{size(backup.size_bytes)}"
    )


class _watched:  # noqa: N801 - used like a function
    """Progress on one line of a terminal; silence elsewhere."""

    def __enter__(self) -> Progress:
        self._is_terminal = sys.stderr.isatty()
        self._next = 0.0
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self, what: str, done: int, of: int) -> None:
        if self._is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            print(
                f"\r\033[K{what}: {done}" + (f" of {of}" if of else ""), end="", file=sys.stderr, flush=True
            )
