"""The type that a text names, in Arrow's own words: `int64`, `timestamp[us, tz=UTC]`, `list<float>`."""

from __future__ import annotations

import re

import pyarrow as pa

from fourfold.core.errors import Refused

_TOKEN = re.compile(r"\s*([A-Za-z_0-9]+(?:\[[^\]]*\])?|[<>(),:])")
_KNOWN = "int64, float64, string, bool, date32, timestamp[us, tz=UTC], decimal128(10, 2) or list<string>"
_OTHER = {"decimal": "decimal128"}


def type_named(text: str) -> pa.DataType:
    """The type, or refused.

    >>> type_named("decimal128(10, 2)"), type_named("timestamp[us, tz=UTC]")
    (Decimal128Type(decimal128(10, 2)), TimestampType(timestamp[us, tz=UTC]))
    >>> type_named("map<string, list<struct<a: int64, b: double>>>").item_type.value_type.num_fields
    2
    >>> type_named("int65")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'int65' is not a type
      write int64, float64, string, bool, date32, timestamp[us, tz=UTC], decimal128(10, 2) or list<string>
    """
    try:
        words = _Words(text)
        kind = words.type()
        words.end()
    except (ValueError, LookupError, pa.ArrowException) as error:
        raise Refused(
            f"'{text[:100]}' is not a type",
            ways_on=[f"write {_KNOWN}"],
            type=text[:100],
        ) from error
    return kind


class _Words:
    """The words of a type, read from left to right."""

    def __init__(self, text: str) -> None:
        self._left: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(text[at:])
            self._left.append(found[1])
            at = found.end()
        self._left.reverse()

    def type(self) -> pa.DataType:
        word = self._left.pop()
        word = _OTHER.get(word, word)
        match word:
            case "list":
                (item,) = self._fields()
                return pa.list_(item.type)
            case "map":
                self._sign("<")
                key = self.type()
                self._sign(",")
                item = self.type()
                self._sign(">")
                return pa.map_(key, item)
            case "struct":
                return pa.struct(self._fields())
            case "decimal128":
                self._sign("(")
                precision = int(self._left.pop())
                self._sign(",")
                scale = int(self._left.pop())
                self._sign(")")
                return pa.decimal128(precision, scale)
            case _ if zoned := re.fullmatch(r"timestamp\[(\w+), tz=([^\]]+)\]", word):
                return pa.timestamp(zoned[1], zoned[2])
            case _:
                return pa.type_for_alias(word)

    def _fields(self) -> list[pa.Field]:
        """What stands between `<` and `>`, each with a name or (in a list) without."""
        self._sign("<")
        fields = []
        while True:
            name = "item"
            if len(self._left) > 1 and self._left[-2] == ":":
                name = self._left.pop()
                self._sign(":")
            fields.append(pa.field(name, self.type()))
            if self._left[-1] != ",":
                break
            self._sign(",")
        self._sign(">")
        return fields

    def _sign(self, sign: str) -> None:
        if self._left.pop() != sign:
            raise ValueError(sign)

    def end(self) -> None:
        if self._left:
            raise ValueError(self._left[-1])
