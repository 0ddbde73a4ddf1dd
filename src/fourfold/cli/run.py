"""`fourfold run`: experiment runs."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, output_option, pairs, show, show_one, size, took, when


@click.group(cls=Verbs, name="run")
def command() -> None:
    """Experiment runs: metrics, params, files."""


@command.command("ls")
@click.option("--where", default="", help="Such as: metrics.auc > 0.7 and params.depth = 5")
@click.option("--order-by", multiple=True, help="Such as: metrics.auc desc; may be repeated.")
@click.option("--limit", default=20, show_default=True)
@output_option
def ls(where: str, order_by: tuple[str, ...], limit: int, output: str) -> None:
    """Runs that meet a condition, newest first."""
    with services() as opened:
        show(
            opened.models.search_runs(where, order_by=order_by, limit=limit),
            [
                Column("RUN", lambda r: r.id),
                Column("NAME", lambda r: r.name),
                Column("EXPERIMENT", lambda r: r.experiment),
                Column("STATUS", lambda r: r.status.value),
                Column("STARTED", lambda r: when(r.started_at)),
                Column("TOOK", lambda r: took(r.started_at, r.ended_at), is_number=True),
                Column("METRICS", lambda r: pairs(r.metrics)),
                Column("PARAMS", lambda r: pairs(r.params)),
            ],
            output,
            nothing="no such runs",
        )


@command.command("show")
@click.argument("run")
@output_option
def show_run(run: str, output: str) -> None:
    """One run: metrics, params, tags, files, code, data."""
    with services() as opened:
        found = opened.models.get_run(run)
    show_one(
        found,
        [
            ("run", found.id),
            ("name", found.name),
            ("experiment", found.experiment),
            ("status", found.status.value + (f": {found.reason}" if found.reason else "")),
            ("by", found.by),
            ("started", when(found.started_at)),
            ("took", took(found.started_at, found.ended_at)),
            ("step", found.step),
            ("commit", found.code.commit),
            ("environment", found.environment),
            ("seed", found.seed),
            ("data", tuple(map(str, found.data))),
            ("tags", pairs(found.tags)),
            *(
                (f"  param {name}", "null" if value is None else value)
                for name, value in found.params.items()
            ),
            *((f"  metric {name}", value) for name, value in found.metrics.items()),
            *((f"  file {file.path}", size(file.size_bytes)) for file in found.files),
        ],
        output,
    )


@command.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Also what is the same in all.")
@output_option
def compare(runs: tuple[str, ...], everything: bool, output: str) -> None:
    """Runs side by side: the params and metrics in which they differ."""
    with services() as opened:
        found = [opened.models.get_run(run) for run in runs]
    rows = []
    for kind in ("params", "metrics", "tags"):
        for name in sorted({name for run in found for name in getattr(run, kind)}):
            values = [getattr(run, kind).get(name) for run in found]
            if everything or len(found) == 1 or any(value != values[0] for value in values):
                rows.append({"what": f"{kind[:-1]} {name}", **dict(zip(runs, values, strict=True))})
    columns = [Column("", lambda row: row["what"])]
    columns += [_run_column(run, found[index].name) for index, run in enumerate(runs)]
    show(rows, columns, output, nothing="they are the same; --all shows what they share")


def _run_column(run: str, name: str) -> Column:
    return Column(f"{name} {run[-6:]}", lambda row: row[run], is_number=True)
