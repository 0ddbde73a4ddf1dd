"""What is expected of a table's rows, as people write it: `ff.expect.not_null("id")`.

ff.table("flights").expect(
    ff.expect.not_null("id"),
    ff.expect.between("delay", -120, 2000, at_most="0.1%"),
    ff.expect.one_of("origin", ["EWR", "JFK", "LGA"]),
    ff.expect.unique("id"),
    ff.expect.sql("arrival is null or arrival > departure", severity="warn"),
)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import TypeVar

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.expectations import Expectation, Expected, OnFailure, Rule, Severity
from fourfold.core.storage import Scalar
from fourfold.core.times import duration_s

Share = float | str
"""0.001 or "0.1%"."""
Plain = Scalar | date
E = TypeVar("E", bound=StrEnum)


def not_null(column: str, *, at_most: Share = 0.0, severity: str = "refuse") -> Expectation:
    """No value of the column is null."""
    return _made(Rule.not_null, column, at_most, severity)


def between(
    column: str,
    least: Plain = None,
    greatest: Plain = None,
    *,
    at_most: Share = 0.0,
    severity: str = "refuse",
) -> Expectation:
    """Values lie between two ends, both included; NaN does not. One end may be left out."""
    ends = {"least": _plain(least), "greatest": _plain(greatest)}
    return _made(Rule.between, column, at_most, severity, **ends)


def matches(column: str, pattern: str, *, at_most: Share = 0.0, severity: str = "refuse") -> Expectation:
    """The whole text matches a regular expression (RE2): `r"N\\d+.*"`."""
    return _made(Rule.matches, column, at_most, severity, pattern=pattern)


def one_of(
    column: str, values: Iterable[Plain], *, at_most: Share = 0.0, severity: str = "refuse"
) -> Expectation:
    """Values are among these."""
    if isinstance(values, str):
        raise Refused(f"values is the text {values!r}", ways_on=[f"write [{values!r}]"])
    return _made(Rule.one_of, column, at_most, severity, values=tuple(map(_plain, values)))


def sql(condition: str, *, at_most: Share = 0.0, severity: str = "refuse") -> Expectation:
    """A boolean expression of DuckDB holds in each row: `"arrival > departure"`."""
    return _made(Rule.sql, (), at_most, severity, condition=condition)


def unique(*columns: str, at_most: Share = 0.0, severity: str = "refuse") -> Expectation:
    """No two rows of the table have the same values here; rows with a null here are left out."""
    return _made(Rule.unique, columns, at_most, severity)


def fresh(column: str, *, within: float | str | timedelta, severity: str = "refuse") -> Expectation:
    """The newest time in the column is young enough when the data come: `within="1d"`."""
    return _made(Rule.fresh, column, 0.0, severity, within_s=duration_s(within))


def row_count_change(*, at_most: Share, severity: str = "refuse") -> Expectation:
    """One write moves the table's number of rows by no more than this share."""
    return _made(Rule.row_count_change, (), at_most, severity)


def expected(*expectations: Expectation, on_failure: str = "refuse", statistics: bool = True) -> Expected:
    """All that is expected of a table."""
    return Expected(expectations, _choice(OnFailure, on_failure, "on_failure"), statistics)


_RULES: Mapping[str, Callable[..., Expectation]] = {
    "not_null": not_null,
    "between": between,
    "matches": matches,
    "one_of": one_of,
    "sql": sql,
    "unique": unique,
    "fresh": fresh,
    "row_count_change": row_count_change,
}


def from_toml(given: Mapping[str, object]) -> Expected:
    """Expectations as a TOML file has them.

    on_failure = "refuse"
    [[expect]]
    between = "delay"
    least = -120
    greatest = 2000
    """
    known = {"expect", "on_failure", "statistics"}
    for name in given:
        if name not in known:
            raise Refused(f"there is no '{name}' here", ways_on=did_you_mean(name, known, what="settings"))
    listed = given.get("expect", [])
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise Refused("'expect' is a list of tables", ways_on=["begin each with [[expect]]"])
    statistics = given.get("statistics", True)
    if not isinstance(statistics, bool):
        raise Refused(f"statistics is true or false, not {statistics!r}")
    return Expected(
        expectations=tuple(_from_entry(each) for each in listed),
        on_failure=_choice(OnFailure, given.get("on_failure", "refuse"), "on_failure"),
        statistics=statistics,
    )


def _from_entry(entry: Mapping[str, object]) -> Expectation:
    rules = [name for name in entry if name in _RULES]
    if len(rules) != 1:
        raise Refused(
            f"an expectation names one rule, not {len(rules)}: {', '.join(map(str, entry)) or '(empty)'}",
            ways_on=[f"rules: {', '.join(_RULES)}", 'write: not_null = "id"'],
        )
    (rule,) = rules
    about = entry[rule]
    rest = {name: value for name, value in entry.items() if name != rule}
    try:
        if rule == "row_count_change":
            return row_count_change(at_most=about, **rest)  # type: ignore[arg-type]
        columns = about if isinstance(about, list) else [about]
        if not all(isinstance(column, str) for column in columns):
            raise Refused(f"{rule} is about columns, not {about!r}")
        return _RULES[rule](*columns, **rest)
    except TypeError as error:
        raise Refused(f"{rule}: {str(error).replace('()', '')}") from error


def _made(
    rule: Rule, columns: str | tuple[str, ...], at_most: Share, severity: str, **rest: object
) -> Expectation:
    named = (columns,) if isinstance(columns, str) else columns
    return Expectation(
        rule=rule,
        columns=named,
        at_most=_share(at_most),
        severity=_choice(Severity, severity, "severity"),
        **rest,  # type: ignore[arg-type]  # each by its own function above
    )


def _share(value: object) -> float:
    """A share as a number.

    >>> _share("0.1%"), _share(0.25)
    (0.001, 0.25)
    """
    try:
        if isinstance(value, str):
            return float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise Refused(f"{value!r} is not a share", ways_on=['write 0.001 or "0.1%"'])


def _choice(kind: type[E], value: object, what: str) -> E:
    try:
        return kind(str(value))
    except ValueError:
        raise Refused(
            f"{what} is not {value!r}", ways_on=did_you_mean(str(value), list(kind), what="choices")
        ) from None


def _plain(value: Plain) -> Scalar:
    return value.isoformat() if isinstance(value, date) else value
