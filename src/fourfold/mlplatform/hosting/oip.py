"""The Open Inference Protocol v2 in JSON: requests into rows, answers into tensors.

A model's columns are one tensor each, of shape `[n]` or `[n, 1]`. Beyond the protocol, `null` in `data` is
a missing value, and the texts `"NaN"`, `"Infinity"` and `"-Infinity"` are these numbers (JSON has neither).
Tensors in binary are an extension of the protocol that this release refuses by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.hosting import Scalar
from fourfold.core.wire import UNREADABLE

INT_BOUNDS: Mapping[str, tuple[int, int]] = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
FLOATS = ("FP16", "FP32", "FP64")
DATATYPES = ("BOOL", *INT_BOUNDS, *FLOATS, "BYTES")
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
FLOAT_MAX: Mapping[str, float] = {"FP16": 65504.0, "FP32": 3.4028235677973366e38, "FP64": math.inf}


class Tensor(msgspec.Struct):
    """An input tensor as it is sent."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class Infer(msgspec.Struct):
    """An inference request as it is sent."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] = []


@dataclass(frozen=True, slots=True)
class Asked:
    """An inference request as rows."""

    id: str
    rows: list[dict[str, Scalar]]
    outputs: tuple[str, ...]
    """The outputs asked for; empty: all."""
    parameters: Mapping[str, Any]


def read(body: bytes, columns: Mapping[str, pa.DataType | None]) -> Asked:
    """A request's body as rows of these columns, or `Refused` naming the tensor."""
    try:
        request = msgspec.json.decode(body, type=Infer)
    except UNREADABLE as error:
        raise Refused(f"the body is not an inference request: {error}") from error
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if name not in columns:
            raise Refused(f"input '{name}' is not known", ways_on=did_you_mean(name, columns, what="inputs"))
        if names.count(name) > 1:
            raise Refused(f"input '{name}' is given twice")
    lacking = [name for name in columns if name not in names]
    if lacking:
        raise Refused(
            f"input '{lacking[0]}' is missing" + (f" (and {len(lacking) - 1} more)" if lacking[1:] else ""),
            ways_on=["inputs: " + ", ".join(columns)],
            lacking=lacking,
        )
    if _wants_binary(request):
        raise Refused(
            "tensors in binary are not spoken here",
            ways_on=["send and ask for JSON data: binary_data=False in the client"],
        )
    values = [_values(tensor) for tensor in request.inputs]
    counts = {len(column) for column in values}
    if len(counts) > 1:
        told = ", ".join(f"'{tensor.name}' {tensor.shape}" for tensor in request.inputs)
        raise Refused(f"inputs have different numbers of rows: {told}")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return Asked(request.id, rows, tuple(output.name for output in request.outputs), request.parameters)


def response(
    *,
    asked: Asked,
    name: str,
    version: str,
    outputs: Sequence[Mapping[str, Scalar]],
    kinds: pa.Schema,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The answer to a request."""
    known = kinds.names
    for output in asked.outputs:
        if output not in known:
            raise Refused(
                f"output '{output}' is not known", ways_on=did_you_mean(output, known, what="outputs")
            )
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    if asked.id:
        answer["id"] = asked.id
    answer["parameters"] = dict(parameters)
    answer["outputs"] = [
        {
            "name": output,
            "shape": [len(outputs)],
            "datatype": datatype(kinds.field(output).type),
            "data": [row[output] for row in outputs],
        }
        for output in (asked.outputs or known)
    ]
    return answer


def metadata(
    *,
    name: str,
    versions: Sequence[str],
    inputs: Mapping[str, pa.DataType | None],
    outputs: pa.Schema,
) -> dict[str, Any]:
    """What a model takes and gives."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "fourfold",
        "inputs": [
            {"name": column, "datatype": datatype(kind), "shape": [-1]} for column, kind in inputs.items()
        ],
        "outputs": [
            {"name": field.name, "datatype": datatype(field.type), "shape": [-1]} for field in outputs
        ],
    }


def datatype(kind: pa.DataType | None) -> str:
    """The protocol's word for an Arrow type; times and days travel as text.

    >>> datatype(pa.float64()), datatype(pa.timestamp("us", "UTC")), datatype(pa.uint8())
    ('FP64', 'BYTES', 'UINT8')
    """
    if kind is None:
        return "BYTES"
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind):
        return f"{'UINT' if pa.types.is_unsigned_integer(kind) else 'INT'}{kind.bit_width}"
    if pa.types.is_floating(kind):
        return f"FP{kind.bit_width}"
    return "BYTES"


def _wants_binary(request: Infer) -> bool:
    asked = [*(t.parameters for t in request.inputs), *(o.parameters for o in request.outputs)]
    return request.parameters.get("binary_data_output") is True or any(
        "binary_data_size" in each or each.get("binary_data") is True for each in asked
    )


def _values(tensor: Tensor) -> list[Scalar]:
    """A tensor's values, checked against its shape and datatype."""
    if tensor.datatype not in DATATYPES:
        raise Refused(
            f"input '{tensor.name}' has datatype '{tensor.datatype}'",
            ways_on=did_you_mean(tensor.datatype, DATATYPES, what="datatypes"),
        )
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or any(size < 0 for size in shape) or (len(shape) == 2 and shape[1] != 1):
        raise Refused(
            f"input '{tensor.name}' has shape {shape}",
            ways_on=["a column of n rows has shape [n] or [n, 1]"],
        )
    if tensor.data is None:
        raise Refused(f"input '{tensor.name}' has no data")
    values = _flat(tensor)
    if len(values) != shape[0]:
        raise Refused(f"input '{tensor.name}' has shape {shape} and {len(values)} values")
    for value in values:
        if not _fits(value, tensor.datatype):
            raise Refused(f"input '{tensor.name}' holds {str(value)[:60]!r}, which is not {tensor.datatype}")
    return values


def _flat(tensor: Tensor) -> list[Scalar]:
    """Data may be flat or nested by its shape."""
    assert tensor.data is not None
    values: list[Scalar] = []
    for item in tensor.data:
        if isinstance(item, list):
            if len(tensor.shape) != 2 or len(item) != 1 or isinstance(item[0], list | dict):
                raise Refused(f"input '{tensor.name}' is nested otherwise than its shape {tensor.shape}")
            values.append(item[0])
        elif isinstance(item, dict):
            raise Refused(f"input '{tensor.name}' holds an object")
        else:
            values.append(item)
    return values


def _fits(value: Scalar, kind: str) -> bool:
    if value is None:
        return True
    if kind == "BOOL":
        return isinstance(value, bool)
    if kind == "BYTES":
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    if kind in FLOATS:
        if isinstance(value, str):
            return value in NOT_FINITE
        return abs(value) <= FLOAT_MAX[kind]
    low, high = INT_BOUNDS[kind]
    return isinstance(value, int) and low <= value <= high
