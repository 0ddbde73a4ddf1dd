"""`fourfold service`: long-lived commands, kept running while `fourfold up` is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, when

if TYPE_CHECKING:
    from fourfold.core.serving import ServiceInfo


LOOKS, LOOK_S = 8, 0.25
"""Whoever looks after services takes a new one within a second: so long a start is followed."""


@click.group(cls=Verbs, name="service")
def command() -> None:
    """Commands that are kept running."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All services with their state and address."""
    with services() as opened:
        found = opened.compute.services()
    show(
        found,
        [
            Column("SERVICE", lambda s: s.spec.name),
            Column("STATE", lambda s: s.state.phase.value),
            Column("ADDRESS", lambda s: s.state.address),
            Column("SINCE", lambda s: when(s.state.since)),
            Column("STARTS", lambda s: s.state.generation, is_number=True),
            Column("WHY", lambda s: s.state.reason),
        ],
        output,
        nothing="no services; start one: fourfold service start NAME -- COMMAND",
    )
    if output == "table":
        _say_if_left([each for each in found if each.state.is_wanted])


@command.command("start")
@click.argument("name")
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED)
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option("--cwd", default="", help="The folder it runs in; the project's by default.")
@click.option(
    "--probe", default="tcp", show_default=True, help="How it is asked whether it is well: tcp, http, none."
)
@click.option("--path", default="/", show_default=True, help="What an http probe gets.")
@click.option("--ready-within", default="60s", show_default=True, help="How long its start may take.")
@output_option
def start(
    name: str, argv: tuple[str, ...], env: tuple[str, ...], cwd: str, probe: str, path: str,
    ready_within: str, output: str,
) -> None:  # fmt: skip
    """Keep a command running; it listens on the port in FOURFOLD_PORT."""
    from fourfold.cli.opened import parameters
    from fourfold.core.times import duration_s

    with services() as opened:
        found = opened.compute.start_service(
            name,
            list(argv),
            env=parameters(env),
            cwd=cwd,
            probe=probe,
            path=path,
            ready_within_s=duration_s(ready_within),
        )
        for _ in range(LOOKS):
            if found.is_kept:
                break
            time.sleep(LOOK_S)
            found = opened.compute.service(name)
    _show(found, output)


@command.command("stop")
@click.argument("name")
@click.option("--remove", is_flag=True, help="Forget a service that is stopped.")
@output_option
def stop(name: str, remove: bool, output: str) -> None:
    """Drain a service and stop it."""
    with services() as opened:
        found = opened.compute.stop_service(name, remove=remove)
    _show(found, output)


@command.command("show")
@click.argument("name")
@output_option
def show_service(name: str, output: str) -> None:
    """One service."""
    with services() as opened:
        found = opened.compute.service(name)
    _show(found, output)


@command.command("logs")
@click.argument("name")
def logs(name: str) -> None:
    """What its present start has printed so far."""
    with services() as opened:
        offset = 0
        while True:
            piece = opened.compute.service_logs(name, offset=offset)
            click.echo(piece.text, nl=False)
            if piece.next_offset == offset:
                return
            offset = piece.next_offset


def _show(found: ServiceInfo, output: str) -> None:
    spec, state = found.spec, found.state
    show_one(
        found,
        [
            ("service", spec.name),
            ("state", state.phase.value + (f": {state.reason}" if state.reason else "")),
            ("since", when(state.since)),
            ("address", state.address),
            ("starts", state.generation),
            ("failures in a row", state.failures_in_row or ""),
            ("started again", when(state.next_at)),
            ("command", " ".join(spec.argv)),
            ("settings", pairs(spec.env)),
            ("asked by", f"{spec.probe.kind.value} {spec.probe.path if spec.probe.kind == 'http' else ''}"),
        ],
        output,
    )
    if output == "table" and state.is_wanted:
        _say_if_left([found])


def _say_if_left(wanted: list[ServiceInfo]) -> None:
    if any(not each.is_kept for each in wanted):
        note("nobody looks after services now: they run while `fourfold up` does")
