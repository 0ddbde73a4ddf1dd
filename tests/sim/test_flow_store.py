"""The store in memory and the real tables keep the same promises."""

from __future__ import annotations

from fourfold.catalog.database import Catalog
from fourfold.resources.flows.tables import FlowTables
from fourfold.testing.flow_store import FlowRows, MemoryFlowStore, check_flow_store


def test_the_store_in_memory_fulfils_the_port() -> None:
    rows = FlowRows()
    check_flow_store(lambda: MemoryFlowStore(rows))


def test_the_tables_fulfil_the_port(catalog: Catalog) -> None:
    check_flow_store(lambda: FlowTables(catalog))
