"""`fourfold dataset`: named, versioned bundles of tables and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, percent, show, show_one, size, when

if TYPE_CHECKING:
    from fourfold.core.context import Ref
    from fourfold.core.datasets import Drift, Member, MemberChange


@click.group(cls=Verbs, name="dataset")
def command() -> None:
    """Named, versioned bundles of tables and files."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All datasets."""
    with services() as opened:
        show(
            opened.datasets.list_datasets(),
            [
                Column("DATASET", lambda d: d.name),
                Column("VERSION", lambda d: d.newest.version if d.newest else None, is_number=True),
                Column("MEMBERS", lambda d: len(d.definition.members), is_number=True),
                Column("RELEASED", lambda d: when(d.newest.at) if d.newest else ""),
                Column("OWNER", lambda d: d.definition.owner),
                Column("LABELS", lambda d: d.definition.labels),
                Column("TAGS", lambda d: pairs(d.tags)),
                Column("DESCRIPTION", lambda d: d.definition.description),
            ],
            output,
            nothing="no datasets yet; make one: fourfold dataset define NAME --table flights",
        )


@command.command("define")
@click.argument("name")
@click.option("--table", "tables", multiple=True, metavar="NAME[@VERSION]", help="A table; may be repeated.")
@click.option("--files", "files", multiple=True, metavar="NAME[@VERSION]", help="Files; may be repeated.")
@click.option("--description", default="")
@click.option("--owner", default="")
@click.option("--label", "labels", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--why", default="", help="Kept in the audit.")
def define(
    name: str,
    tables: tuple[str, ...],
    files: tuple[str, ...],
    description: str,
    owner: str,
    labels: tuple[str, ...],
    why: str,
) -> None:
    """Say what a dataset is made of, in place of what was said.

    With @VERSION a member is that version for good; without, it is taken as it is at each release.
    """
    from fourfold.core.datasets import Definition
    from fourfold.core.errors import Refused

    members: dict[str, Ref] = {}
    for kind, given in (("table", tables), ("files", files)):
        for text in given:
            ref = _ref(kind, text)
            if ref.name in members:
                raise Refused(f"two members are called '{ref.name}'", ways_on=["in Python, give them names"])
            members[ref.name] = ref
    with services() as opened:
        made = opened.datasets.define(name, Definition(members, description, owner, labels), why=why)
    note(
        f"{name} has {len(made.definition.members)} members; make a version: fourfold dataset release {name}"
    )


@command.command("release")
@click.argument("name")
@click.option("--why", default="", help="Kept with the version.")
@output_option
def release(name: str, why: str, output: str) -> None:
    """Make a version that pins each member as it is now."""
    with services() as opened:
        before = opened.datasets.dataset(name).newest
        made = opened.datasets.release(name, why=why)
    if before is not None and before.version == made.version:
        note(f"nothing changed: all members are as in version {made.version}")
    show_one(
        made,
        [("version", made.version), ("digest", made.digest), *((m.name, m.ref) for m in made.members)],
        output,
    )


@command.command("show")
@click.argument("name")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@click.option("--tag", default=None)
@output_option
def show_dataset(name: str, version: int | None, tag: str | None, output: str) -> None:
    """What a dataset is made of, and what a version pins."""
    with services() as opened:
        info = opened.datasets.dataset(name)
        named = version is not None or tag is not None
        found = opened.datasets.released(name, version=version, tag=tag) if named else info.newest
    if output != "table":
        show_one(found if named else info, [], output)
        return
    definition = info.definition
    facts: list[tuple[str, object]] = [
        ("dataset", info.name),
        ("description", definition.description),
        ("owner", definition.owner),
        ("labels", definition.labels),
        ("tags", pairs(info.tags)),
    ]
    if found is None:
        facts.append(("version", "none yet"))
        facts += [(f"  {member}", str(ref)) for member, ref in sorted(definition.members.items())]
    else:
        facts += [
            ("version", f"{found.version} ({when(found.at)})"),
            ("by", found.by),
            ("why", found.why),
            ("digest", found.digest),
            *((f"  {member.name}", _told(member)) for member in found.members),
        ]
    show_one(info, facts, output)


@command.command("history")
@click.argument("name")
@click.option("--limit", default=20, show_default=True)
@output_option
def history(name: str, limit: int, output: str) -> None:
    """A dataset's versions, newest first."""
    with services() as opened:
        show(
            opened.datasets.releases(name, limit=limit),
            [
                Column("VERSION", lambda v: v.version, is_number=True),
                Column("AT", lambda v: when(v.at)),
                Column("MEMBERS", lambda v: tuple(str(m.ref) for m in v.members)),
                Column("BY", lambda v: v.by),
                Column("WHY", lambda v: v.why),
            ],
            output,
            nothing=f"{name} has no version yet",
        )


@command.command("diff")
@click.argument("name")
@click.argument("before", type=int)
@click.argument("after", type=int, required=False)
@output_option
def diff(name: str, before: int, after: int | None, output: str) -> None:
    """Members that are others, and the columns that moved, the farthest first."""
    with services() as opened:
        found = opened.datasets.diff_releases(name, before=before, after=after)
    if output != "table":
        show_one(found, [], output)
        return
    show(
        found.changes,
        [
            Column("", lambda c: "+" if c.before is None else "-" if c.after is None else "~"),
            Column("MEMBER", lambda c: c.name),
            Column("BEFORE", lambda c: _told(c.before)),
            Column("AFTER", lambda c: _told(c.after)),
            Column("COLUMNS", _columns),
        ],
        output,
        nothing="nothing changed",
    )
    if found.drift:
        click.echo()
        show(
            found.drift,
            [
                Column("COLUMN", lambda d: f"{d.member}.{d.column}"),
                Column("MOVED", lambda d: percent(d.distance), is_number=True),
                Column("NULL", lambda d: _moved(percent(d.nulls_before), percent(d.nulls_after))),
                Column("DISTINCT", _distinct),
            ],
            output,
        )


@command.command("check")
@click.argument("name")
@click.option("--version", type=int, default=None, help="[default: its tables as they are now]")
@output_option
def check(name: str, version: int | None, output: str) -> int:
    """Hold a dataset's tables against what is expected of them; ends with 1 where something is not so."""
    with services() as opened:
        found = opened.datasets.check_dataset(name, version=version)
    verdicts = [(each, verdict) for each in found for verdict in each.verdicts]
    if output == "table":
        show(
            verdicts,
            [
                Column("TABLE", lambda v: f"{v[0].table}@{v[0].version}"),
                Column("", lambda v: "ok" if v[1].passed else "NOT SO" if v[1].refuses else "warning"),
                Column("WHAT", lambda v: v[1].reason),
            ],
            output,
            nothing="nothing is expected of its tables",
        )
    else:
        show(found, [], output)
    return 1 if any(verdict.refuses for _, verdict in verdicts) else 0


@command.command("tag")
@click.argument("name")
@click.argument("tag")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@click.option("--why", default="", help="Kept in the history.")
def tag(name: str, tag: str, version: int | None, why: str) -> None:
    """Give a version a name of its own."""
    with services() as opened:
        made = opened.datasets.tag_release(name, tag, version=version, why=why)
        note(f"{name}@{tag} is version {made.version}")


def _ref(kind: str, text: str) -> Ref:
    from fourfold.core.context import Ref

    name, _, version = text.partition("@")
    return Ref(kind, name, version)


def _told(member: Member | None) -> str:
    if member is None:
        return ""
    rows = "" if member.rows is None else f", {member.rows:,} rows"
    return f"{member.ref}{rows}" + ("" if member.size_bytes is None else f", {size(member.size_bytes)}")


def _columns(change: MemberChange) -> str:
    added = [f"+{column.name}" for column in change.columns_added]
    return " ".join([*added, *(f"-{column.name}" for column in change.columns_removed)])


def _distinct(moved: Drift) -> str:
    if moved.distinct_before is None or moved.distinct_after is None:
        return ""
    return _moved(f"{moved.distinct_before:,}", f"{moved.distinct_after:,}")


def _moved(before: str, after: str) -> str:
    return before if before == after else f"{before} to {after}"
