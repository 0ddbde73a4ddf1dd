"""Rows taken out of every version of a table and its branches.

First the newest versions get rid of them by a commit like any other, so that writers at the same time meet a
changed table. Then, while nobody commits, a plan is written down and carried out: each older version's entry
names files without the rows instead of those with them. At the end the old files go. See `plan.py` for why a
process may die anywhere in between.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pyarrow as pa

from fourfold.adapters.delta import checkpoint
from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta import plan as plans
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import dropped, no_table, writable
from fourfold.adapters.delta.files import Staged, in_threads
from fourfold.adapters.delta.log import CHECKPOINT_EVERY, Log
from fourfold.adapters.delta.place import StoredFile
from fourfold.adapters.delta.plan import Plan, Step
from fourfold.adapters.delta.sought import Sought
from fourfold.adapters.delta.state import ERASE, State
from fourfold.adapters.delta.transaction import Outcome, perform
from fourfold.adapters.delta.vacuum import is_data
from fourfold.core.decide import erasing
from fourfold.core.errors import FourfoldError, OutOfSpace, Refused, Unavailable
from fourfold.core.ports.tables import Commit, Erased, Mark, RowKey
from fourfold.core.times import Instant

TRIES = 5
"""How often a plan is carried out again because somebody brought an old file back meanwhile, which only
happens where nobody can be made to wait."""
READ_AT_ONCE = 64

_ENTRY = re.compile(r"(\d{20})\.json")
_DERIVED = re.compile(r".*\.crc|.*\.compacted\.json|.*\.torn|\.unfinished-.*")
"""What a log's folder holds beside entries and checkpoints: derived from them, or left by who died."""


class Erasure:
    """One erasure of a table. `branches` tells the logs of its branches as they are when asked."""

    def __init__(
        self,
        table: Log,
        branches: Callable[[], list[Log]],
        keys: Sequence[RowKey],
        *,
        before: Instant,
        mark: Mark,
    ) -> None:
        self._table = table
        self._branches = branches
        self._keys = keys
        self._before = before
        self._mark = mark
        said = json.dumps([sorted(key.items()) for key in keys], default=str).encode()
        self._token = hashlib.blake2b(said, digest_size=16).hexdigest()

    def would(self) -> Erased:
        """What it would do."""
        sought, histories = self._look(writes=False)
        garbage, unsure = self._leftovers(histories, sought)
        plan = self._plan(sought, histories, garbage)
        return Erased(plan.rows, plan.file_count, plan.size_bytes, {}, unsure)

    def go(self) -> Erased:
        earlier = self._finished()
        sought, histories = self._look(writes=True)
        staged = sought.staged
        try:
            upto = {history.log: history.newest.version for history in histories}
            made: dict[str, Commit] = {}
            for history in histories:
                if history.loses_rows(sought) and (commit := self._commit(history, sought)) is not None:
                    upto[history.log] = commit.version
                    # What it removed is removed from the version before it as well, in a moment.
                    made[history.log.name] = replace(commit, rows_removed=0)
            with self._turns() as logs:
                histories = [History(log) for log in logs]
                sought.decide(each for h in histories for each in h.files(upto.get(h.log)))
                garbage, unsure = self._leftovers(histories, sought)
                plan = self._plan(sought, histories, garbage)
                if plan.swapped or plan.vague or plan.garbage or plan.scrubbed:
                    self._begin(plan, staged)
                    carry_out(self._table, plan, logs)
        finally:
            staged.discard()  # what no version and no plan names
        return _together(earlier, Erased(plan.rows, plan.file_count, plan.size_bytes, made, unsure))

    # Looking

    def _look(self, *, writes: bool) -> tuple[Sought, list[History]]:
        histories = [History(log) for log in (self._table, *self._branches())]
        table = self._table.address.table
        erasing.check(table, self._keys, (schema for h in histories for schema in h.schemas))
        _check_erasable(self._table, histories)
        sought = Sought(table, Staged(self._table.place, table), self._keys, writes=writes)
        try:
            sought.decide(each for history in histories for each in history.files(None))
        except BaseException:
            sought.staged.discard()
            raise
        return sought, histories

    def _leftovers(self, histories: Sequence[History], sought: Sought) -> tuple[list[StoredFile], int]:
        """Files that no version names: those to remove, and how many may still be in somebody's hands."""
        place, table = self._table.place, self._table.address.table
        known = {file.stored_at for history in histories for file, _ in history.files(None)}
        known |= {file.stored_at for fate in sought.fates.values() for file in fate.files}
        known |= {path for plan in plans.plans(place, table) for path in plan.new_paths}
        garbage, unsure = [], 0
        for file in place.files(table, deep=True):
            if not is_data(file.path) or file.path in known:
                continue
            if file.modified < self._before:
                garbage.append(file)
                continue
            try:
                unsure += bool(sought.rows_in(DataFile(_quoted(file.path), file.size_bytes, {}, 0)))
            except (FourfoldError, OSError, pa.ArrowException):
                unsure += not place.missing([f"{table}/{file.path}"])  # it is being written at this moment
        return garbage, unsure

    # Doing

    def _commit(self, history: History, sought: Sought) -> Commit | None:
        """Have the newest version of a log without the rows, by a commit; one is enough for each log."""
        if history.newest_operation == ERASE and not history.has_now(sought):
            return None
        log = history.log
        staged = Staged(log.place, log.address.table)
        return perform(log, _Newest(log.name, sought, staged), staged, self._mark)

    def _plan(self, sought: Sought, histories: Sequence[History], garbage: Sequence[StoredFile]) -> Plan:
        fates = sought.fates
        counts, rows = {}, {}
        for history in histories:
            found, gone = history.without(sought)
            counts[history.log.home] = found
            if gone:
                rows[history.log.name] = gone
        there = [fate for fate in fates.values() if not fate.is_gone]
        return Plan(
            id=secrets.token_hex(8),
            token=self._token,
            swapped={path: fate.files for path, fate in fates.items() if not fate.is_vague},
            vague=frozenset(path for path, fate in fates.items() if fate.is_vague),
            counts=counts,
            scrubbed={h.log.home: told for h in histories if (told := h.telling(self._keys))},
            garbage=tuple(file.path for file in garbage),
            rows=rows,
            file_count=len(there) + len(garbage),
            size_bytes=sum(fate.file.size_bytes for fate in there) + sum(file.size_bytes for file in garbage),
        )

    def _begin(self, plan: Plan, staged: Staged) -> None:
        """Write the plan down. From here on the new files are its."""
        place, table = self._table.place, self._table.address.table
        path = f"{table}/{plans.path_of(plan)}"
        with writable(self._table.name):
            staged.settle()
            new = [file for files in plan.swapped.values() for file in files]
            if place.missing([f"{table}/{file.stored_at}" for file in new]):
                raise dropped(table)
            try:
                place.put(path, plan.dump())
            except BaseException:
                is_there = True
                with suppress(Exception):
                    is_there = place.get(path) is not None
                if is_there:  # whatever failed after that
                    staged.keep(new)
                raise
            staged.keep(new)

    def _finished(self) -> list[Plan]:
        """Finish what erasures before this one began; those of the same keys."""
        with self._turns() as logs:
            found = list(plans.plans(self._table.place, self._table.address.table))
            for plan in found:
                carry_out(self._table, plan, logs)
        return [plan for plan in found if plan.token == self._token]

    @contextmanager
    def _turns(self) -> Iterator[list[Log]]:
        """Our turn at the table and all its branches: nobody forks, publishes, restores or vacuums."""
        with ExitStack() as stack:
            stack.enter_context(self._table.turn())
            branches = self._branches()
            for log in branches:
                stack.enter_context(log.turn())
            yield [self._table, *(log for log in branches if log.is_there())]


