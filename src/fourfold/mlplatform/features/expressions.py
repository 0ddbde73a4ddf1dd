"""A small SQL: filters of windows and expressions over features, with one meaning offline and online.

`parse` reads the text once. From the same tree, `to_sql` writes what DuckDB computes over whole tables,
and `compile_row` makes a function for one row; a property test holds them equal. To make that possible
the language is small and total: numbers are doubles with IEEE arithmetic (1 / 0 is infinite, 0 / 0 is
NaN), NaN equals itself and is greater than any number, null makes null, `and` and `or` know three truths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import Kind

LONGEST_TEXT = 4000
DEEPEST = 60

Type = Literal["number", "text", "truth", "null"]
Evaluate = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Constant:
    value: float | str | bool | None


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function with its arguments."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Case:
    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node


Node = Constant | Name | Call | Case

_FUNCTIONS = {
    "abs": 1, "floor": 1, "ceil": 1, "round": 1, "exp": 1, "ln": 1, "sqrt": 1,
    "least": -1, "greatest": -1, "coalesce": -1, "nullif": 2,
}  # fmt: skip
"""Functions with their number of arguments; -1 is one or more."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[A-Za-z_]\w*)
    | "(?P<quoted>(?:[^"]|"")+)"
    | '(?P<text>(?:[^']|'')*)'
    | (?P<sign><=|>=|<>|!=|[-+*/%=<>(),])
    )""",
    re.VERBOSE,
)
_GRAMMAR = "numbers, 'text', columns, + - * / %, = <> < <= > >=, and or not, is null, in, between, case"
_COMPARISONS = {"=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_RESERVED = {
    "and", "or", "not", "is", "null", "in", "between", "case", "when", "then", "else", "end", "true", "false",
}  # fmt: skip


def parse(sql: str) -> Node:
    """Read an expression, or refuse it pointing at the place.

    >>> parse("a / 2")
    Call(name='/', arguments=(Name(name='a'), Constant(value=2.0)))
    """
    if len(sql) > LONGEST_TEXT:
        raise Refused(f"expression of {len(sql)} characters is longer than {LONGEST_TEXT}")
    return _Parser(sql).whole()


def names(node: Node) -> Iterator[str]:
    """The columns that an expression reads, possibly repeated."""
    match node:
        case Name(name):
            yield name
        case Call(_, arguments):
            for argument in arguments:
                yield from names(argument)
        case Case(branches, otherwise):
            for condition, result in branches:
                yield from names(condition)
                yield from names(result)
            yield from names(otherwise)
        case Constant():
            pass


def check(sql: str, kinds: Mapping[str, Kind], *, what: str) -> Kind:
    """The type of the expression's result over columns of these types, or a refusal."""
    found = _type(parse(sql), kinds, what)
    return {"number": Kind.float, "text": Kind.string, "truth": Kind.bool, "null": Kind.float}[found]


def check_filter(sql: str, kinds: Mapping[str, Kind], *, what: str) -> None:
    """Refuse a filter that is not true or false."""
    if check(sql, kinds, what=what) is not Kind.bool:
        raise Refused(f"{what}: '{sql}' is not a condition", ways_on=["compare something: status = 'ok'"])


# -- for whole tables: DuckDB ---------------------------------------------------------------------------


def to_sql(node: Node, kinds: Mapping[str, Kind]) -> str:
    """The expression for DuckDB, every number a DOUBLE.

    >>> to_sql(parse("a > 1"), {"a": Kind.int})
    '(CAST("a" AS DOUBLE) > CAST(1.0 AS DOUBLE))'
    """
    match node:
        case Constant(None):
            return "NULL"
        case Constant(bool() as truth):
            return "TRUE" if truth else "FALSE"
        case Constant(str() as text):
            return "'" + text.replace("'", "''") + "'"
        case Constant(value):
            return f"CAST({value!r} AS DOUBLE)"
        case Name(name):
            quoted = '"' + name.replace('"', '""') + '"'
            return quoted if kinds[name] in {Kind.string, Kind.bool} else f"CAST({quoted} AS DOUBLE)"
        case Case(branches, otherwise):
            when = " ".join(f"WHEN {to_sql(c, kinds)} THEN {to_sql(r, kinds)}" for c, r in branches)
            return f"CASE {when} ELSE {to_sql(otherwise, kinds)} END"
        case Call(name, arguments):
            return _call_sql(name, [to_sql(argument, kinds) for argument in arguments])


