"""`fourfold flow`: run, follow, cancel, resume and deploy flows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fourfold.cli.flow_steps import show_graph, with_traces
from fourfold.cli.main import INTERRUPTED, Verbs
from fourfold.cli.opened import home, parameter_option, parameters, services
from fourfold.cli.output import Column, note, output_option, show, show_one, took, when

if TYPE_CHECKING:
    from fourfold.core.flows import FlowRun
    from fourfold.core.services.flows import Flows


@click.group(cls=Verbs, name="flow")
def command() -> None:
    """Run, follow, cancel, resume and deploy flows."""


@command.command("run")
@click.argument("file")
@click.argument("name", default="")
@parameter_option
@click.option("--key", default="", help="Names the run: the same key again goes on with the same run.")
@click.option("--deadline", default="", help="By when it must be done: 2h, or a time with its zone.")
@click.option("--detach", is_flag=True, help="Start it, print its identifier, and return.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
@output_option
def run_flow(
    file: str,
    name: str,
    params: tuple[str, ...],
    key: str,
    deadline: str,
    detach: bool,
    quiet: bool,
    output: str,
) -> int | None:
    """Run the flow NAME in FILE (the only one there, without a name) and print its result.

    FILE may also be a module, such as examples.flights.flow. Ctrl-C detaches: the run goes on.
    """
    from fourfold.cli.flow_file import load
    from fourfold.core.words import deadline_text
    from fourfold.resources.flows import calls
    from fourfold.resources.flows.params import from_text

    flow = load(file, name)
    flow.deadline = deadline_text(deadline) or flow.deadline
    with services() as opened:
        run = calls.submit(flow, from_text(flow, parameters(params)), key=key)
        if not quiet:
            note(f"{flow.name}: {run.id}")
        if detach:
            click.echo(run.id)
            _warn_if_nothing_moves_it(opened.flows)
            return None
        try:
            run = _follow(opened.flows, run.id, quiet=quiet)
        except KeyboardInterrupt:
            note(_detached(run.id))
            return INTERRUPTED
        if not quiet:
            note(calls.run_text(run))
        result = calls.result_of(flow, run)
    _print_result(result, output)
    return None


@command.command("ls")
@click.option("--flow", default="", help="Of this flow only.")
@click.option("--state", default="", help="In this state only: queued, running, succeeded, failed, ...")
@click.option("--limit", default=20, show_default=True)
@output_option
def ls(flow: str, state: str, limit: int, output: str) -> None:
    """Flow runs, newest first."""
    with services() as opened:
        runs = opened.flows.list(flow, state=state, limit=limit)
        show(
            runs,
            [
                Column("RUN", lambda r: r.id),
                Column("FLOW", lambda r: r.flow),
                Column("STATE", lambda r: r.state.value),
                Column("CREATED", lambda r: when(r.created_at)),
                Column("TOOK", lambda r: took(r.started_at, r.ended_at), is_number=True),
                Column("CALLS", lambda r: r.call_count, is_number=True),
                Column("WHY", lambda r: r.reason),
            ],
            output,
            nothing="no flow runs yet; start one: fourfold flow run FILE",
        )


@command.command("show")
@click.argument("run_id", metavar="RUN")
@output_option
def show_run(run_id: str, output: str) -> None:
    """A run with its steps: state, attempts, times, what they used over time and cost."""
    with services() as opened:
        graph = opened.flows.graph(run_id)
        jobs = opened.compute.jobs(graph.run.id, limit=100_000, traces=True)
    if output != "table":
        show_one(with_traces(graph, jobs), (), output)
        return
    show_graph(graph, jobs)


@command.command("logs")
@click.argument("run_id", metavar="RUN")
@click.argument("call", default="")
@click.option("--attempt", default=0, help="Which attempt [default: the latest].")
@click.option("-f", "--follow", is_flag=True, help="Go on while it runs.")
def logs(run_id: str, call: str, attempt: int, follow: bool) -> None:
    """The output of CALL (a step's call such as train#2), or of the flow's body."""
    with services() as opened:
        offset = 0
        while True:
            piece = opened.flows.logs(run_id, call=call, attempt=attempt, offset=offset)
            click.echo(piece.text, nl=False)
            is_idle, offset = piece.next_offset == offset, piece.next_offset
            if piece.is_end or (is_idle and not follow):
                break
            if is_idle and not opened.flows.wait(run_id, timeout_s=1.0).state.is_open:
                follow = False  # the run is over: read once more what came last


@command.command("cancel")
@click.argument("run_id", metavar="RUN")
@click.option("--why", default="", help="Kept with the run.")
def cancel(run_id: str, why: str) -> None:
    """End a run: nothing more of it starts, and its processes are stopped."""
    with services() as opened:
        run = opened.flows.cancel(run_id, why=why)
        note(f"{run.id} {run.state}")


@command.command("resume")
@click.argument("run_id", metavar="RUN")
@click.option("--detach", is_flag=True, help="Do not wait for its end.")
@click.option("-q", "--quiet", is_flag=True)
def resume(run_id: str, detach: bool, quiet: bool) -> int | None:
    """Go on with a failed or cancelled run: finished steps stay, what failed runs again."""
    with services() as opened:
        run = opened.flows.resume(run_id)
        if detach:
            click.echo(run.id)
            _warn_if_nothing_moves_it(opened.flows)
            return None
        try:
            run = _follow(opened.flows, run.id, quiet=quiet)
        except KeyboardInterrupt:
            note(_detached(run.id))
            return INTERRUPTED
        return _ended(run)


@command.command("watch")
@click.argument("run_id", metavar="RUN")
def watch(run_id: str) -> int | None:
    """Follow a run until its end. Ctrl-C stops watching, not the run."""
    with services() as opened:
        try:
            run = _follow(opened.flows, run_id, quiet=False)
        except KeyboardInterrupt:
            note(_detached(run_id))
            return INTERRUPTED
        return _ended(run)


@command.command("deploy")
@click.argument("file")
@click.argument("name", default="")
def deploy(file: str, name: str) -> None:
    """Keep the flow's code under its name, with its schedule; the schedule stays with this code."""
    from fourfold.cli.flow_file import load
    from fourfold.resources.flows import calls

    flow = load(file, name)
    with services():
        made = calls.deploy(flow)
    fires = f", fires at {made.cron!r} {made.tz}" if made.cron else ""
    note(f"flow '{made.flow}' is deployed{fires} (code {made.code.digest[:12]})")


@command.command("start")
@click.argument("flow")
@click.option("--key", default="", help="Names the run: the same key again goes on with the same run.")
@parameter_option
def start(flow: str, key: str, params: tuple[str, ...]) -> None:
    """Run a deployed flow now."""
    from fourfold.cli.opened import plain_parameters

    with services() as opened:
        run = opened.flows.start(flow, params=plain_parameters(params), key=key)
        click.echo(run.id)
        _warn_if_nothing_moves_it(opened.flows)


def _follow(flows: Flows, run_id: str, *, quiet: bool) -> FlowRun:
    from fourfold.resources.flows.calls import follow

    return follow(flows, run_id, show=not quiet)


def _ended(run: FlowRun) -> int | None:
    from fourfold.resources.flows.calls import run_text

    note(run_text(run))
    return None if run.state.value == "succeeded" else 1


def _print_result(result: Any, output: str) -> None:
    if result is None:
        return
    if output == "table":
        click.echo(str(result))
        return
    from fourfold.core import wire

    try:
        click.echo(wire.encode(result))
    except TypeError:
        click.echo(wire.encode(repr(result)))


def _detached(run_id: str) -> str:
    from fourfold.server.record import read_record

    lines = [f"\ndetached from {run_id}"]
    if read_record(home()) is None:
        lines.append("  nothing moves it while no process of this project runs; go on with: fourfold up")
    return "\n".join(
        [*lines, f"  follow it: fourfold flow watch {run_id}", f"  end it: fourfold flow cancel {run_id}"]
    )


def _warn_if_nothing_moves_it(_flows: Flows) -> None:
    import os

    from fourfold.server.record import read_record

    if not os.environ.get("FOURFOLD_URL") and read_record(home()) is None:
        note("it moves only while a process of this project runs: fourfold up")
        sys.stderr.flush()