class History:
    """All that a log told until now, and which files its versions have or had."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.newest = log.there()
        self._entries = list(log.entries(-1, self.newest.version))
        first = self._entries[0]
        self._base: State | None = None
        if first.version:  # another program cleaned the log up to here
            self._base = log.at(first.version)
            self._entries = self._entries[1:]
        self._files: dict[str, tuple[int, DataFile, pa.Schema]] = {}
        self.schemas: list[pa.Schema] = []
        self._read()

    @property
    def newest_operation(self) -> str:
        return self._entries[-1].operation if self._entries else ""

    @property
    def uses_unknown(self) -> set[str]:
        """What files of any version use that we cannot read."""
        found = set(self._base.used) if self._base else set()
        return found.union(*(entry.unknown for entry in self._entries))

    def files(self, upto: int | None) -> Iterator[tuple[DataFile, pa.Schema]]:
        """Files that came in versions up to this one, each with the columns of the first that had it."""
        return (
            (file, schema)
            for version, file, schema in self._files.values()
            if upto is None or version <= upto
        )

    def loses_rows(self, sought: Sought) -> bool:
        return any((fate := sought.fate(path)) is not None and fate.rows for path in self._files)

    def has_now(self, sought: Sought) -> bool:
        return any(sought.fate(path) is not None for path in self.newest.files)

    def without(self, sought: Sought) -> tuple[dict[int, tuple[int, int, int]], dict[int, int]]:
        """Each version's counts without the rows, where they change; and how many rows each version loses."""
        counts: dict[int, tuple[int, int, int]] = {}
        lost: dict[int, int] = {}
        fates, live, gone = sought.fates, dict[str, int](), 0
        if self._base is not None:
            live = {path: fates[path].rows for path in self._base.files if path in fates}
            gone = sum(live.values())
            if gone:
                lost[self._base.version] = gone
        for entry in self._entries:
            before = gone
            for path in entry.removed:
                gone -= live.pop(path, 0)
            for file in entry.added:
                gone -= live.pop(file.path, 0)
                if file.path in fates:
                    live[file.path] = fates[file.path].rows
                    gone += live[file.path]
            if gone:
                lost[entry.version] = gone
            if entry.counts_rows and (gone or before):
                base = gone if entry.operation == "branch" else before
                told = erasing.recounted(entry.commit(), gone=gone, gone_before=base)
                counts[entry.version] = told.rows, told.rows_added, told.rows_removed
        return counts, lost

    def telling(self, keys: Sequence[RowKey]) -> tuple[int, ...]:
        """Entries of other programs whose parameters tell one of the values, as a predicate does."""
        values = {str(value) for key in keys for value in key.values() if not isinstance(value, bool)}
        words = [re.compile(rf"(?<!\w){re.escape(value)}(?!\w)") for value in sorted(values)]
        return tuple(
            entry.version
            for entry in self._entries
            if not entry.own
            and (said := json.dumps(entry.info.get("operationParameters") or {}, ensure_ascii=False)) != "{}"
            and any(word.search(said) for word in words)
        )

    def _read(self) -> None:
        schema = pa.schema([])
        if self._base is not None:
            schema = self._base.schema
            self.schemas.append(schema)
            for path, file in self._base.files.items():
                self._files[path] = self._base.version, file, schema
        for entry in self._entries:
            if entry.metadata:
                schema = meta.read(entry.metadata).schema
                self.schemas.append(schema)
            for file in entry.added:
                self._files.setdefault(file.path, (entry.version, file, schema))


