"""Changing a table's columns, and bringing an older version back."""

from __future__ import annotations

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import no_table, readable, vacuumed
from fourfold.adapters.delta.files import Staged, in_threads
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.reading import OpenFile
from fourfold.adapters.delta.rewrite import rewritten
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.core.decide import evolving
from fourfold.core.errors import NotFound
from fourfold.core.ports.tables import Evolution


class Evolve:
    """New columns are a matter of the log alone. For wider ones files are written anew: plain Delta has
    one type for a column, in all of a version's files."""

    operation = "evolve"
    only_adds = True

    def __init__(self, name: str, staged: Staged, change: Evolution) -> None:
        self._name = name
        self._staged = staged
        self._change = change
        self._wide: dict[str, tuple[DataFile, ...] | None] = {}
        """What stands in the place of each file; `None` where it may stay."""
        self._before: State | None = None

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._name)
        schema = evolving.evolved(self._name, state.schema, self._change)
        if self._before is not None and self._before.schema != state.schema:
            self._staged.discard()
            self._wide.clear()
        self._before = state
        asked = [file for file in self._stored(state) if file.path not in self._wide]

        def widened(file: DataFile) -> tuple[DataFile, ...] | None:
            with OpenFile(self._staged.place, self._staged.table, file, schema) as opened:
                narrow = [
                    field
                    for field in opened.schema_arrow
                    if field.name in self._change.widen and field.type != schema.field(field.name).type
                ]
            return tuple(rewritten(self._staged, file, schema)) if narrow else None

        with readable(self._name, state.version):
            self._wide |= {f.path: new for f, new in zip(asked, in_threads(widened, asked), strict=True)}
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._name)
        files = self._stored(state)
        if self._before is None or self._before.schema != state.schema:
            return None
        if any(file.path not in self._wide for file in files):
            return None
        schema = evolving.evolved(self._name, state.schema, self._change)
        removed = [file for file in files if self._wide[file.path] is not None]
        return Outcome(
            metadata=state.metadata.with_schema(schema),
            protocol=meta.protocol_for(schema, state.protocol),
            added=[new for file in removed for new in self._wide[file.path] or ()],
            removed=removed,
            is_change=False,
        )

    def _stored(self, state: State) -> list[DataFile]:
        """The files that may have to be written anew: partition values are text, which fits any width."""
        if all(column in state.partition_by for column in self._change.widen):
            return []
        return list(state.files.values())


class Restore:
    """The files and columns of an older version, as a new one."""

    operation = "restore"
    only_adds = False

    def __init__(self, log: Log, *, version: int) -> None:
        self._log = log
        self._version = version

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._log.name)
        whole(self._log, self._version)
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._log.name)
        old = whole(self._log, self._version)  # again: nobody vacuums while it is our turn
        removed = [file for path, file in state.files.items() if path not in old.files]
        added = [file for path, file in old.files.items() if path not in state.files]
        return Outcome(
            metadata=old.metadata,
            protocol=meta.protocol_for(old.schema, state.protocol),
            added=added,
            removed=removed,
            rows_added=sum(file.rows for file in added),
            rows_removed=sum(file.rows for file in removed),
        )


def whole(log: Log, version: int) -> State:
    """A version all of whose files are there; refused where some were vacuumed."""
    state = log.at(version)
    try:
        check_there(log, state)
    except NotFound:
        log.forget()  # what we remember of it may be from before rows of it were erased
        state = log.at(version)
        check_there(log, state)
    return state


def check_there(log: Log, state: State) -> None:
    """Refuse a version whose files were vacuumed."""
    table = log.address.table
    if gone := log.place.missing([f"{table}/{file.stored_at}" for file in state.files.values()]):
        raise vacuumed(log.name, state.version, [path.removeprefix(f"{table}/") for path in gone])
