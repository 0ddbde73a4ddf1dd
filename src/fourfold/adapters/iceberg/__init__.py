"""Tables in Iceberg format, through `pyiceberg`: what other companies' engines agree on."""

from fourfold.adapters.iceberg.store import IcebergTables

__all__ = ["IcebergTables"]
