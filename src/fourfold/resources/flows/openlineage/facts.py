"""What is known of the things that steps read and wrote: where they are, their columns, their queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fourfold.catalog import columns
from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError
from fourfold.core.lineage import MadeByQuery
from fourfold.core.openlineage import Dataset, dataset_name
from fourfold.core.services.storage import Storage
from fourfold.core.storage import Column

LOOK_BACK = 1000
"""Versions of a table among which one is looked for, to tell how many rows it brought."""

_DATA = ("table", "model", "training_set", "feature_service", "run", "endpoint", "blob")


class ProjectFacts:
    """Fulfils `events.Facts` over the project's own rooms."""

    def __init__(
        self,
        catalog: Catalog,
        storage: Callable[[], Storage],
        *,
        project: str,
        store: str,
        columns_of: Callable[[Ref], tuple[Column, ...]] = lambda _: (),
    ) -> None:
        """`store` is the address under which the tables are, as others would write it; `storage` is opened
        when a table is first told of. `columns_of` knows the columns of what rooms above keep."""
        self._columns_of = columns_of
        self._catalog = catalog
        self._storage = storage
        self._project = project
        self._store = store

    @property
    def namespace(self) -> str:
        return self._project

    def datasets(self, refs: Iterable[Ref]) -> Mapping[Ref, Dataset]:
        return {ref: self._dataset(ref) for ref in refs if ref.kind in _DATA}

    def made(self, refs: Iterable[Ref]) -> Mapping[Ref, MadeByQuery]:
        with self._catalog.read() as connection:
            return columns.of(connection, refs)

    def _dataset(self, ref: Ref) -> Dataset:
        if ref.kind != "table":
            columns_of = self._columns_of(ref)
            return Dataset(ref, f"fourfold://{self._project}", f"{ref.kind}/{ref.name}", columns_of)
        namespace, name = dataset_name(self._store, ref.name)
        try:
            with context.within(None):  # telling of a table is not reading it
                storage = self._storage()
                info = storage.describe(ref.name, version=int(ref.version))
                versions = storage.history(ref.name, limit=LOOK_BACK)
        except (FourfoldError, ValueError):  # dropped or vacuumed since
            return Dataset(ref, namespace, name)
        rows = next((each.rows_added for each in versions if each.version == info.version), None)
        return Dataset(ref, namespace, name, info.columns, rows)
