"""What of an engine's filter a table store can be told, so that it skips files.

DuckDB hands a filter over as an Arrow expression, which cannot be taken apart but by its text. A part is
taken only where the condition that we read from it is written the same way again. So what is taken is
never more than what was asked, and whoever gave the filter applies all of it anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.core.storage import Condition, Scalar

_COMPARISON = re.compile(r"\((\w+) (==|!=|<=|>=|<|>) (.+)\)", re.DOTALL)
_VALID = re.compile(r"is_valid\((\w+)\)")


def conditions_in(asked: pc.Expression, schema: pa.Schema) -> tuple[Condition, ...]:
    """Conditions that hold wherever the filter does; of what cannot be said as one, nothing.

    >>> schema = pa.schema([("n", pa.int64()), ("word", pa.string())])
    >>> n, word = pc.field("n"), pc.field("word")
    >>> conditions_in((n >= 3) & (word == "a and b") & n.is_valid(), schema)
    (('n', '>=', 3), ('word', '==', 'a and b'), ('n', '!=', None))
    >>> conditions_in((n >= 3) | (word == "a"), schema)
    ()
    """
    fields = {field.name: field for field in schema}
    found = []
    for part in _conjuncts(str(asked)):
        condition = _condition(part, fields)
        if condition is not None and _says(condition, part, schema):
            found.append(condition)
    return tuple(found)


def fields_in(asked: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns that a filter may need: those whose name stands in its text."""
    text = str(asked)
    return [name for name in schema.names if name in text]


def _conjuncts(text: str) -> Iterator[str]:
    """The parts that `and` joins on the outermost level."""
    sides = _sides(text)
    if sides is None:
        yield text
        return
    for side in sides:
        yield from _conjuncts(side)


def _sides(text: str) -> tuple[str, str] | None:
    """Both sides of `(left and right)`; `None` where it is nothing of the kind."""
    if not text.startswith("(") or not text.endswith(")"):
        return None
    depth, quoted, at = 0, False, 0
    while at < len(text):
        sign = text[at]
        if quoted:
            at += sign == "\\"
            quoted = sign != '"'
        elif sign == '"':
            quoted = True
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif depth == 1 and text.startswith(" and ", at):
            return text[1:at], text[at + 5 : -1]
        at += 1
    return None


def _condition(part: str, fields: dict[str, pa.Field]) -> Condition | None:
    if (valid := _VALID.fullmatch(part)) is not None and valid[1] in fields:
        return (valid[1], "!=", None)
    compared = _COMPARISON.fullmatch(part)
    if compared is None or compared[1] not in fields:
        return None
    column, operator, literal = compared.groups()
    try:
        return (column, operator, _value(literal, fields[column].type))
    except ValueError:
        return None


def _value(literal: str, kind: pa.DataType) -> Scalar:
    """A literal as a condition spells it; `ValueError` for what is better left alone."""
    if pa.types.is_string(kind):
        value = json.loads(literal)
        if isinstance(value, str):
            return value
    elif pa.types.is_integer(kind):
        return int(literal)
    elif pa.types.is_date32(kind):
        return literal
    elif pa.types.is_timestamp(kind):
        return literal.replace(" ", "T")
    elif pa.types.is_boolean(kind) and literal in {"true", "false"}:
        return literal == "true"
    raise ValueError(literal)


def _says(condition: Condition, part: str, schema: pa.Schema) -> bool:
    """Whether the condition is written as the part that it was read from."""
    try:
        return str(schemas.expression("", [condition], schema)) == part
    except Refused:
        return False
