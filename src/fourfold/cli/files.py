"""`fourfold files`: versioned folders of files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, size, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from fourfold.core.files import FilesVersion


@click.group(cls=Verbs, name="files")
def command() -> None:
    """Versioned folders of files."""


def pin(function: Callable[..., None]) -> Callable[..., None]:
    """`--version` or `--tag`."""
    function = click.option("--tag", default=None, help="The version with this tag.")(function)
    return click.option("--version", type=int, default=None, help="[default: the newest]")(function)


@command.command("put")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--message", default="", help="What is new in it.")
@click.option(
    "--chunked/--whole",
    default=None,
    help="Store only what changed within files, or whole files. [default: as the version before]",
)
@click.option("--sha256", is_flag=True, help="Compute that digest of each file too, in the same pass.")
@click.option("--follow-links", is_flag=True, help="Save links to files as what they point at.")
@output_option
def put(
    name: str, folder: Path, message: str, chunked: bool | None, sha256: bool, follow_links: bool, output: str
) -> None:
    """Save a folder, or one file, as the newest version of a name.

    What is stored already is not stored again; interrupted, it goes on where it was.
    """
    with services() as opened, Meter("saved") as meter:
        made = opened.files.save(
            name,
            folder,
            message=message,
            chunked=chunked,
            sha256=sha256,
            follow_links=follow_links,
            tell=meter.tell,
        )
    _show_version(made, output)


@command.command("get")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@pin
@output_option
def get(name: str, folder: Path, version: int | None, tag: str | None, output: str) -> None:
    """Put a version's files into a folder that is not there yet, read-only: all of them or none."""
    with services() as opened, Meter("got") as meter:
        got = opened.files.materialize(name, folder, version=version, tag=tag, tell=meter.tell)
    _show_version(got, output)


@command.command("ls")
@click.argument("name", required=False)
@pin
@output_option
def ls(name: str | None, version: int | None, tag: str | None, output: str) -> None:
    """All names, or the files of one."""
    with services() as opened:
        if name is None:
            show(
                opened.files.list_files(),
                [
                    Column("NAME", lambda f: f.name),
                    Column("VERSION", lambda f: f.version, is_number=True),
                    Column("FILES", lambda f: f.file_count, is_number=True),
                    Column("SIZE", lambda f: size(f.size_bytes), is_number=True),
                    Column("CHANGED", lambda f: when(f.at)),
                    Column("TAGS", lambda f: pairs(f.tags)),
                ],
                output,
                nothing="no files yet; save some: fourfold files put NAME FOLDER",
            )
            return
        show(
            opened.files.manifest(name, version=version, tag=tag).files,
            [
                Column("", lambda f: "x" if f.is_executable else ""),
                Column("SIZE", lambda f: size(f.size_bytes), is_number=True),
                Column("DIGEST", lambda f: f.digest[:19]),
                Column("PATH", lambda f: f.path),
            ],
            output,
        )


@command.command("show")
@click.argument("name")
@pin
@output_option
def show_files(name: str, version: int | None, tag: str | None, output: str) -> None:
    """A version: when, by whom, how many files and bytes."""
    with services() as opened:
        found = opened.files.describe(name, version=version, tag=tag)
    _show_version(found, output)


@command.command("diff")
@click.argument("name")
@click.argument("before", type=int)
@click.argument("after", type=int, required=False)
@output_option
def diff_files(name: str, before: int, after: int | None, output: str) -> None:
    """Files added (+), removed (-) and changed (~) from one version to another, or to the newest."""
    from fourfold.core.files import diff

    with services() as opened:
        found = diff(opened.files.manifest(name, version=before), opened.files.manifest(name, version=after))
    marked = [
        *(("+", file) for file in found.added),
        *(("-", file) for file in found.removed),
        *(("~", file) for file in found.changed),
    ]
    if output != "table":
        show_one(found, (), output)
        return
    show(
        sorted(marked, key=lambda each: each[1].path),
        [
            Column("", lambda each: each[0]),
            Column("SIZE", lambda each: size(each[1].size_bytes), is_number=True),
            Column("PATH", lambda each: each[1].path),
        ],
        output,
        nothing="nothing changed",
    )


@command.command("history")
@click.argument("name")
@click.option("--limit", default=20, show_default=True)
@output_option
def history(name: str, limit: int, output: str) -> None:
    """The versions of a name, newest first."""
    with services() as opened:
        show(
            opened.files.history(name, limit=limit),
            [
                Column("VERSION", lambda v: v.version, is_number=True),
                Column("AT", lambda v: when(v.at)),
                Column("FILES", lambda v: v.file_count, is_number=True),
                Column("SIZE", lambda v: size(v.size_bytes), is_number=True),
                Column("ADDED", lambda v: size(v.added_bytes), is_number=True),
                Column("BY", lambda v: v.by),
                Column("STEP", lambda v: v.step),
                Column("MESSAGE", lambda v: v.message),
            ],
            output,
        )


@command.command("tag")
@click.argument("name")
@click.argument("tag")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@click.option("--why", default="", help="Kept in the history.")
def tag_files(name: str, tag: str, version: int | None, why: str) -> None:
    """Give a version a name of its own."""
    with services() as opened:
        made = opened.files.tag(name, tag, version=version, why=why)
        note(f"{name}@{tag} is version {made.version}")


@command.command("drop")
@click.argument("name")
@click.option("--why", default="", help="Kept in the audit.")
def drop(name: str, why: str) -> None:
    """Forget all versions of a name, for good. Their blobs go with the garbage."""
    with services() as opened:
        opened.files.drop(name, why=why)
        note(f"{name} is dropped; its blobs go with the garbage: fourfold storage gc")


class Meter:
    """A line on the terminal that tells how far it is; silent where nobody watches."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_watched = sys.stderr.isatty()
        self._shown = -1

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown >= 0:
            click.echo(err=True)

    def tell(self, done_bytes: int, total_bytes: int) -> None:
        share = 100 * done_bytes // max(total_bytes, 1)
        if self._is_watched and share != self._shown:
            self._shown = share
            click.echo(
                f"\r{self._what} {size(done_bytes)} of {size(total_bytes)} ({share}%)  ", err=True, nl=False
            )


def _show_version(found: FilesVersion, output: str) -> None:
    show_one(
        found,
        [
            ("files", found.name),
            ("version", f"{found.version} ({when(found.at)})"),
            ("holds", f"{found.file_count} file{'' if found.file_count == 1 else 's'}"),
            ("size", size(found.size_bytes)),
            ("added", f"{size(found.added_bytes)} of {size(found.size_bytes)}"),
            ("in chunks", None if found.chunks is None else "yes"),
            ("by", found.by),
            ("step", found.step),
            ("message", found.message),
            ("manifest", found.manifest),
        ],
        output,
    )