class _Newest:
    """The newest version without the rows, as a change that waits for its place in the log."""

    operation = ERASE
    only_adds = False

    def __init__(self, name: str, sought: Sought, staged: Staged) -> None:
        self._name = name
        self._sought = sought
        self._staged = staged

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._name)
        self._sought.decide((file, state.schema) for file in state.files.values())
        with writable(self._name):
            self._sought.staged.settle()
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._name)
        if not self._sought.knows(state.files):
            return None
        found = [fate for path in state.files if (fate := self._sought.fate(path)) is not None]
        added = [file for fate in found for file in fate.files]
        self._staged.adopt(self._sought.staged, added)  # they are this commit's, in doubt and out of it
        return Outcome(
            metadata=state.metadata,
            protocol=state.protocol,
            added=added,
            removed=[fate.file for fate in found],
            rows_removed=sum(fate.rows for fate in found),
        )


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
    if step is Step.instead and (base := _base(log)) is not None:
        _change_base(log, base, plan)


def _change_base(log: Log, base: str, plan: Plan) -> None:
    """The checkpoint that stands for the beginning of a log which another program cleaned."""
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
    if files != state.files:
        log.place.put(log.path(base), checkpoint.written(replace(state, files=files), log.home)[0])


def _drop_derived(log: Log) -> None:
    """Remove checkpoints and all else that repeats what entries said before; a new checkpoint follows."""
    base = _base(log)
    names = [file.path for file in log.place.files(log.folder)]
    checkpoints = [name for name in names if checkpoint.NAME.fullmatch(name) and name != base]
    pointer = [name for name in names if name == checkpoint.POINTER]
    others = [name for name in names if _DERIVED.fullmatch(name)]
    log.place.delete(log.path(name) for name in (*pointer, *checkpoints, *others))


def _base(log: Log) -> str | None:
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


def _check_erasable(table: Log, histories: Iterable[History]) -> None:
    """Refuse what other programs keep rows in that we cannot read."""
    name = table.address.table
    unknown = set().union(*(history.uses_unknown for history in histories))
    if table.place.files(f"{name}/_change_data", deep=True):
        unknown.add("changeDataFeed")
    for history in histories:
        base = _base(history.log)
        if base is not None and (found := checkpoint.NAME.fullmatch(base)) and found[3]:
            unknown.add("a log that begins with a checkpoint in several parts")
    if unknown:
        raise Refused(
            f"table '{name}' cannot be erased from: its versions use {', '.join(sorted(unknown))}",
            ways_on=[
                "let the program that wrote it delete the rows, and remove the old versions by its vacuum",
                "or overwrite the table under another name, and drop this one",
            ],
            table=name,
        )


def _together(earlier: Sequence[Plan], done: Erased) -> Erased:
    """What was done, with what an erasure of the same keys had begun."""
    rows = {name: dict(of_versions) for name, of_versions in done.rows.items()}
    for plan in earlier:
        for name, of_versions in plan.rows.items():
            here = rows.setdefault(name, {})
            for version, count in of_versions.items():
                here[version] = max(here.get(version, 0), count)
    return replace(
        done,
        rows=rows,
        file_count=done.file_count + sum(plan.file_count for plan in earlier),
        size_bytes=done.size_bytes + sum(plan.size_bytes for plan in earlier),
    )


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
