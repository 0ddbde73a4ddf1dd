"""What commands print: small aligned tables for people, JSON for programs."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Column:
    """One column of a table: its header, and what of a value it shows."""

    header: str
    of: Callable[[Any], object]
    is_number: bool = False


def output_option(command: F) -> F:
    """`-o table|json|jsonl`, as every listing has it."""
    option = click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        show_default=True,
        help="For people, or for programs.",
    )
    return option(command)


def show(rows: Iterable[Any], columns: Sequence[Column], output: str, *, nothing: str = "nothing") -> None:
    """Print values as a table, as one JSON array, or as one JSON object a line."""
    if output == "table":
        table = [[_cell(column.of(row)) for column in columns] for row in rows]
        if not table:
            note(nothing)
            return
        for line in aligned([c.header for c in columns], table, [c.is_number for c in columns]):
            click.echo(line)
        return
    from fourfold.core import wire

    if output == "jsonl":
        for row in rows:
            click.echo(wire.encode(row))
    else:
        click.echo(_pretty(list(rows)))


def show_one(value: Any, facts: Iterable[tuple[str, object]], output: str) -> None:
    """Print one value: its facts as lines, or the whole of it as JSON."""
    if output == "table":
        lines = [(name, _cell(fact)) for name, fact in facts if fact not in (None, "", ())]
        width = max((len(name) for name, _ in lines), default=0)
        for name, text in lines:
            click.echo(f"{dim(name.ljust(width))}  {text}")
    elif output == "jsonl":
        from fourfold.core import wire

        click.echo(wire.encode(value))
    else:
        click.echo(_pretty(value))


def note(text: str) -> None:
    """Something for people beside the output: on stderr, so that pipes stay clean."""
    click.echo(text, err=True)


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]], is_number: Sequence[bool]) -> list[str]:
    """The lines of a table: two spaces between columns, numbers to the right.

    >>> for line in aligned(["name", "rows"], [["flights", "336776"], ["planes", "3322"]], [False, True]):
    ...     print(line)
    name       rows
    flights  336776
    planes     3322
    """
    widths = [max(map(width_of, column)) for column in zip(headers, *rows, strict=True)]
    last = len(widths) - 1

    def line(cells: Sequence[str]) -> str:
        padded = [
            " " * (width - width_of(cell)) + cell
            if number
            else cell
            if index == last
            else cell + " " * (width - width_of(cell))
            for index, (cell, width, number) in enumerate(zip(cells, widths, is_number, strict=True))
        ]
        return _fitted("  ".join(padded).rstrip())

    return [dim(line(headers)), *map(line, rows)]


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes.

    >>> width_of("naïve"), width_of("東京")
    (5, 4)
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def dim(text: str) -> str:
    """The text less bright, where colours are wanted."""
    return click.style(text, dim=True) if has_colour() else text


def has_colour() -> bool:
    """Whether to write colours: to a terminal, unless `NO_COLOR` is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def when(at: int | None) -> str:
    """An instant for people: to the second, UTC."""
    if not at:
        return ""
    from fourfold.core.times import Instant, moment

    return moment(Instant(at)).strftime("%Y-%m-%d %H:%M:%SZ")


def took(start: int | None, end: int | None) -> str:
    """The time between two instants, for people."""
    if start is None or end is None:
        return ""
    from fourfold.core.times import Instant, duration_text, seconds_between

    return duration_text(seconds_between(Instant(start), Instant(end)))


def seconds(value: float | None) -> str:
    """Seconds for people; nothing where they are not known."""
    from fourfold.core.times import duration_text

    return "" if value is None else duration_text(value)


def size(count: float | None) -> str:
    """Bytes for people; nothing where they are not known."""
    from fourfold.core.quantities import bytes_text

    return "" if count is None else bytes_text(count)


def percent(share: float | None) -> str:
    """A share as a percentage; nothing where it is not known."""
    return "" if share is None else f"{share:.0%}"


def pairs(mapping: Any) -> str:
    """A mapping in one cell.

    >>> pairs({"depth": 3, "auc": 0.71234})
    'depth=3 auc=0.7123'
    """
    return " ".join(f"{key}={_cell(value)}" for key, value in dict(mapping or {}).items())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return ", ".join(_cell(item) for item in value)
    # Control characters in a name or a log line must not steer somebody's terminal.
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(value)
    )


def _fitted(line: str) -> str:
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return line if width_of(line) <= width else line[: max(width - 1, 20)] + "…"


def _pretty(value: Any) -> bytes:
    import msgspec

    from fourfold.core import wire

    return msgspec.json.format(wire.encode(value), indent=2)
