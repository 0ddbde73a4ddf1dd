"""What an erasure is about to do to a table's log, written down before it begins.

Each entry of the log is changed by itself, so a process that dies leaves some changed and some not. The plan
says how all of them are to end, by names of files alone; whoever comes next carries it out again from its
beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fourfold.adapters.delta.actions import DataFile, Json, data_file, table_path
from fourfold.adapters.delta.actions import log_path as spelled_in
from fourfold.adapters.delta.place import Place
from fourfold.core.errors import Corrupted

FOLDER = "_erasing"
"""Where plans lie, in a table's folder. They are gone once they are carried out."""
FORMAT = 1


class Step(Enum):
    """An old file gives its place to new ones in steps, each made in all entries before the next begins.

    So every version is whole at any moment: an entry adds the old file or the new ones, and whoever
    removes the one also removes the others.
    """

    beside = "entries that add or remove the old file also remove the new ones"
    instead = "entries that add the old file add the new ones, and remove the old one"
    alone = "nobody speaks of the old file any more"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table's logs are to be without some rows. It holds no value of any row."""

    id: str
    token: str
    """Tells whether another erasure is for the same keys."""
    swapped: Mapping[str, tuple[DataFile, ...]]
    """Each file that held such rows, as the log spells it, and what stands in its place."""
    vague: frozenset[str]
    """Files that a vacuum took, which may have held such rows: nothing more is told of their values."""
    counts: Mapping[str, Mapping[int, tuple[int, int, int]]]
    """By a log's place in the table's folder and by version: rows, rows added, rows removed."""
    scrubbed: Mapping[str, tuple[int, ...]]
    """Entries in which another program noted a value among its commit's parameters."""
    garbage: tuple[str, ...]
    """Files that no version names, to be removed with the old ones."""
    rows: Mapping[str, Mapping[int, int]]
    """By address and version, the rows that go."""
    file_count: int
    size_bytes: int

    def dump(self) -> bytes:
        return json.dumps({
            "format": FORMAT, "id": self.id, "token": self.token,
            "swapped": {path: [file.add()["add"] for file in files] for path, files in self.swapped.items()},
            "vague": sorted(self.vague),
            "counts": {home: dict(counts) for home, counts in self.counts.items()},
            "scrubbed": {home: list(versions) for home, versions in self.scrubbed.items()},
            "garbage": list(self.garbage),
            "rows": {address: dict(rows) for address, rows in self.rows.items()},
            "file_count": self.file_count, "size_bytes": self.size_bytes,
        }).encode()  # fmt: skip

    @property
    def new_paths(self) -> set[str]:
        """The new files, as they are called."""
        return {file.stored_at for files in self.swapped.values() for file in files}


