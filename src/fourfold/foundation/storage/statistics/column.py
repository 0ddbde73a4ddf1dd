"""One column's figures as its batches come by: exact counts, and sketches that merge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import datasketches
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core import statistics as told
from fourfold.core.decide.schemas import stored_type
from fourfold.core.rows import value_of, values_of
from fourfold.core.storage import Scalar
from fourfold.core.wire import number_out
from fourfold.foundation.storage.statistics.distinct import Distinct, number_keys, text_keys

KLL_K = 200
LG_FREQUENT = 9
"""At most 384 values are counted at once; with no more different ones, each is counted exactly."""
SHOWN_FREQUENT = 10
BUCKETS = 20
MOST_TEXT = 256
"""Characters kept of the smallest and greatest text."""
_SAMPLE = 2048
_LONGEST_FREQUENT = 100


class Kind(StrEnum):
    """What can be said of a column."""

    integer = "integer"
    float = "float"
    decimal = "decimal"
    temporal = "temporal"
    text = "text"
    binary = "binary"
    boolean = "boolean"
    nested = "nested"


def kind_of(type_: pa.DataType) -> Kind:
    """The kind of a stored type."""
    of = pa.types
    if of.is_boolean(type_):
        return Kind.boolean
    if of.is_integer(type_):
        return Kind.integer
    if of.is_floating(type_):
        return Kind.float
    if of.is_decimal(type_):
        return Kind.decimal
    if of.is_temporal(type_):
        return Kind.temporal
    if of.is_string(type_) or of.is_large_string(type_):
        return Kind.text
    return Kind.binary if of.is_binary(type_) or of.is_large_binary(type_) else Kind.nested


_COUNTED = {Kind.integer, Kind.float, Kind.decimal, Kind.temporal}
_WITH_FREQUENT = {Kind.integer, Kind.float, Kind.decimal, Kind.temporal, Kind.text}


@dataclass(slots=True)
class Stored:
    """A column's sketch as it is kept; every field plain."""

    name: str
    type: str
    kind: Kind
    rows: int = 0
    nulls: int = 0
    nans: int = 0
    infinities: int = 0
    trues: int = 0
    least: int | float | str | None = None
    greatest: int | float | str | None = None
    finite: int = 0
    mean: float = 0.0
    spread: float = 0.0
    """The sum of squared distances from the mean."""
    shortest: int | None = None
    longest: int | None = None
    length_sum: int = 0
    uncounted: int = 0
    """Rows that the search for frequent values passed over."""
    distinct: bytes = b""
    ranks: bytes = b""
    frequent: bytes = b""


