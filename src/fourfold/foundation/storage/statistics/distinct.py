"""How many different values a column holds: the library's sketch, fed only with what changes it.

A CPC sketch takes one value at a call, which is too slow for whole columns. But a value changes it only if
its coupon (a row of the sketch and a count of leading zeros, both from MurmurHash3 of the value) was never
seen. So we compute the coupons of a batch with numpy, and hand over the few values whose coupon is new: of
a million values some twenty thousand. The sketch comes out equal to the last byte; a test says so.
"""

from __future__ import annotations

import hashlib
from typing import Any

import datasketches
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.uint64]

LG_K = 11
"""2048 rows: the estimate is within 3 % of the truth in 19 cases of 20, in about 1.3 kB."""

_SEED = 9001
_LONGEST_HASHED_HERE = 128
_FEW = 1024
_U = np.uint64
_C1, _C2 = _U(0x87C37B91114253D5), _U(0x4CF5AD432745937F)


class Distinct:
    """Counts different 64-bit keys, approximately once there are many."""

    def __init__(self, stored: bytes | None = None) -> None:
        self._sketch: Any = datasketches.cpc_sketch(LG_K)
        self._before: Any = None if stored is None else datasketches.cpc_sketch.deserialize(stored)
        self._seen: Keys | None = None

    def update(self, keys: Keys) -> None:
        """Count these keys too."""
        if self._seen is None:
            self._seen = np.zeros(1 << LG_K, np.uint64)
        rows, zeros = _coupons(keys)
        bits = _U(1) << zeros
        fresh = np.flatnonzero(self._seen[rows] & bits == 0)
        if not len(fresh):
            return
        # Of those with the same coupon the first, in the order of the data: the sketch's estimate leans on
        # values that come in no order of their hashes.
        coupons = (rows[fresh] << 6) | zeros[fresh].astype(np.intp)
        if len(fresh) < _FEW:  # a table of all coupons costs more than to sort these
            fresh = fresh[np.sort(np.unique(coupons, return_index=True)[1])]
        else:
            first = np.empty(64 << LG_K, np.intp)
            first[coupons[::-1]] = fresh[::-1]
            fresh = fresh[first[coupons] == fresh]
        np.bitwise_or.at(self._seen, rows[fresh], bits[fresh])
        update = self._sketch.update
        for key in keys[fresh].tolist():
            update(key)

    def merge(self, other: Distinct) -> None:
        """Count what the other counted too."""
        self._before = _union(self._whole(), other._whole())
        self._sketch, self._seen = datasketches.cpc_sketch(LG_K), None

    def dump(self) -> bytes:
        return bytes(self._whole().serialize())

    def estimate(self) -> tuple[float, float, float]:
        """The likely number, and the range in which it is in 19 cases of 20."""
        sketch = self._whole()
        return sketch.get_estimate(), sketch.get_lower_bound(2), sketch.get_upper_bound(2)

    def _whole(self) -> Any:
        return self._sketch if self._before is None else _union(self._before, self._sketch)


def number_keys(values: npt.NDArray[Any]) -> Keys:
    """Numbers as keys: equal numbers have equal keys, also where one column is narrower."""
    if values.dtype.kind == "f":
        return (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    return values.astype(np.int64).view(np.uint64)


def text_keys(array: pa.Array) -> Keys:
    """Texts or bytes (without nulls) as keys, eight bytes at a step for all of them at once."""
    count = len(array)
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offsets_at, data_at = array.buffers()
    offsets = np.frombuffer(offsets_at, np.int64 if wide else np.int32)[array.offset :][: count + 1]
    starts = offsets[:-1].astype(np.intp) - int(offsets[0])
    lengths = np.diff(offsets).astype(np.intp)
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, np.uint8)  # a word may be read past the end
    if data_at is not None:
        data[:-8] = np.frombuffer(data_at, np.uint8)[int(offsets[0]) : int(offsets[-1])]
    words = np.ndarray((len(data) - 7,), "<u8", buffer=data, strides=(1,))
    keys = lengths.astype(np.uint64) * _C1
    longest = min(int(lengths.max(initial=0)), _LONGEST_HASHED_HERE)
    for step in range(0, longest, 8):
        alive = np.flatnonzero(lengths > step)
        word = words[starts[alive] + step].astype(np.uint64)
        missing = np.clip(8 - (lengths[alive] - step), 0, 7).astype(np.uint64) * _U(8)
        word = (word << missing) >> missing  # without what follows the text
        keys[alive] = (_rotated(keys[alive] ^ _spread(word), 27) * _U(5)) + _U(0x52DCE729)
    for index in np.flatnonzero(lengths > _LONGEST_HASHED_HERE).tolist():
        piece = data[starts[index] : starts[index] + lengths[index]]
        keys[index] = int.from_bytes(hashlib.blake2b(piece.tobytes(), digest_size=8).digest(), "little")
    return _mixed(keys)


def _coupons(keys: Keys) -> tuple[npt.NDArray[np.intp], Keys]:
    """MurmurHash3 (x64, 128 bits) of eight bytes, as the library does it: the row, the leading zeros."""
    first = _spread(keys) ^ _U(_SEED ^ 8)
    second = _U(_SEED ^ 8)
    first = first + second
    second_half = _mixed(first + second)
    first_half = _mixed(first) + second_half
    second_half = second_half + first_half
    top = second_half >> _U(11)  # 53 bits, which a float holds exactly
    zeros = np.where(top == 0, 63, 53 - np.frexp(top.astype(np.float64))[1])
    return (first_half & _U((1 << LG_K) - 1)).astype(np.intp), zeros.astype(np.uint64)


def _spread(word: Keys) -> Keys:
    return _rotated(word * _C1, 31) * _C2


def _rotated(word: Keys, by: int) -> Keys:
    return (word << _U(by)) | (word >> _U(64 - by))


def _mixed(word: Keys) -> Keys:
    word = (word ^ (word >> _U(33))) * _U(0xFF51AFD7ED558CCD)
    word = (word ^ (word >> _U(33))) * _U(0xC4CEB9FE1A85EC53)
    return word ^ (word >> _U(33))


def _union(one: Any, other: Any) -> Any:
    both = datasketches.cpc_union(LG_K)
    both.update(one)
    both.update(other)
    return both.get_result()
