"""`fourfold service`: long-lived commands on any pool, looked after by `fourfold up`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, size, took, when

if TYPE_CHECKING:
    from fourfold.core.jobs import Resources
    from fourfold.core.services import Services
    from fourfold.core.serving import ServiceInfo


LOOKS, LOOK_S = 8, 0.25
"""Whoever looks after services takes a new one within a second: so long a start is followed."""
SHOWN_STARTS = 10
FOLLOW_S = 0.5


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
            Column("POOL", lambda s: s.state.unit or s.spec.pool),
            Column("ADDRESS", lambda s: s.state.address),
            Column("SINCE", lambda s: when(s.state.since)),
            Column("STARTS", lambda s: s.state.generation, is_number=True),
            Column("WHY", lambda s: s.state.fault or s.state.reason),
        ],
        output,
        nothing="no services; start one: fourfold service start NAME -- COMMAND",
    )
    if output == "table":
        _say_if_left([each for each in found if each.state.is_wanted])


@command.command("start")
@click.argument("name")
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED)
@click.option("--pool", default="", help="Where it runs; this machine by default.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option("--cwd", default="", help="The folder it runs in; the project's by default.")
@click.option("--cpu", default="1", show_default=True, help="Cores, or a range of them (2-4).")
@click.option("--memory", default="0", help="Memory, or a range of it (2GiB, 2GiB-4GiB).")
@click.option("--gpu", default="0", help="GPUs: a count, or NAME:COUNT:MEMORY.")
@click.option("--arch", default="", help="The processor's architecture.")
@click.option("--max-price", default="", help="Of an hour of a whole unit, in US dollars.")
@click.option("--image", default="", help="The image it starts in, where the pool has images.")
@click.option(
    "--probe", default="tcp", show_default=True, help="How it is asked whether it is well: tcp, http, none."
)
@click.option("--path", default="/", show_default=True, help="What an http probe gets.")
@click.option("--ready-within", default="60s", show_default=True, help="How long its start may take.")
@click.option("--drain", default="10s", show_default=True, help="How long it may take to end when asked.")
@output_option
def start(
    name: str, argv: tuple[str, ...], env: tuple[str, ...], ready_within: str, drain: str, output: str,
    **words: str,
) -> None:  # fmt: skip
    """Keep a command running; it listens on the port in FOURFOLD_PORT, at the address in FOURFOLD_HOST.

    One that runs already with another command, pool or size is drained and started with this one.
    """
    from fourfold.cli.opened import parameters
    from fourfold.core.times import duration_s

    with services() as opened:
        found = opened.compute.start_service(
            name,
            list(argv),
            env=parameters(env),
            ready_within_s=duration_s(ready_within),
            drain_s=duration_s(drain),
            **words,
        )
        found = _followed(opened, found)
    _show(found, output)


@command.command("restart")
@click.argument("name")
@output_option
def restart(name: str, output: str) -> None:
    """Drain a service and start it again."""
    with services() as opened:
        found = _followed(opened, opened.compute.restart_service(name))
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
    """One service, with its newest starts and why they ended."""
    with services() as opened:
        found = opened.compute.service(name)
    _show(found, output)
    if output == "table":
        click.echo()
        show(
            found.state.starts[-SHOWN_STARTS:],
            [
                Column("START", lambda s: s.generation, is_number=True),
                Column("ASKED", lambda s: when(s.asked_at)),
                Column("UNIT", lambda s: s.unit or s.pool),
                Column("READY AFTER", lambda s: took(s.asked_at, s.ready_at)),
                Column("RAN", lambda s: took(s.began_at, s.ended_at)),
                Column("WHY", lambda s: s.why),
                Column("END", lambda s: s.end),
            ],
            output,
            nothing="it has not been started yet",
        )


@command.command("logs")
@click.argument("name")
@click.option("--start", "generation", default=0, help="Of this start; the present one by default.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, and with its next starts.")
def logs(name: str, generation: int, follow: bool) -> None:
    """What its present start has printed so far."""
    with services() as opened:
        offset = 0
        while True:
            piece = opened.compute.service_logs(name, offset=offset, generation=generation)
            click.echo(piece.text, nl=False)
            if piece.next_offset != offset:
                generation, offset = piece.generation, piece.next_offset
                continue
            if not follow:
                return
            state = opened.compute.service(name).state
            if piece.is_end and state.generation > piece.generation:
                generation, offset = piece.generation + 1, 0
                note(f"start {generation} of {name}")
                continue
            time.sleep(FOLLOW_S)


def _followed(opened: Services, found: ServiceInfo) -> ServiceInfo:
    for _ in range(LOOKS):
        if found.is_kept:
            break
        time.sleep(LOOK_S)
        found = opened.compute.service(found.spec.name)
    return found


def _show(found: ServiceInfo, output: str) -> None:
    spec, state = found.spec, found.state
    show_one(
        found,
        [
            ("service", spec.name),
            ("state", state.phase.value + (f": {state.reason}" if state.reason else "")),
            ("waits", state.fault),
            ("since", when(state.since)),
            ("address", state.address),
            ("pool", state.unit or state.pool or spec.pool),
            ("asks for", _asked_text(spec.resources)),
            ("starts", state.generation),
            ("failures in a row", state.failures_in_row or ""),
            ("started again", when(state.next_at)),
            ("command", " ".join(spec.argv)),
            ("image", spec.image),
            ("settings", pairs(spec.env)),
            ("asked by", f"{spec.probe.kind.value} {spec.probe.path if spec.probe.kind == 'http' else ''}"),
        ],
        output,
    )
    if output == "table" and state.is_wanted:
        _say_if_left([found])


def _asked_text(asked: Resources) -> str:
    words = [f"{asked.cpu.low:g} cpu"]
    if asked.memory_bytes.low:
        words.append(size(asked.memory_bytes.low))
    if asked.gpu.low:
        words.append(f"{asked.gpu.low:g} gpu {asked.gpu_name}".strip())
    return ", ".join([*words, *filter(None, [asked.arch])])


def _say_if_left(wanted: list[ServiceInfo]) -> None:
    if any(not each.is_kept for each in wanted):
        note("nobody looks after services now: `fourfold up` does")