class ColumnSketch:
    """A column's figures so far. `update` takes arrays of its type, `merge` another part's figures."""

    def __init__(self, name: str, type_: pa.DataType, stored: Stored | None = None) -> None:
        self.type = type_
        self.facts = stored or Stored(name, str(type_), kind_of(type_))
        kept = stored is not None
        self._distinct = Distinct(self.facts.distinct if kept and self.facts.distinct else None)
        self._ranks: Any = (
            datasketches.kll_doubles_sketch.deserialize(self.facts.ranks)
            if kept and self.facts.ranks
            else datasketches.kll_doubles_sketch(KLL_K)
        )
        self._frequent: Any = (
            datasketches.frequent_strings_sketch.deserialize(self.facts.frequent)
            if kept and self.facts.frequent
            else datasketches.frequent_strings_sketch(LG_FREQUENT)
        )

    def update(self, array: pa.Array) -> None:
        """Count the values of an array."""
        facts = self.facts
        kept = stored_type(array.type) or array.type
        if kept != array.type:
            array = array.cast(kept)
        facts.rows += len(array)
        facts.nulls += array.null_count
        values = array.drop_null() if array.null_count else array
        if not len(values):
            return
        match facts.kind:
            case Kind.integer | Kind.temporal | Kind.float | Kind.decimal:
                self._count_numbers(values)
                self._count_frequent(values, None if _hardly_repeats(values) else values.value_counts())
            case Kind.text | Kind.binary:
                self._count_texts(values)
            case Kind.boolean:
                facts.trues += int(pc.sum(values).as_py())
            case Kind.nested if pa.types.is_list(values.type) or pa.types.is_map(values.type):
                self._count_lengths(pc.list_value_length(values.cast(_listed(values.type))))
            case Kind.nested:
                pass

    def merge(self, other: ColumnSketch) -> None:
        """Count what the other counted too; it must be of the same kind."""
        mine, its = self.facts, other.facts
        for name in ("rows", "nulls", "nans", "infinities", "trues", "length_sum", "uncounted"):
            setattr(mine, name, getattr(mine, name) + getattr(its, name))
        self._stretch(its.least, its.greatest)
        mine.shortest = _outer(min, mine.shortest, its.shortest)
        mine.longest = _outer(max, mine.longest, its.longest)
        self._add_moments(its.finite, its.mean, its.spread)
        self._distinct.merge(other._distinct)
        self._ranks.merge(other._ranks)
        self._frequent.merge(other._frequent)

    def become(self, type_: pa.DataType) -> None:
        """Be of a wider type from here on."""
        self.type, self.facts.type = type_, str(type_)

    def add_nulls(self, count: int) -> None:
        """Count rows that have no value here: they are older than the column."""
        self.facts.rows += count
        self.facts.nulls += count

    def dump(self) -> Stored:
        facts = self.facts
        if facts.kind not in {Kind.boolean, Kind.nested}:
            facts.distinct = self._distinct.dump()
        if facts.kind in _COUNTED:
            facts.ranks = bytes(self._ranks.serialize())
        if facts.kind in _WITH_FREQUENT:
            facts.frequent = bytes(self._frequent.serialize())
        return facts

    def statistics(self) -> told.ColumnStatistics:
        """The figures for people and programs."""
        facts = self.facts
        has_values = facts.rows > facts.nulls
        has_lengths = facts.shortest is not None and facts.longest is not None
        counted = facts.rows - facts.nulls
        return told.ColumnStatistics(
            name=facts.name,
            type=facts.type,
            nulls=facts.nulls,
            nans=facts.nans,
            infinities=facts.infinities,
            trues=facts.trues if facts.kind is Kind.boolean else None,
            least=_plain(facts.least, self.type),
            greatest=_plain(facts.greatest, self.type),
            mean=number_out(facts.mean) if facts.finite else None,
            deviation=number_out((facts.spread / facts.finite) ** 0.5) if facts.finite else None,
            distinct=self._told_distinct(counted),
            quantiles=self._told_quantiles() if facts.finite else (),
            histogram=self._told_histogram() if facts.finite else None,
            frequent=self._told_frequent() if has_values else (),
            lengths=told.Lengths(facts.shortest or 0, facts.longest or 0, facts.length_sum / counted)
            if has_lengths
            else None,
        )

    # Counting

    def _count_numbers(self, values: pa.Array) -> None:
        facts = self.facts
        if facts.kind is Kind.decimal:
            ends = pc.min_max(values).as_py()
            self._stretch(str(ends["min"]), str(ends["max"]))
            numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        else:
            numbers = _numbers(values)
        self._distinct.update(number_keys(numbers))
        if facts.kind is Kind.float:
            numbers = numbers.astype(np.float64, copy=False)
            is_nan = np.isnan(numbers)
            if nans := int(np.count_nonzero(is_nan)):
                facts.nans += nans
                numbers = numbers[~is_nan]
            if len(numbers):
                self._stretch(float(numbers.min()) + 0.0, float(numbers.max()) + 0.0)  # 0.0 for -0.0
            is_finite = np.isfinite(numbers)
            if infinities := len(numbers) - int(np.count_nonzero(is_finite)):
                facts.infinities += infinities
                numbers = numbers[is_finite]
        elif facts.kind is not Kind.decimal:
            self._stretch(int(numbers.min()), int(numbers.max()))
        if not len(numbers):
            return
        finite = numbers.astype(np.float64, copy=False)
        with np.errstate(all="ignore"):  # a sum past the largest float is infinite, and said to be
            mean = float(finite.mean())
            self._add_moments(len(finite), mean, float(np.square(finite - mean).sum()))
        # The sketch takes only an array that may be written to, and Arrow's may not.
        self._ranks.update(finite if finite.flags.writeable else finite.copy())

    def _count_texts(self, values: pa.Array) -> None:
        """Where texts repeat, each different one is looked at once."""
        is_text = self.facts.kind is Kind.text
        counted = None if _hardly_repeats(values) else values.value_counts()
        texts = values if counted is None else counted.field("values")
        counts = None if counted is None else counted.field("counts")
        ends = pc.min_max(texts).as_py()
        least, greatest = ends["min"][:MOST_TEXT], ends["max"][:MOST_TEXT]
        # Bytes are kept as hexadecimal digits, which have the same order.
        self._stretch(*((least, greatest) if is_text else (least.hex(), greatest.hex())))
        self._count_lengths(pc.utf8_length(texts) if is_text else pc.binary_length(texts), counts)
        self._distinct.update(text_keys(texts))
        if is_text:
            self._count_frequent(values, counted)

    def _count_lengths(self, lengths: pa.Array, counts: pa.Array | None = None) -> None:
        facts = self.facts
        ends = pc.min_max(lengths).as_py()
        facts.shortest = _outer(min, facts.shortest, ends["min"])
        facts.longest = _outer(max, facts.longest, ends["max"])
        whole = lengths.cast(pa.int64())
        facts.length_sum += pc.sum(whole if counts is None else pc.multiply(whole, counts)).as_py()

    def _count_frequent(self, values: pa.Array, counted: pa.StructArray | None) -> None:
        """A batch whose values hardly repeat has no frequent ones: it is passed over, and that is said."""
        facts = self.facts
        if counted is None:
            facts.uncounted += len(values)
            return
        update = self._frequent.update
        for text, count in zip(
            _texts(counted.field("values")), counted.field("counts").to_pylist(), strict=True
        ):
            if len(text) > _LONGEST_FREQUENT:
                facts.uncounted += count
            else:
                update(text, count)

    def _stretch(self, least: Any, greatest: Any) -> None:
        facts = self.facts
        key = Decimal if facts.kind is Kind.decimal else None  # decimals are kept as text
        facts.least = _outer(min, facts.least, least, key)
        facts.greatest = _outer(max, facts.greatest, greatest, key)

    def _add_moments(self, count: int, mean: float, spread: float) -> None:
        """Mean and spread of both parts together (Chan, Golub, LeVeque)."""
        facts = self.facts
        if not count:
            return
        both = facts.finite + count
        apart = mean - facts.mean
        facts.spread += spread + apart * apart * facts.finite * count / both
        facts.mean += apart * count / both
        facts.finite = both

    # Telling

    def _told_distinct(self, counted: int) -> told.Distinct | None:
        facts = self.facts
        if facts.kind is Kind.nested:
            return None
        if facts.kind is Kind.boolean:
            exact = (facts.trues > 0) + (counted > facts.trues)
            return told.Distinct(exact, exact, exact)
        if self._knows_every_value():
            exact = self._frequent.num_active_items
            return told.Distinct(exact, exact, exact)
        likely, low, high = (round(value) for value in self._distinct.estimate())
        return told.Distinct(min(likely, counted), min(low, counted), min(high, counted))

    def _told_quantiles(self) -> tuple[float | str, ...]:
        return tuple(self._ranks.get_quantiles(list(told.QUANTILES), True))

    def _knows_every_value(self) -> bool:
        """Whether each different value is counted by itself, exactly: nothing was passed over or dropped."""
        is_counted = self.facts.kind in _WITH_FREQUENT and not self.facts.uncounted
        return is_counted and self._frequent.get_upper_bound("\0 a value that was never seen") == 0

    def _told_histogram(self) -> told.Histogram:
        edges = self._edges(self._ranks.get_min_value(), self._ranks.get_max_value())
        inner = edges[1:-1]
        shares = self._ranks.get_pmf(inner) if inner else [1.0]
        return told.Histogram(tuple(edges), tuple(round(share * self.facts.finite) for share in shares))

    def _edges(self, low: float, high: float) -> list[float]:
        """Equal steps from the smallest value to the greatest; of whole numbers, whole steps."""
        is_whole = self.facts.kind in {Kind.integer, Kind.temporal}
        if low == high or not np.isfinite(high - low):
            return [low, high]
        if is_whole and high - low < 2**53:
            step = -(-(high - low + 1) // BUCKETS)
            return [low + step * index for index in range(int((high - low) // step) + 1)] + [high + 1]
        return sorted({float(edge) for edge in np.linspace(low, high, BUCKETS + 1)})

    def _told_frequent(self) -> tuple[told.Frequent, ...]:
        kind = datasketches.frequent_items_error_type.NO_FALSE_POSITIVES
        repeated = [item for item in self._frequent.get_frequent_items(kind) if item[2] > 1]
        ranked = sorted(repeated, key=lambda item: (-item[2], item[0]))[:SHOWN_FREQUENT]
        passed_over = self.facts.uncounted
        return tuple(told.Frequent(value, low, high + passed_over) for value, _, low, high in ranked)


def _hardly_repeats(values: pa.Array) -> bool:
    sample = values.slice(0, _SAMPLE)
    return len(sample) == _SAMPLE and len(sample.unique()) > 0.75 * _SAMPLE


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    """Integers, floats and times (as integers) as numpy has them."""
    kind = values.type
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        values = values.view(width)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _listed(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([kind.key_field, kind.item_field])) if pa.types.is_map(kind) else kind


def _outer(of: Any, one: Any, other: Any, key: Any = None) -> Any:
    return other if one is None else one if other is None else of(one, other, key=key)


def _texts(values: pa.Array) -> list[str]:
    """Values as people are shown them."""
    of, kind = pa.types, values.type
    if of.is_string(kind) or of.is_large_string(kind):
        return list(values.to_pylist())
    if of.is_floating(kind):
        return [str(value + 0.0) for value in values.to_pylist()]  # 0.0 for -0.0
    if of.is_integer(kind):
        return list(map(str, values.to_pylist()))
    return [
        value.isoformat() if isinstance(value, date | datetime) else str(value) for value in values_of(values)
    ]


def _plain(value: int | float | str | None, kind: pa.DataType) -> Scalar:
    """A kept end as a plain value."""
    if isinstance(value, float):
        return number_out(value)
    if isinstance(value, int) and pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        moment = pa.array([value], width).view(kind)[0]
        told = value_of(moment)  # as text where Python has no word for it; there Arrow's own text is wrong
        text = told if isinstance(told, str) else str(moment.cast(pa.string()).as_py())
        return text.replace(" ", "T")
    return value