def _call_sql(name: str, arguments: list[str]) -> str:
    match name, arguments:
        case "not", [x]:
            return f"(NOT {x})"
        case "-", [x]:
            return f"(- {x})"
        case "is null", [x]:
            return f"({x} IS NULL)"
        case "in", [x, *items]:
            return f"({x} IN ({', '.join(items)}))"
        case _ if name in _FUNCTIONS:
            return f"{name}({', '.join(arguments)})"
        case _, [a, b]:
            return f"({a} {name.upper()} {b})"
        case _:
            raise AssertionError(f"no SQL for {name}")


# -- for one row: a Python function ---------------------------------------------------------------------


def compile_row(node: Node, columns: Sequence[str]) -> Evaluate:
    """A function of a row (values in the order of `columns`) that computes the expression.

    >>> compile_row(parse("a / 0"), ["a"])([-1])
    -inf
    """
    match node:
        case Constant(value):
            return lambda _row: value
        case Name(name):
            return _reader(columns.index(name))
        case Case(branches, otherwise):
            return _case(
                [(compile_row(c, columns), compile_row(r, columns)) for c, r in branches],
                compile_row(otherwise, columns),
            )
        case Call(name, arguments):
            return _call(name, [compile_row(argument, columns) for argument in arguments])


def _reader(index: int) -> Evaluate:
    def read(row: Sequence[Any]) -> Any:
        value = row[index]
        return float(value) if type(value) is int else value

    return read


def _case(branches: list[tuple[Evaluate, Evaluate]], otherwise: Evaluate) -> Evaluate:
    def choose(row: Sequence[Any]) -> Any:
        for condition, result in branches:
            if condition(row) is True:
                return result(row)
        return otherwise(row)

    return choose


def _call(name: str, arguments: list[Evaluate]) -> Evaluate:
    if name in _STRICT:
        strict = _STRICT[name]

        def apply_strict(row: Sequence[Any]) -> Any:
            found = [argument(row) for argument in arguments]
            return None if None in found else strict(*found)

        return apply_strict
    lenient = _LENIENT[name]
    return lambda row: lenient([argument(row) for argument in arguments])


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # NaN equals itself


def _less(a: Any, b: Any) -> bool:
    if a != a:
        return False  # nothing is greater than NaN
    return bool(b != b or a < b)


def _divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    if a == 0 or a != a:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _remainder(a: float, b: float) -> float:
    try:
        return math.fmod(a, b)
    except ValueError:
        return math.nan


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _ln(x: float) -> float:
    if x == 0:
        return -math.inf
    return math.log(x) if x > 0 else math.nan


def _round(x: float) -> float:
    """Halves away from zero, as C has it."""
    if not math.isfinite(x):
        return x
    whole = math.floor(abs(x))
    return math.copysign(whole + (1 if abs(x) - whole >= 0.5 else 0), x)


def _whole(rule: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: float(rule(x)) if math.isfinite(x) else x


_STRICT: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, *b: a - b[0] if b else -a,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": _remainder,
    "=": _equal,
    "<>": lambda a, b: not _equal(a, b),
    "<": _less,
    ">": lambda a, b: _less(b, a),
    "<=": lambda a, b: not _less(b, a),
    ">=": lambda a, b: not _less(a, b),
    "not": lambda a: not a,
    "abs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _round,
    "exp": _exp,
    "ln": _ln,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
}
"""Null in, null out."""


