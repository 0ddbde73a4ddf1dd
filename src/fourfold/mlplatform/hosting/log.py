"""The log of an endpoint: predictions as served, and what was learned about them, written to tables.

Requests only put a record on a bounded list. Records become table rows in batches: when enough have come,
when the oldest has waited long enough, and at the end. What finds no room is dropped and counted. A
gateway that is killed loses what it has not written yet: at most `FLUSH_S` of it.

The columns of `predictions.<endpoint>` are the log's own (all named `prediction_...`), then each column of
the request and each feature under its own name, then each output as `predicted_<name>`. New columns widen
the table. A column that the model does not take has the type of its first value; a later value of another
type is kept as null, with a warning, because one such row must not hold up the rows of others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fourfold.core.errors import Conflict, FourfoldError, NotFound, Refused
from fourfold.core.hosting import Scalar, feedback_table, predictions_table
from fourfold.core.services.storage import Storage
from fourfold.core.times import Instant
from fourfold.mlplatform.hosting.columns import array, reader

logger = logging.getLogger("fourfold.hosting")

FLUSH_S = 5.0
FLUSH_ROWS = 5000
ROWS_MAX = 100_000
"""Rows that wait to be written at most, for one endpoint."""

TIME = pa.timestamp("us", "UTC")
OWN = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("prediction_model", pa.string()),
        ("prediction_is_shadow", pa.bool_()),
        ("prediction_at", TIME),
        ("prediction_watermark", pa.int64()),
        ("prediction_served_at", TIME),
        ("prediction_latency_ms", pa.float64()),
    ]
)
FEEDBACK = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("name", pa.string()),
        ("number", pa.float64()),
        ("text", pa.string()),
        ("at", TIME),
        ("received_at", TIME),
    ]
)


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request, as the log keeps it."""

    ids: Sequence[str]
    model: str
    is_shadow: bool
    t: Instant
    watermark: int | None
    served_at: Instant
    latency_ms: float
    given: Sequence[Mapping[str, Scalar]]
    """Keys, request columns and features of each row, as they went to the model."""
    outputs: Sequence[Mapping[str, Scalar]]


@dataclass(slots=True)
class EndpointLog:
    """What an endpoint has said and heard and not yet written. Safe to use from several threads."""

    endpoint: str
    storage: Storage
    schema: pa.Schema = field(default_factory=lambda: OWN)
    """Types of the columns known so far; others are taken from the values."""
    dropped_count: int = 0
    error: str = ""
    """Why the last write failed; empty when it did not."""
    _served: list[Served] = field(default_factory=list)
    _feedback: list[dict[str, Any]] = field(default_factory=list)
    _rows: int = 0
    _present: pa.Schema | None = None
    """The schema of the table as it is."""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def row_count(self) -> int:
        """Rows that wait to be written."""
        return self._rows + len(self._feedback)

    def know(self, kinds: Mapping[str, pa.DataType], outputs: pa.Schema) -> None:
        """Learn the types of columns before the first row; a clash with the table is `Refused`."""
        schema = self.schema
        named = {
            **kinds,
            **{f"predicted_{name}": kind for name, kind in zip(outputs.names, outputs.types, strict=True)},
        }
        try:
            known = {c.name: c.type for c in self.storage.describe(predictions_table(self.endpoint)).columns}
        except NotFound:
            known = {}
        for name, kind in named.items():
            if name in OWN.names:
                raise Refused(
                    f"column '{name}' has a name that the prediction log uses itself",
                    ways_on=["rename the column, or deploy with log=False"],
                )
            if known.get(name, str(_kept(kind))) != str(_kept(kind)):
                raise Refused(
                    f"column '{name}' is {_kept(kind)} now, and {known[name]} in the log of "
                    f"endpoint '{self.endpoint}'",
                    ways_on=["deploy under another name, or with log=False"],
                )
            if schema.get_field_index(name) < 0:
                schema = schema.append(pa.field(name, _kept(kind)))
        self.schema = schema

    def predicted(self, served: Served) -> None:
        """Keep a served request, or count it as dropped."""
        if self._rows + len(served.ids) > ROWS_MAX:
            self.dropped_count += len(served.ids)
            return
        with self._guard:
            self._served.append(served)
            self._rows += len(served.ids)

    def learned(
        self, prediction: str, values: Mapping[str, Scalar], *, at: Instant, received_at: Instant
    ) -> None:
        """Keep feedback; it is never dropped silently: a full log refuses it."""
        rows = [
            {
                "prediction_id": prediction,
                "name": name,
                "number": _number(name, value),
                "text": value if isinstance(value, str) else None,
                "at": at,
                "received_at": received_at,
            }
            for name, value in values.items()
        ]
        with self._guard:
            if len(self._feedback) + len(rows) > ROWS_MAX:
                raise Conflict("too much feedback waits to be written", ways_on=["try again in a moment"])
            self._feedback += rows

    def write(self) -> int:
        """Write what waits; the rows written. What could not be written is kept and raises."""
        with self._writing:
            with self._guard:
                served, self._served, self._rows = self._served, [], 0
                feedback, self._feedback = self._feedback, []
            written = 0
            try:
                if served:
                    written += self._write_served(served)
                    served = []
                if feedback:
                    columns = [array([row[f.name] for row in feedback], f.type) for f in FEEDBACK]
                    self.storage.append(feedback_table(self.endpoint), pa.table(columns, schema=FEEDBACK))
                    written += len(feedback)
                    feedback = []
                self.error = ""
            except FourfoldError as error:
                self.error = str(error)
                raise
            finally:
                with self._guard:
                    self._served = served + self._served
                    self._rows = sum(len(each.ids) for each in self._served)
                    self._feedback = feedback + self._feedback
            return written

    def _write_served(self, served: Sequence[Served]) -> int:
        name = predictions_table(self.endpoint)
        if self._present is None:
            self._present = self._read_schema()
        rows = self._table(served)
        if self._present is None:
            self.storage.append(name, rows)
            self._present = rows.schema
            return len(rows)
        fresh = [field for field in rows.schema if field.name not in self._present.names]
        if fresh:  # rare: a deployment with other columns; the table's older versions stay as they were
            self._present = None
            old = self.storage.read(name)
            self.storage.overwrite(name, pa.concat_tables([old, rows], promote_options="default"))
        else:
            like = self._present.empty_table()
            self.storage.append(name, pa.concat_tables([like, rows], promote_options="default"))
        return len(rows)

    def _table(self, served: Sequence[Served]) -> pa.Table:
        known = {field.name: field.type for field in (*(self._present or ()), *self.schema)}
        rows, lost = _table(served, known)
        for column, count in lost.items():
            logger.warning(
                "the log of endpoint '%s' keeps %d values of '%s' as null: they are not %s",
                self.endpoint,
                count,
                column,
                rows.schema.field(column).type,
            )
        return rows

    def _read_schema(self) -> pa.Schema | None:
        """The table's schema; this gateway is its only writer, so it is asked for once."""
        try:
            nothing = (("prediction_id", "==", ""),)
            return self.storage.read(predictions_table(self.endpoint), where=nothing).schema
        except NotFound:
            return None


