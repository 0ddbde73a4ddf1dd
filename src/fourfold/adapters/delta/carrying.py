"""A plan of an erasure carried out in the logs of a table and its branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fourfold.adapters.delta import checkpoint
from fourfold.adapters.delta import plan as plans
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import writable
from fourfold.adapters.delta.files import in_threads
from fourfold.adapters.delta.log import CHECKPOINT_EVERY, Log
from fourfold.adapters.delta.plan import Plan, Step
from fourfold.core.errors import OutOfSpace, Unavailable
from fourfold.core.times import Instant

TRIES = 5
"""How often a plan is carried out again because somebody brought an old file back meanwhile, which only
happens where nobody can be made to wait."""
READ_AT_ONCE = 64

_ENTRY = re.compile(r"(\d{20})\.json")
_DERIVED = re.compile(r".*\.crc|.*\.compacted\.json|.*\.torn|\.unfinished-.*")
"""What a log's folder holds beside entries and checkpoints: derived from them, or left by who died."""


def carry_out(table: Log, plan: Plan, logs: Sequence[Log]) -> None:
    """Have the logs be as planned. Nobody commits to them meanwhile, where the place lets us wait."""
    try:
        with writable(table.name):
            _carried_out(table, plan, logs)
    except (OutOfSpace, Unavailable) as error:
        raise type(error)(
            f"an erasure of table '{table.name}' was begun and could not be finished; every version is "
            "whole, and some of them may still hold the rows",
            ways_on=[error.message, "do it again: it goes on where it stopped"],
            table=table.name,
        ) from error
    finally:
        for log in logs:
            log.forget()


def _carried_out(table: Log, plan: Plan, logs: Sequence[Log]) -> None:
    place, folder = table.place, table.address.table
    for _ in range(TRIES):
        touched = {log: _touched(log, plan) for log in logs}
        for step in Step:
            if step is Step.alone:
                for log in logs:
                    _drop_derived(log)
            for log in logs:
                _change(log, touched[log], step, plan)
        if not any(_mentioned(log, plan) for log in logs):
            break
    old = [DataFile(path, 0, {}, 0).stored_at for path in plan.swapped]
    gone = [f"{folder}/{path}" for path in (*old, *plan.garbage)]
    place.delete(gone)
    place.prune(_folders_of(folder, gone))
    for log in logs:
        log.forget()
        if (newest := log.there()).version >= CHECKPOINT_EVERY:
            log.checkpoint(newest)
    place.delete([f"{folder}/{plans.path_of(plan)}"])
    place.prune([f"{folder}/{plans.FOLDER}"])


def _folders_of(table: str, paths: Iterable[str]) -> list[str]:
    """The folders within a table's in which these files were, the deepest first: they tell partitions."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]).startswith(f"{table}/"):
            found.add(path)
    return sorted(found, reverse=True)


def _touched(log: Log, plan: Plan) -> list[int]:
    """The versions whose entries change."""
    told = {*plan.counts.get(log.home, {}), *plan.scrubbed.get(log.home, ())}
    return sorted(told | set(_mentioned(log, plan)))


def _mentioned(log: Log, plan: Plan) -> list[int]:
    """The versions whose entries speak of an old file."""
    return [
        version for version, data in _entries(log, _versions(log)) if plans.mentions(data, log.home, plan)
    ]


def _change(log: Log, versions: Sequence[int], step: Step, plan: Plan) -> None:
    """Make a step in the entries of these versions; in which order does not matter."""
    put = []
    for version, data in _entries(log, versions):
        after = plans.changed(data, log.home, version, step, plan)
        if after != data:
            put.append((log.path(version), after))
        if len(put) >= READ_AT_ONCE:
            in_threads(lambda each: log.place.put(*each), put)
            put = []
    in_threads(lambda each: log.place.put(*each), put)
    if step is Step.instead and (base := base_of(log)) is not None:
        _change_base(log, base, plan)


def _change_base(log: Log, base: str, plan: Plan) -> None:
    """The checkpoint that stands for the beginning of a log which another program cleaned. What it tells of
    files that were removed goes: their partitions are values."""
    data = log.place.get(log.path(base))
    found = checkpoint.NAME.fullmatch(base)
    if data is None or found is None:
        return
    state = checkpoint.read(int(found[1]), [data], log.home, Instant(0), "")
    files: dict[str, DataFile] = {}
    for path, file in state.files.items():
        if path in plan.swapped:
            files |= {new.path: new for new in plan.swapped[path]}
        else:
            files[path] = replace(file, stats="", tags=None) if path in plan.vague else file
    log.place.put(log.path(base), checkpoint.written(replace(state, files=files), log.home)[0])


def _drop_derived(log: Log) -> None:
    """Remove checkpoints and all else that repeats what entries said before; a new checkpoint follows."""
    base = base_of(log)
    names = [file.path for file in log.place.files(log.folder)]
    checkpoints = [name for name in names if checkpoint.NAME.fullmatch(name) and name != base]
    pointer = [name for name in names if name == checkpoint.POINTER]
    others = [name for name in names if _DERIVED.fullmatch(name)]
    log.place.delete(log.path(name) for name in (*pointer, *checkpoints, *others))


def base_of(log: Log) -> str | None:
    """The oldest checkpoint, where the log cannot be opened without one."""
    names = [file.path for file in log.place.files(log.folder)]
    versions = [int(found[1]) for name in names if (found := _ENTRY.fullmatch(name))]
    if versions and min(versions) == 0:
        return None
    return min((name for name in names if checkpoint.NAME.fullmatch(name)), default=None)


def _versions(log: Log) -> list[int]:
    names = (file.path for file in log.place.files(log.folder))
    return [int(found[1]) for name in names if (found := _ENTRY.fullmatch(name))]


def _entries(log: Log, versions: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(versions), READ_AT_ONCE):
        some = versions[start : start + READ_AT_ONCE]
        found = log.place.get_many([log.path(version) for version in some])
        yield from ((v, data) for v, data in zip(some, found, strict=True) if data is not None)
