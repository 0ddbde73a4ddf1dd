"""Where predictions come from: kept columns are the table's, and answers come from all that a model is given.

What a model does with its inputs nobody can tell, so each answer is said to come from each of them. From
other columns of the table it cannot come, because the model is not given them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.lineage import How, Influence, OutputColumn, QueryColumns
from fourfold.core.services.features import Features
from fourfold.foundation.storage.columns.made import Derived
from fourfold.mlplatform.features.provenance import training_set_columns
from fourfold.mlplatform.features.training import training_set_info

Versions = Mapping[str, int]
"""A version of each table that features were looked up in."""


@dataclass
class Seen:
    """Looks features up, and keeps which versions of their tables they came from: batches may differ."""

    look_up: Callable[[pa.Table], pa.Table]
    versions: list[Versions] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    """The table's, as they were asked with."""
    is_whole: bool = True
    """False where an answer did not say which versions it was made from."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = self.look_up(rows)
        self.columns = tuple(rows.schema.names)
        try:
            versions = training_set_info(found).table_versions
        except Refused:
            self.is_whole = False
        else:
            if versions not in self.versions:
                self.versions.append(versions)
        return found


def with_features(table: Derived, features: Features, service: str, seen: Seen, *, at: str) -> Derived | None:
    """The table's columns and the service's features behind them; `None` where versions are not known."""
    if not seen.is_whole:
        return None
    name, _, version = service.partition("@")
    info = features.service(name, version=version or None).service
    views = {use.version: features.view(use.view, version=use.version) for use in info.uses}
    found = [training_set_columns(info, views, versions, table, at=at) for versions in seen.versions]
    if not found:
        return table
    acting: dict[str, set[Influence]] = {}
    for each in found:
        for output in each.columns.outputs:
            acting.setdefault(output.name, set()).update(output.influences)
    outputs = tuple(OutputColumn(column, tuple(sorted(every))) for column, every in acting.items())
    refs = frozenset[Ref]().union(*(each.refs for each in found))
    return Derived(QueryColumns(outputs, table.columns.rows), refs)


def predicted(
    given: Derived, *, inputs: Sequence[str], keep: Sequence[str], answers: Sequence[str]
) -> Derived:
    """The columns of a table of predictions, made from what the model is given."""
    of_name = {output.name: output.influences for output in given.columns.outputs}
    into = tuple(sorted({_computed(each) for name in inputs for each in of_name.get(name, ())}))
    outputs = [OutputColumn(name, of_name[name]) for name in keep]
    outputs += [OutputColumn(name, into) for name in answers]
    return Derived(QueryColumns(tuple(outputs), given.columns.rows), given.refs)


def _computed(influence: Influence) -> Influence:
    return replace(influence, how=How.transformation) if influence.how is How.identity else influence
