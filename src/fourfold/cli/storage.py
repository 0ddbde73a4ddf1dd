"""`fourfold storage`: the upkeep of what is stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, show_one, size, when

if TYPE_CHECKING:
    from fourfold.core.upkeep import BadBlob


@click.group(cls=Verbs, name="storage")
def command() -> None:
    """Check what is stored, and remove what nobody needs."""


@command.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--grace", default="7d", show_default=True, help="How long a blob that nothing cites is kept.")
@click.option("--timeout", default="1h", show_default=True, help="Stop then; run it again for the rest.")
@output_option
def gc(dry_run: bool, grace: str, timeout: str, output: str) -> None:
    """Remove blobs that nothing cites.

    Safe while the project is in use: what was put within the grace is kept, and so is what a row, a version
    or a manifest cites.
    """
    from fourfold.core.times import duration_s

    with services() as opened:
        done = opened.upkeep.collect_garbage(
            grace_s=duration_s(grace), is_dry_run=dry_run, timeout_s=duration_s(timeout)
        )
    show_one(
        done,
        [
            ("would be removed" if dry_run else "removed", _count(done.removed_count, done.removed_bytes)),
            ("cited", _count(done.cited_count, done.cited_bytes)),
            (f"put after {when(done.before)}", _count(done.young_count, done.young_bytes)),
            ("pieces of uploads", size(done.pieces_removed_bytes) if done.pieces_removed_bytes else ""),
            ("quarantine", size(done.quarantine_removed_bytes) if done.quarantine_removed_bytes else ""),
        ],
        output,
    )
    if not done.is_complete:
        note("its time ran out before all was looked at; run it again")


@command.command("check")
@output_option
def check(output: str) -> int | None:
    """Read and verify every blob, and find those that are cited and not there. Exits with 1 when one is bad.

    May be interrupted at any time; what was found wrong until then was put aside.
    """
    bad: list[BadBlob] = []
    count = size_bytes = 0
    with services() as opened:
        after = None
        while True:
            checked = opened.upkeep.check(after=after)
            bad += checked.bad
            count, size_bytes, after = count + checked.count, size_bytes + checked.size_bytes, checked.next
            if after is None:
                break
            note(f"verified {_count(count, size_bytes)}, up to {after[:11]}")
        bad += opened.upkeep.missing()
    note(f"verified {_count(count, size_bytes)}")
    _show(bad, output, nothing="all is well")
    return 1 if bad else None


@command.command("quarantine")
@output_option
def quarantine(output: str) -> None:
    """Blobs that were put aside because their bytes were wrong. Storing the right bytes again heals them."""
    with services() as opened:
        _show(opened.upkeep.quarantine(), output, nothing="nothing is in quarantine")


def _show(bad: Iterable[BadBlob], output: str, *, nothing: str) -> None:
    show(
        bad,
        [
            Column("BLOB", lambda b: b.digest),
            Column("IS", lambda b: b.fault),
            Column("SIZE", lambda b: size(b.size_bytes), is_number=True),
            Column("AT", lambda b: when(b.at)),
            Column("NEEDED BY", lambda b: b.cited_by),
        ],
        output,
        nothing=nothing,
    )


def _count(count: int, size_bytes: int) -> str:
    return f"{count} blob{'' if count == 1 else 's'}, {size(size_bytes)}"
