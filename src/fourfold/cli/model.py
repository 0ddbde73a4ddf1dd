"""`fourfold model`: model versions and their aliases."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, size, when


@click.group(cls=Verbs, name="model")
def command() -> None:
    """Model versions and their aliases."""


@command.command("ls")
@click.argument("name", default="")
@output_option
def ls(name: str, output: str) -> None:
    """All models, or the versions of one."""
    with services() as opened:
        if not name:
            show(
                opened.models.list_models(),
                [
                    Column("MODEL", lambda m: m.name),
                    Column("VERSIONS", lambda m: m.version_count, is_number=True),
                    Column("LATEST", lambda m: m.latest, is_number=True),
                    Column("ALIASES", lambda m: pairs(m.aliases)),
                    Column("CREATED", lambda m: when(m.created_at)),
                ],
                output,
                nothing="no models yet",
            )
            return
        show(
            opened.models.list_versions(name),
            [
                Column("VERSION", str),
                Column("ALIASES", lambda v: v.aliases),
                Column("METRICS", lambda v: pairs(v.metrics)),
                Column("CREATED", lambda v: when(v.created_at)),
                Column("BY", lambda v: v.by),
                Column("SIZE", lambda v: size(v.size_bytes), is_number=True),
                Column("RUN", lambda v: v.run),
                Column("MISSING", lambda v: v.missing),
            ],
            output,
        )


@command.command("show")
@click.argument("ref", metavar="MODEL")
@output_option
def show_model(ref: str, output: str) -> None:
    """A version (`name`, `name/3`, `name@alias`) with its files."""
    with services() as opened:
        version = opened.models.resolve(ref)
        files = opened.models.manifest(version.name, version.number).files if output == "table" else ()
    show_one(
        version,
        [
            ("model", str(version)),
            ("aliases", version.aliases),
            ("created", f"{when(version.created_at)} {version.by}".strip()),
            ("run", version.run),
            ("metrics", pairs(version.metrics)),
            ("tags", pairs(version.tags)),
            ("digest", version.digest),
            ("environment", version.environment),
            ("missing", version.missing),
            *((f"  {file.artifact.value}", f"{file.path} ({size(file.size_bytes)})") for file in files),
        ],
        output,
    )


@command.command("promote")
@click.argument("ref", metavar="MODEL")
@click.argument("alias")
@click.option("--why", required=True, help="The reason; it stays in the history.")
@click.option("--dry-run", is_flag=True, help="Say what its gates would say, and change nothing.")
def promote(ref: str, alias: str, why: str, dry_run: bool) -> int | None:
    """Let ALIAS point at a version, if its gates pass."""
    with services() as opened:
        version = opened.models.resolve(ref)
        if dry_run:
            gates = opened.models.check(version.name, alias, number=version.number)
            for gate in gates:
                click.echo(f"{'passes' if gate.passed else 'fails'}  {gate.gate}: {gate.reason}")
            return None if all(gate.passed for gate in gates) else 1
        event = opened.models.promote(version.name, alias, number=version.number, why=why)
        before = f" (was {event.before})" if event.before not in (None, event.number) else ""
        note(f"{event.name}@{event.alias} is version {event.number}{before}")
    return None


@command.command("rollback")
@click.argument("name")
@click.argument("alias")
@click.option("--why", required=True)
def rollback(name: str, alias: str, why: str) -> None:
    """Let ALIAS point at what it pointed at before."""
    with services() as opened:
        event = opened.models.rollback(name, alias, why=why)
        note(f"{event.name}@{event.alias} is version {event.number} again")


@command.command("history")
@click.argument("name")
@click.option("--alias", default="")
@output_option
def history(name: str, alias: str, output: str) -> None:
    """How a model's aliases moved: who, when, why."""
    with services() as opened:
        show(
            opened.models.history(name, alias=alias),
            [
                Column("AT", lambda e: when(e.at)),
                Column("ALIAS", lambda e: e.alias),
                Column("WHAT", lambda e: e.action.value),
                Column("FROM", lambda e: e.before, is_number=True),
                Column("TO", lambda e: e.number, is_number=True),
                Column("BY", lambda e: e.by),
                Column("WHY", lambda e: e.why),
            ],
            output,
            nothing="no alias has moved yet",
        )


@command.command("load-test")
@click.argument("ref", metavar="MODEL")
def load_test(ref: str) -> None:
    """Load a version here and replay its stored example: does it still answer as it did?"""
    import time

    from fourfold.mlplatform.models.api import model

    began = time.perf_counter()
    loaded = model(ref).load()
    note(f"{loaded.version} loads and replays its example in {time.perf_counter() - began:.2f} s")
