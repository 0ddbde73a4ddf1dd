"""Rows of tables, as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fourfold.cli.output import Column, show

if TYPE_CHECKING:
    import pyarrow as pa


def show_rows(table: pa.Table, output: str) -> None:
    """Print the rows of an Arrow table."""
    import pyarrow.types as types

    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]

    def column(name: str, kind: Any) -> Column:
        is_number = types.is_integer(kind) or types.is_floating(kind)
        return Column(name, lambda row: "null" if row[name] is None else row[name], is_number=is_number)

    show(rows, [column(field.name, field.type) for field in table.schema], output, nothing="no rows")


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value != value:
        return "NaN"
    return value
