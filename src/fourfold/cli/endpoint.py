"""`fourfold endpoint`: endpoints that answer predictions."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import parameter_option, plain_parameters, services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, when


@click.group(cls=Verbs, name="endpoint")
def command() -> None:
    """Endpoints that answer predictions."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All endpoints, with health, version and latency."""
    with services() as opened:
        show(
            opened.hosting.endpoints(),
            [
                Column("ENDPOINT", lambda e: e.name),
                Column("HEALTH", lambda e: e.health.value),
                Column("LIVE", lambda e: e.live.model if e.live else ""),
                Column("SHADOW", lambda e: e.shadow.model if e.shadow else ""),
                Column("REQUESTS", lambda e: e.traffic.request_count, is_number=True),
                Column("P50 MS", lambda e: e.traffic.latency_ms_p50, is_number=True),
                Column("P99 MS", lambda e: e.traffic.latency_ms_p99, is_number=True),
                Column("ERRORS", lambda e: e.traffic.error_count, is_number=True),
                Column("URL", lambda e: e.url),
                Column("WHY", lambda e: e.reason),
            ],
            output,
            nothing="no endpoints yet; deploy one: fourfold endpoint deploy NAME MODEL",
        )


@command.command("show")
@click.argument("name")
@output_option
def show_endpoint(name: str, output: str) -> None:
    """One endpoint, with what was ever behind it."""
    with services() as opened:
        found = opened.hosting.endpoint(name)
        past = opened.hosting.deployments(name) if output == "table" else ()
    traffic = found.traffic
    show_one(
        found,
        [
            ("endpoint", found.name),
            ("health", f"{found.health.value}: {found.reason}"),
            ("url", found.url),
            ("live", found.live.model if found.live else ""),
            ("shadow", found.shadow.model if found.shadow else ""),
            ("features", found.settings.features),
            ("requests", f"{traffic.request_count}, {traffic.error_count} failed, {traffic.shed_count} shed"),
            ("latency", f"p50 {traffic.latency_ms_p50:.1f} ms" if traffic.latency_ms_p50 else ""),
            ("rows a batch", traffic.batch_rows_mean),
        ],
        output,
    )
    if past:
        click.echo()
        show(
            past,
            [
                Column("DEPLOYMENT", lambda d: d.id),
                Column("MODEL", lambda d: d.model),
                Column("DUTY", lambda d: d.duty.value),
                Column("PHASE", lambda d: d.phase.value),
                Column("SINCE", lambda d: when(d.changed_at)),
                Column("BY", lambda d: d.by),
                Column("WHY", lambda d: d.reason),
            ],
            output,
        )


@command.command("deploy")
@click.argument("name")
@click.argument("model")
@click.option("--features", default=None, help="The feature service looked up at prediction time.")
@click.option("--wait", "wait_s", default=120.0, show_default=True, help="Seconds to wait until it is live.")
def deploy(name: str, model: str, features: str | None, wait_s: float) -> None:
    """Put MODEL (`name/3`, `name@alias`) live behind the endpoint NAME."""
    from fourfold.core.hosting import EndpointSettings

    settings = None if features is None else EndpointSettings(features=features)
    with services() as opened:
        made = opened.hosting.deploy(name, model, settings=settings, wait_s=wait_s)
        note(f"{made.name}: {made.live.model if made.live else model} is live at {made.url}")


@command.command("shadow")
@click.argument("name")
@click.argument("model", default="")
def shadow(name: str, model: str) -> None:
    """Give MODEL a copy of each request; without MODEL, end the shadow."""
    with services() as opened:
        made = opened.hosting.shadow(name, model)
        note(f"{made.name}: " + (f"{made.shadow.model} watches" if made.shadow else "no shadow"))


@command.command("predict")
@click.argument("name")
@parameter_option
@click.option("--row", "rows", multiple=True, metavar="JSON", help="A whole row; may be repeated.")
@output_option
def predict(name: str, params: tuple[str, ...], rows: tuple[str, ...], output: str) -> None:
    """Ask for predictions: -p carrier=UA -p origin=EWR, or --row '{"carrier": "UA"}'."""
    from fourfold.core import wire

    given = [wire.decode(row, dict[str, bool | int | float | str | None], what="--row") for row in rows]
    if params or not given:
        given.append(plain_parameters(params))
    with services() as opened:
        show(
            opened.hosting.predict(name, given),
            [
                Column("ANSWER", lambda p: pairs(p.outputs)),
                Column("MODEL", lambda p: p.model),
                Column("ID", lambda p: p.id),
                Column("MISSING", lambda p: p.missing),
            ],
            output,
        )


@command.command("feedback")
@click.argument("name")
@click.argument("prediction")
@parameter_option
def feedback(name: str, prediction: str, params: tuple[str, ...]) -> None:
    """Keep what was learned about a prediction: -p late=true"""
    with services() as opened:
        opened.hosting.feedback(name, prediction, values=plain_parameters(params))


@command.command("compare")
@click.argument("name")
@click.option("--label", default="", help="A name used in feedback: compare against what came of it.")
@click.option("--output-name", default="", help="The output column, when there are several.")
@output_option
def compare(name: str, label: str, output_name: str, output: str) -> None:
    """The shadow beside the live version, on the same requests."""
    with services() as opened:
        found = opened.hosting.compare(name, output=output_name, label=label)
    show_one(
        found,
        [
            ("live", f"{found.live}  {pairs(found.live_metrics)}"),
            ("shadow", f"{found.shadow}  {pairs(found.shadow_metrics)}"),
            ("pairs", f"{found.pair_count} ({found.unpaired_count} without a shadow's answer)"),
            ("labelled", found.labelled_count),
            ("difference", found.difference_mean),
            ("absolute", found.difference_abs_mean),
            ("greatest", found.difference_abs_max),
        ],
        output,
    )


@command.command("stop")
@click.argument("name")
def stop(name: str) -> None:
    """Drain and stop an endpoint; its log stays."""
    with services() as opened:
        note(f"{opened.hosting.stop(name).name} is stopped")


@command.command("events")
@click.argument("name")
@click.option("--limit", default=50, show_default=True)
@output_option
def events(name: str, limit: int, output: str) -> None:
    """What happened to an endpoint, and why."""
    with services() as opened:
        show(
            opened.hosting.events(name, limit),
            [
                Column("AT", lambda e: when(e.at)),
                Column("WHAT", lambda e: e.kind),
                Column("DEPLOYMENT", lambda e: e.deployment),
                Column("WHY", lambda e: e.reason),
            ],
            output,
        )
