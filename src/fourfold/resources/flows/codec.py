"""Values as bytes and back: what steps are given and what they return.

A value is a tree in JSON whose leaves may be binary parts: Arrow IPC for tables, `.npy` for arrays, and
pickle as the last resort for what is none of these. Tuples, dates, paths, enums and dataclasses come
back as what they were. Only processes that run the project's code decode; the loop moves bytes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import hashlib
import importlib
import io
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from fourfold.core import frames
from fourfold.core.errors import Corrupted, Refused
from fourfold.core.flows import Unstorable

FORMAT = 1
_PLAIN = frozenset({str, int, bool, type(None)})

FutureHook = Callable[[Any], int | None]
"""Tells whether an object is a future, and which number it has among the inputs."""

main_alias = ""
"""Name under which the module that the user calls `__main__` is imported here, if it is."""


def encode(value: object, *, future: FutureHook | None = None, what: str = "the value") -> bytes:
    """The bytes of a value. Equal plain values give equal bytes.

    >>> decode(encode({"day": dt.date(2013, 1, 1), "depths": (3, 5)}))
    {'day': datetime.date(2013, 1, 1), 'depths': (3, 5)}
    """
    writer = _Writer(future, what)
    tree = writer.tree(value)
    return frames.encode({"v": FORMAT, "tree": tree}, writer.parts)


def decode(data: bytes, *, inputs: Sequence[object] = ()) -> Any:
    """The value of these bytes; `inputs` are the values of the futures that it held."""
    try:
        cut = frames.Frames().feed(data)
    except Refused:
        cut = []
    if len(cut) != 1 or cut[0][0].get("v") != FORMAT:
        raise Corrupted("these bytes are not a stored value of ours, or of a later version")
    header, parts = cut[0]
    return _Reader(parts, inputs).value(header["tree"])


def digest(data: bytes) -> str:
    """The name of an inline value's content."""
    return "blake2b:" + hashlib.blake2b(data, digest_size=32).hexdigest()


def encode_error(error: BaseException) -> bytes | None:
    """An exception as bytes, or `None` where it cannot travel (its text does)."""
    with contextlib.suppress(Exception):
        data = pickle.dumps(error, protocol=5)
        pickle.loads(data)  # noqa: S301 - our own bytes: some exceptions pickle but do not come back
        return encode_pickled(data)
    return None


def encode_pickled(data: bytes) -> bytes:
    return frames.encode({"v": FORMAT, "tree": {"!p": ["pickle", 0]}}, [data])


class _Writer:
    def __init__(self, future: FutureHook | None, what: str) -> None:
        self._future = future
        self._what = what
        self.parts: list[bytes] = []

    def tree(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is float:
            return value if math.isfinite(value) else {"!x": repr(value)}
        if kind is list:
            return [self.tree(item) for item in value]
        if kind is tuple:
            return {"!t": [self.tree(item) for item in value]}
        if kind is dict:
            if all(type(key) is str and not key.startswith("!") for key in value):
                return {key: self.tree(item) for key, item in value.items()}
            return {"!m": [[self.tree(key), self.tree(item)] for key, item in value.items()]}
        if self._future is not None and (index := self._future(value)) is not None:
            return {"!f": index}
        return self._other(value, kind)

    def _other(self, value: Any, kind: type) -> Any:
        if kind is dt.date:
            return {"!d": value.isoformat()}
        if kind is dt.datetime and (value.tzinfo is None or value.tzinfo is dt.UTC):
            return {"!dt": value.isoformat()}
        if kind is dt.timedelta:
            return {"!td": [value.days, value.seconds, value.microseconds]}
        if kind is bytes:
            return {"!b": self._part(value)}
        if kind in (set, frozenset) and all(type(item) in _PLAIN for item in value):
            return {"!s": [kind.__name__, sorted(value, key=lambda item: (str(type(item)), repr(item)))]}
        if isinstance(value, enum.Enum) and (name := _importable(kind)):
            return {"!e": [name, value.name]}
        if isinstance(value, PurePath):
            return {"!path": str(value)}
        if is_dataclass(kind) and _is_plain_dataclass(kind) and (name := _importable(kind)):
            return {"!c": [name, {f.name: self.tree(getattr(value, f.name)) for f in fields(value)}]}
        pyarrow, pandas = sys.modules.get("pyarrow"), sys.modules.get("pandas")
        if pyarrow is not None and isinstance(value, pyarrow.Table):
            return {"!p": ["arrow", self._arrow(value)]}
        if pandas is not None and isinstance(value, pandas.DataFrame):
            table = _frame_as_table(value)
            if table is not None:
                return {"!p": ["pandas", self._arrow(table)]}
        if (numpy := sys.modules.get("numpy")) is not None:
            if isinstance(value, numpy.generic) and not value.dtype.hasobject:
                return {"!p": ["npy0", self._npy(numpy, numpy.asarray(value))]}
            if type(value) is numpy.ndarray and not value.dtype.hasobject:
                return {"!p": ["npy", self._npy(numpy, value)]}
        return {"!p": ["pickle", self._part(self._pickled(value))]}

    def _arrow(self, table: Any) -> int:
        import pyarrow

        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return self._part(sink.getvalue().to_pybytes())

    def _npy(self, numpy: Any, array: Any) -> int:
        buffer = io.BytesIO()
        numpy.lib.format.write_array(buffer, array, allow_pickle=False)
        return self._part(buffer.getvalue())

    def _pickled(self, value: object) -> bytes:
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, self._future).dump(value)
        except Exception as error:
            raise Unstorable(
                f"{self._what} holds a '{type(value).__name__}', which cannot be stored: {error}",
                ways_on=[
                    "return plain values, dataclasses, pyarrow tables or numpy arrays",
                    "or keep it in a file, a table or a model, and return its name",
                ],
                type=type(value).__name__,
            ) from error
        return buffer.getvalue()

    def _part(self, data: bytes) -> int:
        self.parts.append(data)
        return len(self.parts) - 1


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, future: FutureHook | None) -> None:
        super().__init__(buffer, protocol=5)
        self._future = future

    def persistent_id(self, obj: Any) -> int | None:
        return self._future(obj) if self._future is not None else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, inputs: Sequence[object]) -> None:
        super().__init__(io.BytesIO(data))
        self._inputs = inputs

    def persistent_load(self, pid: Any) -> Any:
        return self._inputs[pid]

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(main_alias or module if module == "__main__" else module, name)


