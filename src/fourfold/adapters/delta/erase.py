"""Rows taken out of every version of a table and its branches.

First the newest versions get rid of them by a commit like any other, so that writers at the same time meet a
changed table. Then, while nobody commits, a plan is written down and carried out: each older version's entry
names files without the rows instead of those with them. At the end the old files go. See `plan.py` for why a
process may die anywhere in between.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pyarrow as pa

from fourfold.adapters.delta import checkpoint
from fourfold.adapters.delta import plan as plans
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.carrying import base_of, carry_out
from fourfold.adapters.delta.errors import dropped, no_table, writable
from fourfold.adapters.delta.files import Staged
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.past import History
from fourfold.adapters.delta.place import StoredFile
from fourfold.adapters.delta.plan import Plan
from fourfold.adapters.delta.sought import Sought
from fourfold.adapters.delta.state import ERASE, State
from fourfold.adapters.delta.transaction import Outcome, perform
from fourfold.adapters.delta.vacuum import is_data
from fourfold.core.decide import erasing
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.ports.tables import Commit, Erased, Mark, RowKey
from fourfold.core.times import Instant


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
            swapped={path: fate.files for path, fate in fates.items() if not fate.is_vague}
            | {path: () for history in histories for path in history.strangers},
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


def _check_erasable(table: Log, histories: Iterable[History]) -> None:
    """Refuse what other programs keep rows in that we cannot read."""
    name = table.address.table
    unknown = set().union(*(history.uses_unknown for history in histories))
    if table.place.files(f"{name}/_change_data", deep=True):
        unknown.add("changeDataFeed")
    for history in histories:
        base = base_of(history.log)
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
