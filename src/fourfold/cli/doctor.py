"""`fourfold doctor`: what this machine and this project have, and what they lack."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import home, services
from fourfold.cli.output import Column, output_option, show, size, when

if TYPE_CHECKING:
    from fourfold.core.openlineage import Outbox
    from fourfold.core.times import Instant

FREE_BYTES = 2 * 2**30
LATE_S = 600.0
"""Events about lineage that wait longer are not on their way: they are sent within seconds where taken."""
RECENT_S = 86_400.0
"""Events that were refused longer ago are told of, and no illness any more."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    is_well: bool
    found: str
    way_on: str = ""


@click.command(name="doctor")
@output_option
def command(output: str) -> int | None:
    """Check this machine and this project; exits with 1 when something is wrong."""
    findings = [finding for check in CHECKS for finding in _carefully(check)]
    show(
        findings,
        [
            Column("", lambda f: "ok" if f.is_well else "!!"),
            Column("WHAT", lambda f: f.what),
            Column("FOUND", lambda f: f.found),
            Column("NEXT", lambda f: f.way_on),
        ],
        output,
    )
    return None if all(finding.is_well for finding in findings) else 1


def _carefully(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # a doctor that falls ill helps nobody: what failed is a finding
        from fourfold.core.errors import FourfoldError

        ways_on = error.ways_on if isinstance(error, FourfoldError) else ()
        told = error.message if isinstance(error, FourfoldError) else f"{type(error).__name__}: {error}"
        return [Finding(check.__name__.strip("_"), False, told, "; ".join(ways_on))]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    is_well = sys.version_info >= (3, 11)
    yield Finding(
        "python", is_well, f"{version} at {sys.executable}", "" if is_well else "use Python 3.11 or later"
    )


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        wanted = [line.split(";")[0] for line in requires("fourfold") or () if "extra ==" not in line]
    except PackageNotFoundError:
        yield Finding("packages", False, "fourfold is not installed", "pip install -e .")
        return
    names = [
        "".join(sign if sign.isalnum() or sign in "-_." else " " for sign in line).split()[0]
        for line in wanted
    ]
    missing = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    yield Finding(
        "packages",
        not missing,
        f"missing: {', '.join(missing)}" if missing else f"all {len(names)} installed",
        f"pip install {' '.join(missing)}" if missing else "",
    )


def _project() -> Iterator[Finding]:
    if os.environ.get("FOURFOLD_URL"):
        return  # it lives beside the server
    folder = home()
    is_there = folder.is_dir()
    yield Finding(
        "project", is_there, str(folder), "" if is_there else "it is made on first use, or by: fourfold init"
    )
    near = folder if is_there else folder.parent
    while not near.exists():
        near = near.parent
    free = shutil.disk_usage(near).free
    yield Finding(
        "disk", free >= FREE_BYTES, f"{size(free)} free", "" if free >= FREE_BYTES else "free some space"
    )
    kind = _file_system(near)
    is_local = kind not in {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"}
    yield Finding(
        "file system",
        is_local,
        kind,
        "" if is_local else "SQLite needs a local disk: move the project, or set catalog = postgresql://...",
    )
    token = folder / "token"
    if token.exists():
        is_private = token.stat().st_mode & 0o077 == 0
        yield Finding(
            "token", is_private, oct(token.stat().st_mode & 0o777), "" if is_private else f"chmod 600 {token}"
        )


def _settings() -> Iterator[Finding]:
    if os.environ.get("FOURFOLD_URL"):
        return
    from fourfold import wiring

    settings = wiring.read_settings(home(), os.environ)
    for part in ("catalog", "storage", "tables", "online"):
        yield Finding(part, True, getattr(settings, part) or "embedded, in the project's folder")


def _server() -> Iterator[Finding]:
    if url := os.environ.get("FOURFOLD_URL"):
        yield Finding("server", True, url)
        return
    from fourfold.server.record import read_record

    record = read_record(home())
    if record is None:
        yield Finding("server", True, "not up", "schedules fire and endpoints answer with: fourfold up")
    else:
        yield Finding("server", True, f"process {record.pid} at {record.url}")


def _rooms() -> Iterator[Finding]:
    if not home().is_dir() and not os.environ.get("FOURFOLD_URL"):
        return
    from fourfold.core.times import instant

    with services() as opened:
        facts = opened.catalog.project()
        noted = "; ".join(f"{key}: {value}" for key, value in facts.items())
        way_on = "" if facts else "say what this is: fourfold project set description TEXT"
        yield Finding("catalog opens", True, ", ".join(filter(None, [_catalog_size(), noted])), way_on)
        tables = opened.storage.list_tables()
        yield Finding(
            "storage opens", True, f"{len(tables)} tables, {size(sum(table.size_bytes for table in tables))}"
        )
        taken = opened.catalog.audit(action="project.backup", limit=1)
        yield Finding(
            "last backup",
            True,
            f"{when(taken[0].at)} in {taken[0].facts['place']}" if taken else "never",
            "" if taken else "fourfold backup FOLDER",
        )
        yield from told_elsewhere(opened.flows.lineage_outbox(), instant(datetime.now(UTC)))
        for info in opened.compute.units():
            measured = "measured" if info.measurement else "not measured"
            yield Finding(
                f"unit {info.unit.name}",
                True,
                f"{info.unit.cores:g} cores, {size(info.unit.memory_bytes)}, {measured}",
                "" if info.measurement else "fourfold unit bench",
            )


def told_elsewhere(outbox: Outbox, now: Instant) -> Iterator[Finding]:
    """What another catalog of lineage has not taken, where one is told or something waits for it."""
    from fourfold.core.times import seconds_between

    again = "fourfold lineage export tells everything again"
    if outbox.waiting:
        since = "" if outbox.oldest_at is None else f", the oldest of {when(outbox.oldest_at)}"
        is_late = outbox.oldest_at is None or seconds_between(outbox.oldest_at, now) > LATE_S
        if not outbox.address:
            way_on = f'say where they go: openlineage = "http://…" in fourfold.toml; {again}'
        elif is_late:
            way_on = f"see whether {outbox.address} answers; it is tried while fourfold up runs; {again}"
        else:
            way_on = "they are sent while fourfold up runs"
        where = f" for {outbox.address}" if outbox.address else ""
        yield Finding("lineage events", not is_late, f"{outbox.waiting:,} wait{where}{since}", way_on)
    elif outbox.address:
        yield Finding("lineage events", True, f"none waits for {outbox.address}")
    if outbox.refused:
        is_recent = outbox.refused_at is not None and seconds_between(outbox.refused_at, now) < RECENT_S
        found = f"{outbox.refused:,} put aside, the last: {outbox.refusal}"
        yield Finding("lineage refused", not is_recent, found, f"see what refuses them; {again}")


def _catalog_size() -> str:
    """How large the catalog's file is, where it is one."""
    try:
        return size((home() / "catalog.db").stat().st_size)
    except OSError:
        return ""


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, as the kernel tells it."""
    found, best = "unknown", -1
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, mount, kind = line.split()[:3]
        mount = mount.encode().decode("unicode_escape")
        if path.is_relative_to(mount) and len(mount) > best:
            found, best = kind, len(mount)
    return found


CHECKS = (_python, _packages, _project, _settings, _server, _rooms)
