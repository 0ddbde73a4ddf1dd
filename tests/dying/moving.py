"""Write paths that lead out of a project and into another: backups, exports, events."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.dying.case import Case, Told, Verb

from fourfold import wiring
from fourfold.adapters.openlineage_file import FileEvents
from fourfold.core.backups import silent
from fourfold.core.errors import FourfoldError, NotFound
from fourfold.foundation.storage.restore import verify


def backed_up(place: str) -> Verb:
    def verb(project: wiring.Project) -> object:
        with closing(wiring.new_archive(project.home.parent / place)) as archive:
            return project.backups.write(archive)[0]

    return verb


def backups_in(place: str) -> Callable[[wiring.Project], Told]:
    """How many there are; each must be whole."""

    def more(project: wiring.Project) -> Told:
        try:
            with closing(wiring.open_archive(project.home.parent / place)) as archive:
                numbers = archive.manifests()
                for number in numbers:
                    verify(archive, number=number)
        except NotFound:
            return {"backups": 0}
        return {"backups": len(numbers)}

    return more


def only_flushed(before: Told, found: Told, after: Told) -> bool:
    """Where rows that waited are in a version, with which a backup begins, and there is no backup."""
    rows = "table inserted, rows"
    return bool(found["backups"] == 0 and found[rows] == before[rows])


def to_restore(place: Path) -> None:
    home = place / ".fourfold"
    with closing(wiring.Project(home, wiring.read_settings(home, {}))) as opened:
        backed_up("backup")(opened)
    shutil.rmtree(home)


def restored(place: Path) -> object:
    home = place / ".fourfold"
    with closing(wiring.open_archive(place / "backup")) as archive:
        return wiring.restore(home, wiring.read_settings(home, {}), archive, number=None, progress=silent)


def in_lake(project: wiring.Project) -> Told:
    try:
        store = project.stores.exports["lake"]()
        return {"lake": [(c.version, c.operation, c.rows) for c in store.history("t", limit=10)]}
    except FourfoldError as error:
        return {"lake": type(error).__name__}


def told_events(project: wiring.Project) -> None:
    FileEvents(project.home.parent / "events.jsonl").send(b'{"run": "' + b"x" * 500 + b'"}')


def events(project: wiring.Project) -> Told:
    file = project.home.parent / "events.jsonl"
    lines = file.read_bytes().split(b"\n") if file.exists() else []
    return {
        "events": [line for line in lines if line[-1:] == b"}"],
        "broken": [x for x in lines[:-1] if x[-1:] != b"}"],
    }


AUDITED = ("rows of catalog_audit", "rows of sqlite_sequence")
"""A backup is one without its entry in the audit."""

CASES = {
    "backup": Case(
        ("backups.write",),
        backed_up("backup"),
        more=backups_in("backup"),
        between=only_flushed,
        unsaid=AUDITED,
        leaves_files=True,
    ),
    "export to a file": Case(
        ("backups.write",),
        backed_up("one.zip"),
        more=backups_in("one.zip"),
        between=only_flushed,
        unsaid=AUDITED,
        leaves_files=True,
    ),
    "bring back": Case(
        ("backups.restore",),
        restored,
        prepare=to_restore,
        needs_project=False,
        between=lambda before, found, after: set(found) == {"closed"},
    ),
    "export to Iceberg": Case(
        ("storage.export",),
        lambda p: p.storage.export("t", "lake", version=1),
        more=in_lake,
        leaves_files=True,
        also_says=("Unavailable",),  # of its SQLite file, that it cannot be opened
    ),
    "tell lineage": Case(
        ("lineage.send",),
        told_events,
        prepare=told_events,
        more=events,
    ),
}