class _Reader:
    def __init__(self, parts: list[bytes], inputs: Sequence[object]) -> None:
        self._parts = parts
        self._inputs = inputs

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.value(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if len(tree) == 1:
            ((tag, held),) = tree.items()
            if tag.startswith("!"):
                return self._tagged(tag, held)
        return {key: self.value(item) for key, item in tree.items()}

    def _tagged(self, tag: str, held: Any) -> Any:
        match tag:
            case "!t":
                return tuple(self.value(item) for item in held)
            case "!m":
                return {self.value(key): self.value(item) for key, item in held}
            case "!f":
                return self._inputs[held]
            case "!x":
                return float(held)
            case "!d":
                return dt.date.fromisoformat(held)
            case "!dt":
                return dt.datetime.fromisoformat(held)
            case "!td":
                return dt.timedelta(held[0], held[1], held[2])
            case "!b":
                return self._parts[held]
            case "!s":
                return set(held[1]) if held[0] == "set" else frozenset(held[1])
            case "!e":
                return _imported(held[0])[held[1]]
            case "!path":
                from pathlib import Path

                return Path(held)
            case "!c":
                made = object.__new__(_imported(held[0]))
                for name, item in held[1].items():
                    object.__setattr__(made, name, self.value(item))
                return made
            case "!p":
                return self._part(held[0], self._parts[held[1]])
            case _:
                raise Corrupted(
                    f"a stored value has a part of kind {tag!r}, which this version does not know"
                )

    def _part(self, codec: str, data: bytes) -> Any:
        match codec:
            case "arrow":
                import pyarrow as pa

                return pa.ipc.open_stream(data).read_all()
            case "pandas":
                import pyarrow as pa

                return pa.ipc.open_stream(data).read_all().to_pandas()
            case "npy" | "npy0":
                import numpy as np

                array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
                return array[()] if codec == "npy0" else array
            case "pickle":
                return _Unpickler(data, self._inputs).load()
            case _:
                raise Corrupted(f"a stored value is in {codec!r}, which this version does not know")


_SAME_IN_ARROW = frozenset("biufMm")
"""Kinds of NumPy columns that come back from Arrow as they were: numbers, truth values, times."""


def _frame_as_table(frame: Any) -> Any:
    """A pandas frame as an Arrow table, where it comes back as the same frame; else `None`: it is pickled."""
    import pyarrow

    columns, index = frame.columns, frame.index
    if type(frame).__name__ != "DataFrame" or frame.attrs or getattr(index, "freq", None) is not None:
        return None
    if not columns.is_unique or columns.name is not None or not all(type(name) is str for name in columns):
        return None
    for dtype in frame.dtypes:
        is_plain = getattr(dtype, "kind", "O") in _SAME_IN_ARROW
        if not is_plain and type(dtype).__name__ not in (
            "StringDtype",
            "DatetimeTZDtype",
            "CategoricalDtype",
        ):
            return None
    try:
        return pyarrow.Table.from_pandas(frame)
    except (pyarrow.ArrowException, TypeError, ValueError):
        return None


def _importable(kind: type) -> str:
    """`module:qualname` where that leads back to `kind`, else nothing."""
    module, name = kind.__module__, kind.__qualname__
    if "<locals>" in name:
        return ""
    return f"{module}:{name}"


def _is_plain_dataclass(kind: type) -> bool:
    """Whether its fields are all there is to it: nothing of its own about being copied."""
    return (
        "__reduce__" not in vars(kind)
        and "__reduce_ex__" not in vars(kind)
        and not issubclass(kind, dict | list)
    )


def _imported(name: str) -> Any:
    module, _, qualname = name.partition(":")
    if module == "__main__" and main_alias:
        module = main_alias
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for piece in qualname.split("."):
        found = getattr(found, piece)
    return found
