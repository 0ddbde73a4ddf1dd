"""`fourfold feature`: views, services, freshness, audit, explanation."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import parameter_option, plain_parameters, services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, when


@click.group(cls=Verbs, name="feature")
def command() -> None:
    """Features: views, services, audit, explanation."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """The features of every view."""
    with services() as opened:
        views = opened.features.list_views()
    rows = views if output != "table" else [(v, name, kind) for v in views for name, kind in v.kinds.items()]
    show(
        rows,
        [
            Column("FEATURE", lambda r: f"{r[0].view.name}.{r[1]}"),
            Column("TYPE", lambda r: r[2].value),
            Column("KEYS", lambda r: r[0].view.entity.keys),
            Column("SOURCE", lambda r: r[0].view.source.name),
            Column("OWNER", lambda r: r[0].view.owner),
            Column("VERSION", lambda r: r[0].version),
            Column("APPLIED", lambda r: when(r[0].applied_at)),
        ],
        output,
        nothing="no features yet; define views and apply them",
    )


@command.command("services")
@output_option
def services_(output: str) -> None:
    """Feature services: what each model needs."""
    with services() as opened:
        show(
            opened.features.list_services(),
            [
                Column("SERVICE", lambda s: s.service.name),
                Column("VERSION", lambda s: s.version),
                Column("FEATURES", lambda s: len(s.kinds), is_number=True),
                Column("VIEWS", lambda s: tuple(use.view for use in s.service.uses)),
                Column("REQUEST", lambda s: s.service.request),
                Column("OWNER", lambda s: s.service.owner),
                Column("APPLIED", lambda s: when(s.applied_at)),
            ],
            output,
            nothing="no feature services yet",
        )


@command.command("show")
@click.argument("name", metavar="VIEW")
@click.option("--version", default=None)
@output_option
def show_view(name: str, version: str | None, output: str) -> None:
    """A view: its source, its features and how each is made."""
    with services() as opened:
        info = opened.features.view(name, version=version)
    view = info.view
    made = {latest.name: f"latest {latest.column}" for latest in view.latest}
    for window in view.windows:
        kind = f"{window.function}({window.column})" + (f" where {window.where}" if window.where else "")
        made[window.name] = f"{kind} over {window.length_us / 1e6:g} s"
    made |= {expression.name: expression.sql for expression in view.expressions}
    show_one(
        info,
        [
            ("view", view.name),
            ("version", info.version + ("" if info.is_current else " (not the present one)")),
            ("entity", f"{view.entity.name} ({', '.join(view.entity.keys)})"),
            ("source", f"{view.source.name}, table {view.source.table}, time {view.source.time}"),
            ("available at", view.source.available_at),
            ("owner", view.owner),
            ("about", view.description),
            ("tags", view.tags),
            *(
                (f"  {feature}", f"{made.get(feature, '')} ({kind.value})")
                for feature, kind in info.kinds.items()
            ),
        ],
        output,
    )


@command.command("freshness")
@output_option
def freshness(output: str) -> None:
    """How far the online store is behind each source."""
    with services() as opened:
        show(
            opened.features.freshness(),
            [
                Column("SOURCE", lambda f: f.source),
                Column("NEWEST EVENT", lambda f: when(f.newest_event_at)),
                Column("NEWEST KNOWN", lambda f: when(f.newest_available_at)),
                Column("WAITING", lambda f: f.events_waiting, is_number=True),
                Column("APPLIED", lambda f: f.applied, is_number=True),
                Column("DOUBLE", lambda f: f.duplicates, is_number=True),
                Column("TOO LATE", lambda f: f.too_late, is_number=True),
                Column("BUFFERED", lambda f: f.buffered, is_number=True),
            ],
            output,
            nothing="no sources yet",
        )


@command.command("audit")
@click.argument("service")
@click.argument("table", metavar="TABLE")
@click.option("--at", default="t", show_default=True, help="The column with each row's time.")
@click.option("--watermark", default="watermark", show_default=True)
@output_option
def audit(service: str, table: str, at: str, watermark: str, output: str) -> int | None:
    """Recompute what TABLE (a prediction log) says was served, and compare feature by feature."""
    with services() as opened:
        report = opened.features.audit(service, opened.storage.read(table), at=at, watermark=watermark)
    if output != "table":
        show_one(report, (), output)
    else:
        show(
            report.features,
            [
                Column("FEATURE", lambda f: f.feature),
                Column("ROWS", lambda f: f.rows, is_number=True),
                Column("EQUAL", lambda f: f.equal, is_number=True),
                Column("DIFFERENT", lambda f: f.mismatched, is_number=True),
                Column("MISSING", lambda f: f.missing, is_number=True),
                Column("EXTRA", lambda f: f.extra, is_number=True),
                Column("GREATEST", lambda f: f.greatest_difference, is_number=True),
                Column("FIRST DIFFERENCE", lambda f: f.example),
            ],
            output,
        )
        skipped = f", {report.skipped} skipped" if report.skipped else ""
        note(f"{report.equal_share:.4%} of {report.rows} rows' values are equal{skipped}")
    return None if report.is_equal else 1


@command.command("explain")
@click.argument("feature", metavar="VIEW.FEATURE")
@parameter_option
@click.option("--at", default="", metavar="TIME", help="ISO 8601 with a zone [default: now].")
@click.option("--limit", default=20, show_default=True, help="Events shown at most.")
@output_option
def explain(feature: str, params: tuple[str, ...], at: str, limit: int, output: str) -> None:
    """Which events a value is made of: fourfold feature explain VIEW.FEATURE -p carrier=UA"""
    from fourfold.core.times import parse_instant

    with services() as opened:
        found = opened.features.explain(
            feature, plain_parameters(params), at=parse_instant(at) if at else None, limit=limit
        )
    if output != "table":
        show_one(found, (), output)
        return
    show_one(
        found,
        [
            ("feature", found.feature),
            ("value", "null" if found.value is None else found.value),
            ("window", f"[{when(found.start) or 'the beginning'}, {when(found.end)})"),
            ("events", found.event_count),
            ("table version", found.table_version),
            ("expression", found.sql),
            ("inputs", pairs(found.inputs)),
        ],
        output,
    )
    if found.contributions:
        click.echo()
        show(
            found.contributions,
            [
                Column("EVENT", lambda c: c.event_id),
                Column("HAPPENED", lambda c: when(c.event_at)),
                Column("KNOWN", lambda c: when(c.available_at)),
                Column("VALUE", lambda c: "null" if c.value is None else c.value, is_number=True),
            ],
            output,
        )