def _number(name: str, value: Scalar) -> float | None:
    try:
        return float(value) if isinstance(value, bool | int | float) else None
    except OverflowError:
        raise Refused(f"feedback '{name}' is {str(value)[:40]}..., more than any number is") from None


def _table(served: Sequence[Served], known: Mapping[str, pa.DataType]) -> tuple[pa.Table, dict[str, int]]:
    """Served requests as rows, and how many values of which columns did not fit."""
    flat = [
        (each, id_, given, outputs)
        for each in served
        for id_, given, outputs in zip(each.ids, each.given, each.outputs, strict=True)
    ]
    columns: dict[str, pa.Array] = {
        "prediction_id": pa.array([id_ for _, id_, _, _ in flat]),
        "prediction_model": pa.array([each.model for each, _, _, _ in flat]),
        "prediction_is_shadow": pa.array([each.is_shadow for each, _, _, _ in flat]),
        "prediction_at": array([each.t for each, _, _, _ in flat], TIME),
        "prediction_watermark": pa.array([each.watermark for each, _, _, _ in flat], pa.int64()),
        "prediction_served_at": array([each.served_at for each, _, _, _ in flat], TIME),
        "prediction_latency_ms": pa.array([each.latency_ms for each, _, _, _ in flat], pa.float64()),
    }
    given_names = dict.fromkeys(name for each in served for row in each.given for name in row)
    output_names = dict.fromkeys(name for each in served for row in each.outputs for name in row)
    cells: dict[str, list[Scalar]] = {
        **{name: [given.get(name) for _, _, given, _ in flat] for name in given_names},
        **{f"predicted_{name}": [out.get(name) for _, _, _, out in flat] for name in output_names},
    }
    lost: dict[str, int] = {}
    for name, values in cells.items():
        kind = known[name] if name in known else _kind_of(values)
        if kind is None:
            continue  # nothing but nulls says no type; the next rows will
        columns[name] = _column(values, kind, name)
        gone = columns[name].null_count - values.count(None)
        if gone:
            lost[name] = gone
    return pa.table(columns), lost


_PLAIN = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_UNFIT = (Refused, OverflowError, pa.ArrowException)


def _kind_of(values: list[Scalar]) -> pa.DataType | None:
    """The type of the first value; of a float, where numbers are of both kinds."""
    types = list(dict.fromkeys(type(value) for value in values if value is not None))
    if not types:
        return None
    return pa.float64() if types[0] is int and float in types else _PLAIN[types[0]]


def _column(values: list[Scalar], kind: pa.DataType, name: str) -> pa.Array:
    """The values as an array; null where one does not fit."""
    read = reader(kind, name)
    try:
        return array([read(value) for value in values], kind)
    except _UNFIT:
        return array([_fitting(value, kind, read) for value in values], kind)


def _fitting(value: Scalar, kind: pa.DataType, read: Callable[[Scalar], Any]) -> Any:
    try:
        made = read(value)
        array([made], kind)
    except _UNFIT:
        return None
    return made


def _kept(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is logged: what every table format keeps without change."""
    if pa.types.is_dictionary(kind):
        return _kept(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_unsigned_integer(kind):
        return pa.int64()
    return kind
