"""Models that are plain classes of a project: their state as JSON and numpy arrays, their code as source.

State is what an object's `__dict__` and slots hold: numbers, text, lists, tuples, mappings with text keys,
numpy arrays, and objects of the project's classes again. Nothing in the files is code; the classes come
from the version's stored source.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from fourfold.core.errors import Corrupted, Refused
from fourfold.core.ports.model_formats import SavedModel

STATE = "state.json"
DEPTH = 100
"""How deep state may nest; deeper is most likely an object that holds itself."""
_MARK = "$"
"""The key of what JSON has no word for; a mapping of the model with this key is marked itself."""


class PythonModels:
    """Fulfils `core.ports.model_formats.ModelFormat` for objects of plain classes."""

    name = "python"
    is_unsafe = False

    def accepts(self, model: object) -> bool:
        module = type(model).__module__
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is not None and "site-packages" not in file and "dist-packages" not in file

    def save(self, model: object, *, named: Callable[[type], str]) -> SavedModel:
        arrays: list[np.ndarray[Any, Any]] = []
        state = _out(model, named, arrays, "model", 0)
        files = {STATE: json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()}
        for index, array in enumerate(arrays):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            files[f"arrays/{index}.npy"] = buffer.getvalue()
        return SavedModel(
            kind=named(type(model)),
            files=files,
            hyper_parameters={
                name: value
                for name, value in sorted(_state(model).items())
                if isinstance(value, str | int | float | bool) and not name.startswith("_")
            },
            libraries=("numpy",) if arrays else (),
        )

    def load(
        self,
        files: Mapping[str, bytes],
        *,
        kind: str,
        trusted_types: Collection[str],  # noqa: ARG002  (only the stored source's own types can occur)
        imported: Callable[[str], Any],
    ) -> Any:
        try:
            state = json.loads(files[STATE])
        except (KeyError, ValueError) as error:
            raise Corrupted(f"'{STATE}' is not a model's state", path=STATE) from error
        model = _in(state, files, imported)
        if not isinstance(state, dict) or state.get("kind") != kind:
            raise Corrupted(f"'{STATE}' holds another kind of model than the definition says", path=STATE)
        return model


def _state(value: object) -> Mapping[str, Any]:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value) if hasattr(value, each.name)}
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                state[name] = getattr(value, name)
    return state


def _out(
    value: Any, named: Callable[[type], str], arrays: list[np.ndarray[Any, Any]], where: str, depth: int
) -> Any:
    if depth > DEPTH:
        raise Refused(f"{where[:120]} nests deeper than {DEPTH}", ways_on=["does the model hold itself?"])

    def inside(each: Any, step: str) -> Any:
        return _out(each, named, arrays, where + step, depth + 1)

    # Exact types: a subclass (an enum, a named tuple) would come back as its base.
    kind = type(value)
    if value is None or kind in {bool, int, str}:
        return value
    if kind is float:
        return value if math.isfinite(value) else {_MARK: "float", "value": repr(value)}
    if kind is list:
        return [inside(each, f"[{index}]") for index, each in enumerate(value)]
    if kind in {tuple, set, frozenset}:
        try:
            members = value if kind is tuple else sorted(value)
        except TypeError as error:
            raise Refused(f"{where} is a set that has no order", ways_on=["keep it as a list"]) from error
        return {_MARK: kind.__name__, "value": [inside(each, f"[{i}]") for i, each in enumerate(members)]}
    if kind is dict:
        if all(type(key) is str for key in value) and _MARK not in value:
            return {key: inside(each, f"[{key!r}]") for key, each in value.items()}
        pairs = [[inside(key, " key"), inside(each, f"[{key!r}]")] for key, each in value.items()]
        return {_MARK: "dict", "value": pairs}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise Refused(
                f"{where} is an array of objects", ways_on=["keep numbers in arrays, text in lists"]
            )
        arrays.append(array)
        mark = "array" if isinstance(value, np.ndarray) else "number"
        return {_MARK: mark, "value": f"arrays/{len(arrays) - 1}.npy"}
    if not PythonModels().accepts(value):
        raise Refused(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which the python format cannot keep",
            ways_on=["keep what it learned as numbers, text, lists, mappings and numpy arrays"],
            part=where,
        )
    state = {name: inside(each, f".{name}") for name, each in sorted(_state(value).items())}
    return {_MARK: "object", "kind": named(kind), "value": state}


def _in(value: Any, files: Mapping[str, bytes], imported: Callable[[str], Any]) -> Any:
    if isinstance(value, list):
        return [_in(each, files, imported) for each in value]
    if not isinstance(value, dict):
        return value
    inside = value.get("value")
    match value.get(_MARK):
        case None:
            return {key: _in(each, files, imported) for key, each in value.items()}
        case "float":
            return float(str(inside))
        case "tuple":
            return tuple(_in(inside, files, imported))
        case "set":
            return set(_in(inside, files, imported))
        case "frozenset":
            return frozenset(_in(inside, files, imported))
        case "dict":
            return {key: each for key, each in _in(inside, files, imported)}  # noqa: C416  (pairs are lists)
        case "array" | "number" as mark:
            try:
                array = np.load(io.BytesIO(files[str(inside)]), allow_pickle=False)
            except (KeyError, ValueError, EOFError) as error:
                raise Corrupted(f"'{inside}' is not an array", path=str(inside)) from error
            return array if mark == "array" else array[()]
        case "object":
            kind = imported(str(value["kind"]))
            made = kind.__new__(kind)
            for name, each in value["value"].items():
                # Past the class's own __setattr__: frozen dataclasses are models too.
                object.__setattr__(made, name, _in(each, files, imported))
            return made
        case other:
            raise Corrupted(f"'{STATE}' holds a part marked '{other}'", path=STATE)