def load(data: bytes, name: str) -> Plan:
    try:
        said: dict[str, Any] = json.loads(data)
        return Plan(
            id=said["id"],
            token=said["token"],
            swapped={path: tuple(map(data_file, adds)) for path, adds in said["swapped"].items()},
            vague=frozenset(said["vague"]),
            counts={
                home: {int(version): (a, b, c) for version, (a, b, c) in counts.items()}
                for home, counts in said["counts"].items()
            },
            scrubbed={home: tuple(versions) for home, versions in said["scrubbed"].items()},
            garbage=tuple(said["garbage"]),
            rows={
                address: {int(version): count for version, count in rows.items()}
                for address, rows in said["rows"].items()
            },
            file_count=said["file_count"],
            size_bytes=said["size_bytes"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(
            f"an erasure of table '{name}' was begun, and its plan cannot be read",
            ways_on=[f"every version is whole: remove the table's folder {FOLDER}, and erase again"],
            table=name,
        ) from error


def plans(place: Place, table: str) -> Iterator[Plan]:
    """What was begun and not finished."""
    for file in place.files(f"{table}/{FOLDER}"):
        if file.path.endswith(".json") and (data := place.get(f"{table}/{FOLDER}/{file.path}")) is not None:
            yield load(data, table)


def path_of(plan: Plan) -> str:
    return f"{FOLDER}/{plan.id}.json"


def mentions(data: bytes, home: str, plan: Plan) -> bool:
    """Whether an entry speaks of a file that the plan is about."""
    return any(
        (path := _path(action, home)) is not None and (path in plan.swapped or path in plan.vague)
        for action in map(json.loads, _lines(data))
    )


def changed(data: bytes, home: str, version: int, step: Step, plan: Plan) -> bytes:
    """An entry of the log in `home` as it is after a step; done twice, the second changes nothing."""
    lines = _lines(data)
    actions: list[Json] = [json.loads(line) for line in lines]
    entry = _Entry(actions, home, plan)
    match step:
        case Step.beside:
            after = entry.beside()
        case Step.instead:
            is_scrubbed = version in plan.scrubbed.get(home, ())
            after = [_told(a, plan.counts.get(home, {}).get(version), is_scrubbed) for a in entry.instead()]
        case Step.alone:
            after = entry.alone() or [{"commitInfo": {}}]
    if after == actions:
        return data
    as_it_was = {id(action): line for action, line in zip(actions, lines, strict=True)}
    return b"".join((as_it_was.get(id(action)) or _text(action)) + b"\n" for action in after)


class _Entry:
    """The actions of an entry. What does not concern the plan stays the same object, and the same bytes."""

    def __init__(self, actions: list[Json], home: str, plan: Plan) -> None:
        self._actions = actions
        self._home = home
        self._plan = plan
        self._added = {_path(action, home) or "" for action in actions if "add" in action}
        self._removed = {_path(action, home) or "" for action in actions if "remove" in action}

    def beside(self) -> list[Json]:
        found = [self._bare(a) if "remove" in a and self._is_old(a) else a for a in self._actions]
        for old in sorted((self._added | self._removed) & self._plan.swapped.keys()):
            others = [file.path for file in self._plan.swapped[old]]
            found += [self._remove(p) for p in others if p not in self._added and p not in self._removed]
        return found

    def instead(self) -> list[Json]:
        found: list[Json] = []
        swapped = sorted(self._added & self._plan.swapped.keys())
        now_added = {file.path for old in swapped for file in self._plan.swapped[old]}
        for action in self._actions:
            path = _path(action, self._home)
            if "add" in action and self._is_old(action):
                is_change = bool(action["add"].get("dataChange", True))
                files = self._plan.swapped[path or ""]
                found += [file.add(self._home, is_change=is_change) for file in files]
            elif "add" in action and path in self._plan.vague:
                found.append(_vague(action))
            elif "remove" not in action or path not in now_added:
                found.append(action)
        return found + [self._remove(old) for old in swapped if old not in self._removed]

    def alone(self) -> list[Json]:
        return [a for a in self._actions if not ("remove" in a and self._is_old(a))]

    def _is_old(self, action: Json) -> bool:
        return _path(action, self._home) in self._plan.swapped

    def _remove(self, path: str) -> Json:
        return {"remove": {"path": spelled_in(path, self._home), "dataChange": False}}

    @staticmethod
    def _bare(action: Json) -> Json:
        """A removal without what it tells of the file, such as its partition."""
        kept = {key: value for key, value in action["remove"].items() if key in _OF_A_REMOVAL}
        return action if kept == action["remove"] else {"remove": kept}


_OF_A_REMOVAL = frozenset({"path", "deletionTimestamp", "dataChange"})


def _vague(action: Json) -> Json:
    add = action["add"]
    rows = data_file(add).noted.get("numRecords")
    stats = {"stats": json.dumps({"numRecords": rows})} if isinstance(rows, int) else {}
    bare = {key: value for key, value in add.items() if key not in {"stats", "stats_parsed", "tags"}} | stats
    return action if bare == add else {"add": bare}


def _told(action: Json, counts: tuple[int, int, int] | None, is_scrubbed: bool) -> Json:
    """What the commit tells of itself, with other counts and without another program's parameters."""
    info = action.get("commitInfo")
    if not isinstance(info, dict):
        return action
    after = dict(info)
    if counts is not None and isinstance(own := info.get("fourfold"), dict):
        after["fourfold"] = own | dict(zip(("rows", "rows_added", "rows_removed"), counts, strict=True))
    if is_scrubbed:
        after["operationParameters"] = {}
    return action if after == info else {"commitInfo": after}


def _path(action: Json, home: str) -> str | None:
    """The file that an action is about, as seen from the table's folder."""
    found = action.get("add") or action.get("remove")
    return table_path(found["path"], home) if isinstance(found, dict) else None


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.strip()]


def _text(action: Json) -> bytes:
    return json.dumps(action, separators=(",", ":")).encode()
