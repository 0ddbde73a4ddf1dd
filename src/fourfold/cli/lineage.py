"""`fourfold lineage`: what a thing was made from, or went into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import services
from fourfold.cli.output import note, output_option, show_one

if TYPE_CHECKING:
    from fourfold.core.context import Ref
    from fourfold.core.lineage import LineageGraph


@click.command(name="lineage")
@click.argument("ref", metavar="KIND:NAME[@VERSION]")
@click.option("--down", is_flag=True, help="What it went into, instead of what it was made from.")
@click.option("--depth", default=20, show_default=True)
@output_option
def command(ref: str, down: bool, depth: int, output: str) -> None:
    """Draw where a thing came from: table:flights@3, model:delays/2, model:delays@champion, run:ID."""
    from fourfold.core.lineage import Direction

    direction = Direction.downstream if down else Direction.upstream
    with services() as opened:
        kind, name, version = parse(ref)
        if kind == "model" and not version.isdigit():
            found = opened.models.resolve(f"{name}@{version}" if version else name)
            name, version = found.name, str(found.number)
        elif kind == "table" and not version:
            version = str(opened.storage.describe(name).version)
        graph = opened.catalog.lineage(kind, name, version=version, direction=direction, depth=depth)
    if output != "table":
        show_one(graph, (), output)
        return
    for line in tree(graph):
        click.echo(line)
    if len(graph.nodes) == 1:
        note("nothing is recorded beyond it")
    if not graph.is_complete:
        note("there is more beyond; raise --depth")


def parse(text: str) -> tuple[str, str, str]:
    """A reference as kind, name and version.

    >>> parse("table:raw.flights@3"), parse("model:delays/2"), parse("run:run_1")
    (('table', 'raw.flights', '3'), ('model', 'delays', '2'), ('run', 'run_1', ''))
    """
    from fourfold.core.errors import Refused

    kind, colon, rest = text.partition(":")
    if not colon or not rest or not kind:
        raise Refused(
            f"'{text}' names no thing",
            ways_on=["write kind:name or kind:name@version, such as table:flights@3"],
        )
    name, at, version = rest.rpartition("@") if "@" in rest else (rest, "", "")
    if kind == "model" and not at and "/" in rest:
        name, _, version = rest.rpartition("/")
    return kind, name, version


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