def _and(found: list[Any]) -> Any:
    return False if False in found else None if None in found else True


def _or(found: list[Any]) -> Any:
    return True if True in found else None if None in found else False


def _in(found: list[Any]) -> Any:
    x, *items = found
    if x is None:
        return None
    if any(item is not None and _equal(x, item) for item in items):
        return True
    return None if None in items else False


def _least(found: list[Any]) -> Any:
    best = None
    for x in found:
        if x is not None and (best is None or _less(x, best)):
            best = x
    return best


def _greatest(found: list[Any]) -> Any:
    best = None
    for x in found:
        if x is not None and (best is None or _less(best, x)):
            best = x
    return best


def _nullif(found: list[Any]) -> Any:
    a, b = found
    return None if a is not None and b is not None and _equal(a, b) else a


_LENIENT: dict[str, Callable[[list[Any]], Any]] = {
    "and": _and,
    "or": _or,
    "in": _in,
    "is null": lambda found: found[0] is None,
    "coalesce": lambda found: next((x for x in found if x is not None), None),
    "nullif": _nullif,
    "least": _least,
    "greatest": _greatest,
}
"""These look at nulls themselves."""


# -- types ----------------------------------------------------------------------------------------------


def _type(node: Node, kinds: Mapping[str, Kind], what: str) -> Type:
    match node:
        case Constant(None):
            return "null"
        case Constant(value):
            return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        case Name(name):
            if name not in kinds:
                raise Refused(
                    f"{what}: there is no column '{name}'",
                    ways_on=did_you_mean(name, kinds, what="columns"),
                    column=name,
                )
            return {Kind.string: "text", Kind.bool: "truth"}.get(kinds[name], "number")  # type: ignore[return-value]
        case Case(branches, otherwise):
            for condition, _ in branches:
                _same([_type(condition, kinds, what), "truth"], "case when", what)
            return _same(
                [*(_type(r, kinds, what) for _, r in branches), _type(otherwise, kinds, what)], "case", what
            )
        case Call(name, arguments):
            found = [_type(argument, kinds, what) for argument in arguments]
            if name in {"and", "or", "not"}:
                return _same([*found, "truth"], name, what)
            if name == "is null":
                return "truth"
            if name in {"=", "<>", "<", "<=", ">", ">=", "in"}:
                _same(found, name, what)
                return "truth"
            if name in {"coalesce", "nullif", "least", "greatest"}:
                return _same(found, name, what)
            return _same([*found, "number"], name, what)


def _same(types: Sequence[Type], name: str, what: str) -> Type:
    found = sorted({t for t in types if t != "null"})
    if len(found) > 1:
        raise Refused(f"{what}: '{name}' mixes {' and '.join(found)}")
    return found[0] if found else "null"


