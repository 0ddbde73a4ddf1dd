"""`fourfold lineage`: what a thing was made from, or went into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import services
from fourfold.cli.output import note, show_one

if TYPE_CHECKING:
    from fourfold.core.context import Ref
    from fourfold.core.lineage import ColumnGraph, Direction, LineageGraph
    from fourfold.core.services import Services
    from fourfold.core.times import Instant


class OfByItself(click.Group):
    """`fourfold lineage REF` is `fourfold lineage of REF`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["of", *args]
        return super().parse_args(ctx, args)


@click.group(cls=OfByItself, name="lineage")
def command() -> None:
    """What a thing was made from, or went into.

    A thing is enough to draw it: fourfold lineage table:flights@3.
    """


@command.command("export")
@click.option(
    "--format", "kind", type=click.Choice(["openlineage"]), default="openlineage", show_default=True
)
@click.option("--since", default="", help="Of runs made at or after this time: 2026-01-31T06:00:00Z [all].")
def export(kind: str, since: str) -> None:  # noqa: ARG001 - there is one format so far
    """Tell all that flows did again, as OpenLineage events, one a line."""
    from fourfold.core import wire
    from fourfold.core.times import Instant, parse_instant

    begin = parse_instant(since) if since else Instant(0)
    with services() as opened:
        page = opened.flows.lineage_events(begin)
        while page.last:
            for event in page.events:
                click.echo(wire.encode(event))
            page = opened.flows.lineage_events(begin, after=page.last)


@command.command("of")
@click.argument("ref", metavar="KIND:NAME[@VERSION][#COLUMN]")
@click.option(
    "--up", "down", flag_value=False, type=bool, default=False, help="What it was made from [default]."
)
@click.option("--down", "down", flag_value=True, type=bool, help="What it went into.")
@click.option("--depth", default=20, show_default=True)
@click.option("--columns", is_flag=True, help="Which columns act on which, where queries made the versions.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "svg"]),
    default="text",
    show_default=True,
    help="For people, for programs, or as a picture.",
)
@click.option(
    "--open",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture (SVG) to this file, and show it in the browser.",
)
def of(ref: str, down: bool, depth: int, columns: bool, output: str, file: Path | None) -> None:
    """Draw where a thing came from: table:flights@3, table:flights#delay, model:delays/2, run:ID.

    A table's version may be named by a tag or a time, and a branch in its place: table:flights@tag:report,
    table:flights@2013-06-01T00:00Z, table:flights@dev/try-1, table:flights@dev/try-1@3.

    The word `of` may be left out.
    """
    from fourfold.core.lineage import Direction

    direction = Direction.downstream if down else Direction.upstream
    with services() as opened:
        wanted = _resolved(parse(ref), opened)
        of_columns = columns or bool(wanted.column)
        if output == "svg" or file is not None:
            drawn = opened.catalog.lineage_picture(
                wanted.kind,
                wanted.name,
                version=wanted.version,
                columns=of_columns,
                column=wanted.column,
                direction=direction,
                depth=depth,
            )
            _give(drawn, file)
        elif of_columns:
            _tell_columns(_column_graph(opened, wanted, direction, depth), output)
        else:
            graph = opened.catalog.lineage(
                wanted.kind, wanted.name, version=wanted.version, direction=direction, depth=depth
            )
            _tell(graph, output)


@dataclass(frozen=True, slots=True)
class Named:
    """What a reference on the command line names."""

    kind: str
    name: str
    version: str = ""
    column: str = ""
    tag: str = ""
    at: Instant | None = None


def parse(text: str) -> Named:
    """A reference as kind, name, version and column; of a table also by tag or time, and of a branch.

    Behind a table's name `@3` is a version, as lineage writes it, and anything else than a version, a tag
    or a time is a branch. A column begins at the first '#'.

    >>> parse("model:delays/2")
    Named(kind='model', name='delays', version='2', column='', tag='', at=None)
    >>> parse("table:raw.flights@dev/try-1@3#dep delay")
    Named(kind='table', name='raw.flights@dev/try-1', version='3', column='dep delay', tag='', at=None)
    """
    from fourfold.core.errors import Refused

    kind, colon, rest = text.partition(":")
    if not colon or not rest or not kind:
        raise Refused(
            f"'{text}' names no thing",
            ways_on=["write kind:name or kind:name@version, such as table:flights@3"],
        )
    if kind == "table":
        return _table(rest)
    column = ""
    if kind in ("training_set", "labels"):  # only some: a step's name holds a '#' of its own
        rest, _, column = rest.partition("#")
    name, at, version = rest.rpartition("@") if "@" in rest else (rest, "", "")
    if kind == "model" and not at and "/" in rest:
        name, _, version = rest.rpartition("/")
    return Named(kind, name, version, column)


