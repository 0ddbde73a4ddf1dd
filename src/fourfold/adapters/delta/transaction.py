"""How a change gets into a log: prepared without a lock, then tried until it is the next version."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fourfold.adapters.delta import history
from fourfold.adapters.delta.actions import DataFile, Json, Own
from fourfold.adapters.delta.errors import dropped, no_table, writable
from fourfold.adapters.delta.files import Staged
from fourfold.adapters.delta.log import CHECKPOINT_EVERY, InDoubt, Log
from fourfold.adapters.delta.metadata import Metadata, check_readable, check_writable
from fourfold.adapters.delta.state import WATERMARK, State
from fourfold.core.errors import Conflict, FourfoldError, Unavailable
from fourfold.core.ports.tables import Commit, Mark
from fourfold.core.storage import MAIN
from fourfold.core.times import Instant

COMMIT_TRIES = 50
"""How often a change is put to the log again after others were quicker."""

_WORDS = {
    # what readers of the log know each of our operations as
    "create": "CREATE TABLE AS SELECT", "append": "WRITE", "overwrite": "WRITE", "upsert": "MERGE",
    "delete": "DELETE", "evolve": "CHANGE COLUMNS", "restore": "RESTORE", "compact": "OPTIMIZE",
    "branch": "CLONE", "publish": "WRITE", "erase": "DELETE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change makes of a table."""

    metadata: Metadata
    protocol: Json
    added: Sequence[DataFile] = ()
    removed: Sequence[DataFile] = ()
    rows_added: int = 0
    rows_removed: int = 0
    rows: int | None = None
    """Rows of the whole table after it, where they are not those before, plus and less these."""
    is_change: bool = True
    """False where rows are only laid anew."""
    branch: Mapping[str, Any] = field(default_factory=dict)
    """What a branch's first version and a publish note of where branch and table met."""
    watermark: int = -1


class Change(Protocol):
    """One write: prepared for the table as it is, and again where others changed what it stands on."""

    @property
    def operation(self) -> str: ...

    @property
    def only_adds(self) -> bool:
        """Whether rows that are there stay as they are."""
        ...

    def prepare(self, state: State | None) -> bool:
        """Check the change against the table, and write its files. False when there is nothing to do.

        Called without a lock, and again after others' commits: what holds still is not done again.
        """
        ...

    def outcome(self, state: State | None) -> Outcome | None:
        """What it makes of the table; `None` when it must be prepared for this state first."""
        ...


def perform(log: Log, change: Change, staged: Staged, mark: Mark) -> Commit | None:
    """Do the change once; `None` when there is nothing to do. What it wrote goes when it fails."""
    is_in_doubt = False
    try:
        for _ in range(COMMIT_TRIES):
            state = log.newest()
            if (first := answered(log, state, mark)) is not None:
                staged.discard()
                return first
            _check(log, change, state)
            if not change.prepare(state):
                staged.discard()
                return None
            with writable(log.name):
                staged.settle()
            with log.turn():
                now = log.newest()
                if answered(log, now, mark) is not None:
                    continue
                _check(log, change, now)
                if (outcome := change.outcome(now)) is None:
                    continue
                if _is_another(state, now) and staged.missing():
                    raise dropped(log.name)
                own = _own(now, change, outcome, mark)
                lines = _lines(log, now, outcome, own, mark)
                is_in_doubt = True
                made = log.commit(now, lines, own.id)
                if made is not None:
                    staged.keep(outcome.added)  # whatever happens from here on, they are a version's
                is_in_doubt = False
            if made is not None:
                staged.discard()
                if made.version and made.version % CHECKPOINT_EVERY == 0:
                    log.spare(made)
                return own.commit(made.version)
    except InDoubt as error:
        raise Unavailable(
            f"table '{log.name}' did not answer while it was written to: whether the write came to be is "
            "not known",
            ways_on=["see its history, or repeat the write if it has a key"],
            table=log.name,
        ) from error
    except BaseException as error:
        if not is_in_doubt or isinstance(error, FourfoldError):
            staged.discard()
        raise
    else:
        staged.discard()
    raise Conflict(
        f"table '{log.name}' was changed by others {COMMIT_TRIES} times while this write tried to",
        ways_on=["try again", "let fewer writers change the same rows at once"],
        table=log.name,
    )


def answered(log: Log, state: State | None, mark: Mark) -> Commit | None:
    """The commit that answers a write which is done already, or which a racing flush has done."""
    if mark.watermark >= 0 and mark.since != (-1 if state is None else state.watermark):
        if (first := _keyed(log, state, mark.key)) is not None:
            return first
        if state is None:
            raise no_table(log.name)
        return history.commit_of(log, log.entry(state.version))
    return _keyed(log, state, mark.key)


def _keyed(log: Log, state: State | None, key: str) -> Commit | None:
    """The commit that carries a write key. Its Delta transaction holds the version to look from."""
    if state is None or not key or key not in state.transactions:
        return None
    for entry in log.entries(max(-1, state.transactions[key] - 1), state.version):
        if key in entry.transactions:
            return history.commit_of(log, entry)
    return None


def _is_another(state: State | None, now: State | None) -> bool:
    """Whether the table may have been dropped since its state was looked at."""
    if state is None or now is None:
        return True
    return bool(state.metadata.action["id"] != now.metadata.action["id"])


def _check(log: Log, change: Change, state: State | None) -> None:
    if state is None and log.address.branch != MAIN and change.operation != "branch":
        raise no_table(log.name)  # a branch is begun by `fork` alone
    if state is not None:
        check_readable(log.name, state.metadata, state.protocol, state.used)
        check_writable(log.name, state.metadata, state.protocol, only_adds=change.only_adds)


def _own(state: State | None, change: Change, outcome: Outcome, mark: Mark) -> Own:
    before = 0 if state is None or change.operation == "branch" else state.rows
    return Own(
        id=secrets.token_hex(16),
        operation="create" if state is None and change.operation != "branch" else change.operation,
        at=mark.at or Instant(time.time_ns() // 1000),
        rows=outcome.rows if outcome.rows is not None else before + outcome.rows_added - outcome.rows_removed,
        rows_added=outcome.rows_added,
        rows_removed=outcome.rows_removed,
        key=mark.key,
        by=mark.by,
        step=mark.step,
        branch=outcome.branch,
    )


def _lines(log: Log, state: State | None, outcome: Outcome, own: Own, mark: Mark) -> list[Json]:
    """The entry of the log: who did what, then what it changes."""
    lines = [own.line(_WORDS[own.operation])]
    if state is None or outcome.protocol != state.protocol:
        lines.append({"protocol": outcome.protocol})
    if state is None or outcome.metadata.action != state.metadata.action:
        lines.append({"metaData": outcome.metadata.action})
    version, at_ms = 0 if state is None else state.version + 1, own.at // 1000
    if mark.key:
        lines.append(_transaction(mark.key, version, at_ms))
    watermark = max(mark.watermark, outcome.watermark)
    if watermark > (-1 if state is None else state.watermark):
        lines.append(_transaction(WATERMARK, watermark, at_ms))
    is_change = outcome.is_change
    lines += [file.remove(at_ms, log.home, is_change=is_change) for file in outcome.removed]
    lines += [file.add(log.home, is_change=is_change) for file in outcome.added]
    return lines


def _transaction(application: str, version: int, at_ms: int) -> Json:
    return {"txn": {"appId": application, "version": version, "lastUpdated": at_ms}}
