"""Tables in and out of a model: what a signature says, what fits it, whether two answers are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.models import Column, Signature

RELATIVE_TOLERANCE = 1e-6
"""How far a replayed number may be from the stored one: other processors add up in another order."""
ABSOLUTE_TOLERANCE = 1e-9


def signature(example: pa.Table, features: Any, answers: pa.Table) -> Signature:
    """What a model takes and gives, read off one example."""
    return Signature(
        _columns(example), _columns(answers), _columns(features) if isinstance(features, pa.Table) else ()
    )


def conform(table: pa.Table, schema: pa.Schema, *, of: str) -> pa.Table:
    """The columns of `schema` from a table, cast where nothing is lost; others are left out."""
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise Refused(
            f"model {of} needs column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            ways_on=[way for name in missing[:3] for way in did_you_mean(name, table.column_names)]
            if len(table.column_names) < 100
            else [],
            missing=missing,
        )
    columns = []
    for field in schema:
        column = table[field.name]
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise Refused(
                    f"column '{field.name}' is {column.type}, and model {of} takes {field.type}",
                    ways_on=[str(error).splitlines()[0][:200]],
                    column=field.name,
                ) from error
        columns.append(column)
    return pa.table(columns, schema=pa.schema([field.remove_metadata() for field in schema]))


def as_table(answers: Any, *, rows: int, of: str) -> pa.Table:
    """What `predict` returned, as a table of as many rows as went in."""
    if isinstance(answers, pa.RecordBatch):
        answers = pa.Table.from_batches([answers])
    elif hasattr(answers, "__dataframe__") and hasattr(answers, "to_dict"):  # a pandas DataFrame
        answers = pa.Table.from_pandas(answers, preserve_index=False)
    elif isinstance(answers, dict):
        answers = pa.table({str(name): _array(value) for name, value in answers.items()})
    elif isinstance(answers, np.ndarray) and answers.ndim == 2:
        answers = pa.table({f"prediction_{i}": pa.array(answers[:, i]) for i in range(answers.shape[1])})
    elif not isinstance(answers, pa.Table):
        answers = pa.table({"prediction": _array(answers)})
    if answers.num_rows != rows:
        raise Refused(
            f"model {of} gave {answers.num_rows} answers to {rows} rows",
            ways_on=["featurize and predict must keep every row, in order"],
        )
    return answers.replace_schema_metadata(None)


def difference(expected: pa.Table, found: pa.Table) -> str:
    """Where two tables of answers differ, in words; empty if they do not (numbers within tolerance)."""
    if expected.schema.names != found.schema.names:
        return f"columns {', '.join(found.schema.names)} in place of {', '.join(expected.schema.names)}"
    if expected.num_rows != found.num_rows:
        return f"{found.num_rows} rows in place of {expected.num_rows}"
    for name in expected.column_names:
        ours, theirs = expected[name], found[name]
        if pa.types.is_floating(ours.type) and pa.types.is_floating(theirs.type):
            a, b = (each.to_numpy(zero_copy_only=False) for each in (ours, theirs))
            same = np.isclose(b, a, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True)
            wrong = np.flatnonzero(~same)
        else:
            pairs = zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
            wrong = np.array([row for row, (a, b) in enumerate(pairs) if a != b], dtype=np.int64)
        if wrong.size:
            row = int(wrong[0])
            return f"{name}[{row}] is {theirs[row].as_py()!r} in place of {ours[row].as_py()!r}"
    return ""


def _array(value: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value
    return pa.array(np.asarray(value) if hasattr(value, "__array__") else list(value))


def _columns(table: pa.Table) -> tuple[Column, ...]:
    return tuple(Column(field.name, str(field.type)) for field in table.schema)
