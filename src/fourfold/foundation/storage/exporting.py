"""A version of a table, written to another table store that other companies' engines read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pyarrow as pa

from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.ports.tables import Commit, Mark, TableStore
from fourfold.core.storage import MAIN, Exported, table_address

Targets = Mapping[str, Callable[[], TableStore]]
"""The places that the settings name for exports, each opened when it is asked for."""


def exported(
    targets: Targets, to: str, name: str, version: int, data: pa.RecordBatchReader,
    *, partition_by: tuple[str, ...], mark: Mark,
) -> Exported:  # fmt: skip
    """Make the table `name` of the target hold these rows; nothing, if it holds this version already."""
    address = table_address(name)
    if address.branch != MAIN:
        raise Refused(
            f"'{name}' is a branch, and only tables are exported", ways_on=["publish it first"], table=name
        )
    if to not in targets:
        raise Refused(
            f"the settings name no place '{to}' for exports",
            ways_on=(
                did_you_mean(to, targets, what="places")
                if targets
                else ['add to fourfold.toml: [exports] and below it lake = "iceberg+https://…"']
            ),
        )
    store, label = targets[to](), f"table:{name}@{version}"
    newest = _newest(store, name)
    if newest is not None and newest.step == label:
        return Exported(name, version, to, newest.version, newest.rows)
    # Not the step's write key: that is of the table here.
    made = store.overwrite(
        name,
        data,
        partition_by=partition_by if newest is None else (),
        mark=replace(mark, key="", step=label),
    )
    return Exported(name, version, to, made.version, made.rows)


def _newest(store: TableStore, name: str) -> Commit | None:
    try:
        return store.history(name, limit=1)[0]
    except NotFound:
        return None
