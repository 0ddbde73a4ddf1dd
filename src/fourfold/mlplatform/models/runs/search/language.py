"""The small language that finds runs: `metrics.auc > 0.9 and not tags.team in ('a', 'b')`.

    condition  = term { "or" term }
    term       = factor { "and" factor }
    factor     = [ "not" ] ( "(" condition ")" | comparison )
    comparison = field ( = | == | != | <> | < | <= | > | >= ) value
               | field [ "not" ] ( "like" | "ilike" ) text
               | field [ "not" ] "in" "(" value { "," value } ")"
    field      = ( "metrics" | "params" | "tags" | "attributes" ) "." key | attribute
    key        = letters, digits, _ . / -   or anything within "..." or `...`
    value      = number | nan | inf | 'text' | "text" | true | false

A comparison with something that the run does not have is false, whatever the operator. Text compares as
text, numbers as numbers; `%` and `_` are the wildcards of `like`. Nothing here touches a database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.times import parse_instant

FieldKind = Literal["metric", "param", "tag", "attribute"]
Literal_ = float | str

ATTRIBUTES: dict[str, bool] = {
    # name: whether it is a time
    "id": False,
    "name": False,
    "experiment": False,
    "status": False,
    "by": False,
    "environment": False,
    "commit": False,
    "flow_run": False,
    "started_at": True,
    "ended_at": True,
}
WHERE_CHARACTERS = 10_000
"""The longest condition."""
DEPTH = 50
"""How deep parentheses may nest."""

_KINDS: dict[str, FieldKind] = {
    "metrics": "metric", "metric": "metric",
    "params": "param", "param": "param", "parameters": "param",
    "tags": "tag", "tag": "tag",
    "attributes": "attribute", "attribute": "attribute", "run": "attribute",
}  # fmt: skip
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"[^"]*"|`[^`]*`)
    | (?P<operator>==|!=|<>|<=|>=|=|<|>)
    | (?P<sign>[().,])
    | (?P<word>[-+]?[^\W\d][\w/-]*(?:\.[\w/.-]+)?)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Field:
    kind: FieldKind
    key: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`operator` is one of = != < <= > >= like ilike in."""

    field: Field
    operator: str
    values: tuple[Literal_, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Condition


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple[Condition, ...]


Condition = Comparison | Not | All | Some


@dataclass(frozen=True, slots=True)
class Order:
    field: Field
    descending: bool = False


def parse(text: str) -> Condition | None:
    """Read a condition; `None` if it is empty.

    >>> parse("metrics.auc >= .9")
    Comparison(field=Field(kind='metric', key='auc'), operator='>=', values=(0.9,))
    >>> parse("metrics.auc >> 1")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: a value was expected here
      metrics.auc >> 1
                   ^
      a value is a number, 'text' in single quotes, true or false
    """
    if len(text) > WHERE_CHARACTERS:
        raise Refused(f"a condition of {len(text)} characters", ways_on=[f"use up to {WHERE_CHARACTERS}"])
    reader = _Reader(text)
    if reader.kind == "end":
        return None
    condition = reader.condition(0)
    if reader.kind != "end":
        raise reader.error("the condition should end here, or go on with 'and' or 'or'")
    return condition


def parse_orders(terms: Iterable[str]) -> tuple[Order, ...]:
    """Read terms such as `metrics.auc desc`.

    >>> parse_orders(["metrics.auc desc", "started_at"])[0]
    Order(field=Field(kind='metric', key='auc'), descending=True)
    """
    orders = []
    for term in terms:
        reader = _Reader(term)
        field = reader.field()
        word = reader.word()
        if word in {"asc", "desc"}:
            reader.take()
        if reader.kind != "end":
            raise reader.error("'asc', 'desc' or the end was expected here")
        orders.append(Order(field, word == "desc"))
    return tuple(orders)


class _Reader:
    """One token of look-ahead over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.kind = ""
        self.value = ""
        self.start = 0
        self.take()

    def take(self) -> str:
        """Step over the present token and return its text."""
        taken = self.value
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :]
            self.start = self._at + len(rest) - len(rest.lstrip())
            self.kind, self.value = "end" if not rest.strip() else "unknown", rest.strip()[:1]
            if self.kind == "unknown":
                raise self.error("this sign is not understood here")
            return taken
        self.kind = match.lastgroup or ""
        self.value = match[self.kind]
        self.start = match.start(self.kind)
        self._at = match.end()
        return taken

    def word(self) -> str:
        return self.value.lower() if self.kind == "word" else ""

    def error(self, what: str, *ways_on: str) -> Refused:
        return Refused(what, ways_on=[self._text, " " * self.start + "^", *ways_on], position=self.start)

    def condition(self, depth: int) -> Condition:
        if depth > DEPTH:
            raise self.error(f"parentheses nest deeper than {DEPTH}")
        parts = [self._term(depth)]
        while self.word() == "or":
            self.take()
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _term(self, depth: int) -> Condition:
        parts = [self._factor(depth)]
        while self.word() == "and":
            self.take()
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _factor(self, depth: int) -> Condition:
        if self.word() == "not":
            if depth > DEPTH:
                raise self.error(f"'not' nests deeper than {DEPTH}")
            self.take()
            return Not(self._factor(depth + 1))
        if self.value == "(":
            self.take()
            inside = self.condition(depth + 1)
            self._expect(")")
            return inside
        return self._comparison()

    def _comparison(self) -> Condition:
        field = self.field()
        is_negated = self.word() == "not"
        if is_negated:
            self.take()
        operator = self.word()
        if operator == "in":
            self.take()
            self._expect("(")
            values = [self._value(field)]
            while self.value == ",":
                self.take()
                values.append(self._value(field))
            self._expect(")")
            found: Condition = Comparison(field, "in", tuple(values))
        elif operator in {"like", "ilike"}:
            self.take()
            if field.kind == "metric" or ATTRIBUTES.get(field.key, False):
                raise self.error(f"'{operator}' compares text, and {field.key} is a number")
            value = self._value(field)
            if not isinstance(value, str):
                raise self.error(f"'{operator}' takes text in single quotes")
            found = Comparison(field, operator, (value,))
        elif self.kind == "operator" and not is_negated:
            operator = {"==": "=", "<>": "!="}.get(self.value, self.value)
            self.take()
            return Comparison(field, operator, (self._value(field),))
        else:
            raise self.error(
                "an operator was expected here", "operators: = != < <= > >= like ilike in, and 'not' in front"
            )
        return Not(found) if is_negated else found

    def field(self) -> Field:
        """Read a field: a group and a key, or an attribute."""
        if self.kind == "quoted":
            raise self.error(
                "a field was expected here", 'write its group in front: metrics."my key", params.depth'
            )
        if self.kind != "word":
            raise self.error(
                "a field was expected here", "for example metrics.auc, params.depth, tags.team, status"
            )
        head, dot, key = self.value.partition(".")
        start = self.start
        kind = _KINDS.get(head.lower())
        if kind is None:
            if dot or head not in ATTRIBUTES:
                raise self.error(
                    f"'{self.value}' is not a field",
                    *did_you_mean(head, [*ATTRIBUTES, "metrics", "params", "tags"], what="fields"),
                )
            self.take()
            return Field("attribute", head)
        self.take()
        if not dot:
            self._expect(".")
            if self.kind not in {"quoted", "word"}:
                raise self.error("a key was expected here")
            key = self.value[1:-1] if self.kind == "quoted" else self.value
            self.take()
        if kind == "attribute" and key not in ATTRIBUTES:
            self.start = start
            raise self.error(
                f"a run has no attribute '{key}'", *did_you_mean(key, ATTRIBUTES, what="attributes")
            )
        return Field(kind, key)

    def _value(self, field: Field) -> Literal_:
        value = self._literal()
        if field.kind == "metric" and isinstance(value, str):
            raise self.error(f"metric {field.key} is a number; compare it with one")
        if field.kind == "attribute":
            if ATTRIBUTES[field.key]:
                return float(parse_instant(value)) if isinstance(value, str) else value
            if not isinstance(value, str):
                raise self.error(f"{field.key} is text; put the value in single quotes")
        return value

    def _literal(self) -> Literal_:
        if self.kind == "number":
            return float(self.take())
        if self.kind == "text":
            return self.take()[1:-1].replace("''", "'")
        if self.kind == "quoted" and self.value[0] == '"':
            return self.take()[1:-1]
        word = self.word()
        if word in {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}:
            self.take()
            return math.nan if word == "nan" else float(word)
        if word in {"true", "false"}:
            self.take()
            return word.capitalize()
        raise self.error(
            "a value was expected here", "a value is a number, 'text' in single quotes, true or false"
        )

    def _expect(self, sign: str) -> None:
        if self.value != sign or self.kind != "sign":
            raise self.error(f"'{sign}' was expected here")
        self.take()