# -- parsing --------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent, loosest operators first: or, and, not, comparisons, + -, * / %, minus."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = list(self._tokens())
        self.at = 0
        self.depth = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        position = 0
        text = self.sql.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._refuse(f"cannot read '{text[position:].strip()[:20]}'", position)
            kind = match.lastgroup
            value = match[kind]
            if kind == "word" and value.lower() in _RESERVED:
                kind, value = "reserved", value.lower()
            yield kind, value, match.start(match.lastgroup)
            position = match.end()

    def _refuse(self, message: str, position: int) -> Refused:
        known = ", ".join(sorted(_FUNCTIONS))
        return Refused(
            f"expression '{self.sql}': {message} (at character {position + 1})",
            ways_on=[f"{_GRAMMAR}; {known}"],
        )

    def whole(self) -> Node:
        node = self.either()
        if self.at < len(self.tokens):
            raise self._refuse(f"unexpected '{self.tokens[self.at][1]}'", self.tokens[self.at][2])
        return node

    def _next(self, *expected: str) -> str | None:
        """Take the next word or sign if it is one of these."""
        if self.at < len(self.tokens):
            kind, value, _ = self.tokens[self.at]
            if kind in {"reserved", "sign"} and value in expected:
                self.at += 1
                return value
        return None

    def _need(self, expected: str) -> None:
        if self._next(expected) is None:
            raise self._refuse(f"'{expected}' is missing", self._position())

    def _position(self) -> int:
        return self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.sql)

    def either(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refuse("it is nested too deeply", self._position())
        node = self.both()
        while self._next("or"):
            node = Call("or", (node, self.both()))
        self.depth -= 1
        return node

    def both(self) -> Node:
        node = self.negation()
        while self._next("and"):
            node = Call("and", (node, self.negation()))
        return node

    def negation(self) -> Node:
        flips = 0
        while self._next("not"):
            flips += 1
        node = self.comparison()
        return Call("not", (node,)) if flips % 2 else node

    def comparison(self) -> Node:
        node = self.total()
        if sign := self._next(*_COMPARISONS):
            return Call(_COMPARISONS[sign], (node, self.total()))
        if self._next("is"):
            is_negated = self._next("not") is not None
            self._need("null")
            return _negate(Call("is null", (node,)), is_negated)
        is_negated = self._next("not") is not None
        if self._next("in"):
            self._need("(")
            return _negate(Call("in", (node, *self.listed())), is_negated)
        if self._next("between"):
            low = self.total()
            self._need("and")
            return _negate(
                Call("and", (Call(">=", (node, low)), Call("<=", (node, self.total())))), is_negated
            )
        if is_negated:
            raise self._refuse("'in' or 'between' is missing after 'not'", self._position())
        return node

    def listed(self) -> tuple[Node, ...]:
        items = [self.either()]
        while self._next(","):
            items.append(self.either())
        self._need(")")
        return tuple(items)

    def total(self) -> Node:
        node = self.product()
        while sign := self._next("+", "-"):
            node = Call(sign, (node, self.product()))
        return node

    def product(self) -> Node:
        node = self.signed()
        while sign := self._next("*", "/", "%"):
            node = Call(sign, (node, self.signed()))
        return node

    def signed(self) -> Node:
        flips = 0
        while sign := self._next("-", "+"):
            flips += sign == "-"
        node = self.atom()
        return Call("-", (node,)) if flips % 2 else node

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            raise self._refuse("it ends too early", len(self.sql))
        kind, value, position = self.tokens[self.at]
        self.at += 1
        match kind, value:
            case "number", _:
                return Constant(float(value))
            case "text", _:
                return Constant(value.replace("''", "'"))
            case "quoted", _:
                return Name(value.replace('""', '"'))
            case "word", _ if self._next("("):
                return self.function(value.lower(), position)
            case "word", _:
                return Name(value)
            case "reserved", ("true" | "false"):
                return Constant(value == "true")
            case "reserved", "null":
                return Constant(None)
            case "reserved", "case":
                return self.case()
            case "sign", "(":
                node = self.either()
                self._need(")")
                return node
            case _:
                raise self._refuse(f"unexpected '{value}'", position)

    def function(self, name: str, position: int) -> Node:
        if name not in _FUNCTIONS:
            raise self._refuse(f"there is no function '{name}'", position)
        arguments = self.listed()
        if _FUNCTIONS[name] not in {-1, len(arguments)}:
            raise self._refuse(f"'{name}' takes {_FUNCTIONS[name]} arguments, not {len(arguments)}", position)
        return Call(name, arguments)

    def case(self) -> Node:
        branches = []
        while self._next("when"):
            condition = self.either()
            self._need("then")
            branches.append((condition, self.either()))
        if not branches:
            raise self._refuse("'when' is missing", self._position())
        otherwise = self.either() if self._next("else") else Constant(None)
        self._need("end")
        return Case(tuple(branches), otherwise)


def _negate(node: Node, is_negated: bool) -> Node:
    return Call("not", (node,)) if is_negated else node
