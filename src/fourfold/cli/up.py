"""`fourfold up`: the API, the loop with its schedules, and the gateway, in one command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from fourfold.cli.output import note

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from fourfold.core.catalog import TokenInfo
    from fourfold.core.times import Instant
    from fourfold.server.up import Part, Up


@click.command(name="up")
@click.option("--host", default=None, help="Listen here [default: 127.0.0.1, this machine only].")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="[default: 4040; 0: any free one]")
@click.option("--gateway/--no-gateway", default=True, show_default=True, help="Also answer predictions.")
@click.option("-q", "--quiet", is_flag=True, help="Print the address only.")
def command(host: str | None, port: int | None, gateway: bool, quiet: bool) -> None:
    """Start the server: API, loop, schedules, gateway. Ctrl-C or SIGTERM stops it; nothing is lost.

    Only this machine can reach it, and every call needs a token.
    """
    from datetime import UTC, datetime

    from fourfold import wiring
    from fourfold.core.errors import Refused
    from fourfold.core.times import instant
    from fourfold.server.listening import log_to
    from fourfold.server.up import up

    if os.environ.get("FOURFOLD_URL"):
        raise Refused(
            "FOURFOLD_URL names a server elsewhere, and 'up' starts one here", ways_on=["unset FOURFOLD_URL"]
        )
    project = wiring.open_project()
    now = instant(datetime.now(UTC))
    try:
        log_to(project.home / "server.log")
        server = project.settings.server
        up(
            project.home,
            host=host or server.host,
            port=server.port if port is None else port,
            has_identity=any(_is_valid(token, now) for token in project.catalog.tokens()),
            parts=_parts(project, gateway=gateway),
            app=lambda url: _app(project, url),
            started_at_us=now,
            announce=lambda about: _announce(about, quiet=quiet),
        )
    finally:
        project.close()
    if not quiet:
        note("stopped; open runs go on with the next start")


def _is_valid(token: TokenInfo, now: Instant) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now)


def _parts(project: Any, *, gateway: bool) -> list[Part]:
    from fourfold.server.up import Part

    parts = [
        Part("loop", lambda: _started(project.flows.start_loop), project.flows.stop_loop),
        Part("buffer", lambda: _watched(project.storage.watch), project.storage.close),
        Part("services", lambda: _kept(project.compute.keep_services), project.compute.leave_services),
    ]
    if gateway:
        parts.append(
            Part("gateway", lambda: project.hosting.start_gateway().url, project.hosting.stop_gateway)
        )
    return parts


def _started(start: Any) -> str:
    start()
    return ""


def _watched(watch: Any) -> str:
    watch()
    return "flushes inserted rows"


def _kept(keep: Any) -> str:
    keep()
    return "are kept running"


def _app(project: Any, url: str) -> ASGIApp:
    from fourfold import __version__
    from fourfold.core.services import PROTOCOLS
    from fourfold.server.app import Access, Bounds, Mounted, audit_into, build_app
    from fourfold.server.identity import Bearers
    from fourfold.server.pages import About

    settings = project.settings.server
    host = url.removeprefix("http://").rpartition(":")[0].strip("[]")
    return build_app(
        [Mounted(name, protocol, getattr(project, name)) for name, protocol in PROTOCOLS.items()],
        access=Access(
            Bearers(project.token, project.catalog.verify_token),
            hosts=[host, *_words(settings.hosts)],
            origins=_words(settings.origins),
        ),
        about=About(version=__version__, project=project.settings.project, links={"API": f"{url}/api/v1"}),
        bounds=Bounds(body_bytes=settings.body_bytes),
        audit=audit_into(project.catalog.record),
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _announce(about: Up, *, quiet: bool) -> None:
    if quiet:
        click.echo(about.url)
        sys.stdout.flush()
        return
    note(f"fourfold is up: {about.url}  (process {os.getpid()})")
    for name, address in about.parts:
        note(f"  {name:<9}{address or 'runs; schedules fire'}")
    note(f"  token    {about.token_file}  (or: fourfold token owner)")
    note(f"  log      {about.token_file.with_name('server.log')}")
    note("Ctrl-C stops it; open runs go on with the next start")
