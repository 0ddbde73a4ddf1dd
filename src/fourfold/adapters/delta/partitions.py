"""Partition values as the log spells them."""

from __future__ import annotations

import pyarrow as pa


def partition_text(value: object) -> str | None:
    """A value as the log has it.

    >>> partition_text(True), partition_text(7), partition_text(None)
    ('true', '7', None)
    """
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def partition_value(text: str | None, field: pa.Field) -> pa.Scalar:
    """The value that the log's text stands for; an empty one is null, as the protocol says."""
    if text is None or text == "":
        return pa.scalar(None, field.type)
    if pa.types.is_timestamp(field.type) and not field.type.tz:
        text = text.removesuffix("Z")
    if pa.types.is_timestamp(field.type) and field.type.tz and not text.endswith("Z"):
        text += "Z"
    return pa.scalar(text, pa.string()).cast(field.type)
