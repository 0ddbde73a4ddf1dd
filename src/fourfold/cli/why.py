"""`fourfold why`: the reason behind a run, a call or a job."""

from __future__ import annotations

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, output_option, show


@click.command(name="why")
@click.argument("thing", metavar="RUN[/CALL]")
@output_option
def command(thing: str, output: str) -> None:
    """Why each call of a flow run (or one call of it) is where it is.

    A job is named by its call: RUN/CALL, or RUN/CALL@ATTEMPT as `job ls` writes it.
    """
    run, _, call = thing.partition("/")
    call, _, attempt = call.rpartition("@") if "@" in call else (call, "", "")
    with services() as opened:
        reasons = opened.flows.why(run, call=call)
        show(
            reasons,
            [
                Column("CALL", lambda r: r.call),
                Column("STATE", lambda r: r.state),
                Column("WHY", lambda r: r.reason),
            ],
            output,
            nothing="no calls yet",
        )
        if attempt and output == "table":
            job = opened.compute.job(thing)
            ended = job.report.exit
            click.echo(
                f"\nattempt {attempt}: {ended.kind.value}{': ' + ended.reason if ended.reason else ''}"
            )
            click.echo(job.account.sentence)