def _table(text: str) -> Named:
    from fourfold.core.storage import table_pin

    address, _, column = text.partition("#")
    name, at, version = address.rpartition("@")
    if at and version.isdecimal() and "@tag:" not in address:
        address = f"{name}@v{version}"
    pin = table_pin(address)
    return Named(
        "table",
        pin.address,
        version="" if pin.version is None else str(pin.version),
        column=column,
        tag=pin.tag or "",
        at=pin.at,
    )


def _resolved(wanted: Named, opened: Services) -> Named:
    """The same with a number: the newest version, or the one that a tag, a time or an alias names."""
    name = wanted.name
    match wanted.kind:
        case "model" if not wanted.version.isdigit():
            version = f"@{wanted.version}" if wanted.version else ""
            found = opened.models.resolve(name + version)
            return Named("model", found.name, str(found.number))
        case "table" if not wanted.version:
            number = opened.storage.describe(name, at=wanted.at, tag=wanted.tag or None).version
            return Named("table", name, str(number), wanted.column)
        case "files" if not wanted.version:
            return Named("files", name, str(opened.files.describe(name).version))
        case "dataset" if not wanted.version:
            return Named("dataset", name, str(opened.datasets.released(name).version))
        case "feature_service" if not wanted.version:
            return Named("feature_service", name, opened.features.service(name).version)
        case _:
            return wanted


def _column_graph(opened: Services, wanted: Named, direction: Direction, depth: int) -> ColumnGraph:
    return opened.catalog.column_lineage(
        wanted.kind,
        wanted.name,
        version=wanted.version,
        column=wanted.column,
        direction=direction,
        depth=depth,
    )


def _give(drawn: bytes, file: Path | None) -> None:
    if file is None:
        click.echo(drawn.decode(), nl=False)
        return
    import webbrowser

    file.write_bytes(drawn)
    if webbrowser.open(file.resolve().as_uri()):
        note(f"the picture is in {file}")
    else:
        note(f"the picture is in {file}; no browser was found to show it")


def _tell(graph: LineageGraph, output: str) -> None:
    if output == "json":
        show_one(graph, (), output)
        return
    for line in tree(graph):
        click.echo(line)
    if len(graph.nodes) == 1:
        note("nothing is recorded beyond it")
    if not graph.is_complete:
        note("there is more beyond; raise --depth")


def _tell_columns(graph: ColumnGraph, output: str) -> None:
    if output == "json":
        show_one(graph, (), output)
        return
    for line in column_lines(graph):
        click.echo(line)
    if not graph.edges:
        note("no query is recorded that says where its columns come from; see it without --columns")
    if not graph.is_complete:
        note("there is more beyond; raise --depth")


def tree(graph: LineageGraph) -> list[str]:
    """The graph as a tree from its start; a thing met again is marked and not opened twice."""
    upstream = graph.direction.value == "upstream"
    beyond: dict[Ref, set[Ref]] = {}
    for edge in graph.edges:
        here, there = (edge.target, edge.source) if upstream else (edge.source, edge.target)
        beyond.setdefault(here, set()).add(there)
    lines = [str(graph.start)]
    seen = {graph.start}

    def draw(ref: Ref, indent: str) -> None:
        children = sorted(beyond.get(ref, ()))
        for index, child in enumerate(children):
            is_last = index == len(children) - 1
            again = child in seen and bool(beyond.get(child))
            lines.append(f"{indent}{'└─ ' if is_last else '├─ '}{child}" + (" (above)" if again else ""))
            if child not in seen:
                seen.add(child)
                draw(child, indent + ("   " if is_last else "│  "))

    draw(graph.start, "")
    return lines


def column_lines(graph: ColumnGraph) -> list[str]:
    """Each version that a query made, and under it what acts on its columns; `*` stands for all rows."""
    lines: list[str] = []
    unknown = {made.target: made.unknown for made in graph.queries if made.unknown}
    of_target: dict[Ref, list[tuple[str, str, str]]] = {}
    for edge in graph.edges:
        how = edge.how.value.replace("_", " ") + (" (masked)" if edge.is_masked else "")
        source = f"{edge.source}#{edge.source_column}" if edge.source_column else str(edge.source)
        of_target.setdefault(edge.target, []).append((edge.column or "*", how, source))
    for target in sorted(of_target, key=lambda each: (each != graph.start, each)):
        rows = sorted(of_target[target], key=lambda row: (row[0] == "*", row))
        name_width = max(len(name) for name, _, _ in rows)
        how_width = max(len(how) for _, how, _ in rows)
        lines.append(str(target) + (f"   not followed: {unknown[target]}" if target in unknown else ""))
        before = ""
        for name, how, source in rows:
            shown = "" if name == before else name
            lines.append(f"  {shown.ljust(name_width)}  {how.ljust(how_width)}  {source}".rstrip())
            before = name
    return lines
