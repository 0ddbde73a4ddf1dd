"""Conditions on runs in SQL, and the one query that pages through runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from fourfold.core.models import Run
from fourfold.mlplatform.models.runs.search.language import (
    ATTRIBUTES,
    All,
    Comparison,
    Condition,
    Field,
    Not,
    Order,
    Some,
)
from fourfold.mlplatform.models.runs.tables import (
    metric_latest,
    plain_text,
    run,
    run_param,
    run_tag,
    whole,
)


def search(
    connection: sa.Connection,
    condition: Condition | None,
    orders: Sequence[Order],
    *,
    limit: int,
    offset: int,
) -> tuple[Run, ...]:
    """The runs that meet a condition. Runs that lack the thing ordered by come last."""
    where = [] if condition is None else [_compile(condition)]
    newest = (run.c.started_at_us.desc(), run.c.row.desc())
    if len(orders) == 1 and orders[0].field.kind == "metric":
        # Two queries in place of one outer join: the first walks the index (key, value) in order and
        # stops at the page's end, however many runs there are.
        order = orders[0]
        on = sa.and_(metric_latest.c.run == run.c.row, metric_latest.c.key == order.field.key)
        is_number = metric_latest.c.value.is_not(None)
        value = metric_latest.c.value.desc() if order.descending else metric_latest.c.value.asc()
        base = sa.select(run).join(metric_latest, on).where(is_number, *where)
        rows = list(connection.execute(base.order_by(value, run.c.row.desc()).limit(limit).offset(offset)))
        if len(rows) < limit:
            skip = 0
            if offset and not rows:  # the page begins among those that lack the metric
                count = sa.select(sa.func.count()).select_from(base.subquery())
                skip = offset - connection.execute(count).scalar_one()
            lacks_it = ~sa.exists().where(on, is_number).correlate(run)
            rest = sa.select(run).where(lacks_it, *where).order_by(*newest)
            rows += connection.execute(rest.limit(limit - len(rows)).offset(skip))
    else:
        terms: list[sa.ColumnElement[Any]] = []
        for order in orders:
            terms += [
                sa.nulls_last(column.desc() if order.descending else column.asc())
                for column in _sort_columns(order.field)
            ]
        query = sa.select(run).where(*where).order_by(*terms, *newest).limit(limit).offset(offset)
        rows = list(connection.execute(query))
    return whole(connection, rows)


def _compile(condition: Condition) -> sa.ColumnElement[bool]:
    match condition:
        case All(parts):
            return sa.and_(*map(_compile, parts))
        case Some(parts):
            return sa.or_(*map(_compile, parts))
        case Not(part):
            return sa.not_(_compile(part))
        case Comparison(field, operator, values):
            return _compare(field, operator, values)


def _compare(field: Field, operator: str, values: Sequence[float | str]) -> sa.ColumnElement[bool]:
    if field.kind == "attribute":
        column = _attribute(field.key)
        # A run that has not ended meets no comparison with its end, and so does meet its negation.
        return sa.and_(column.is_not(None), _apply(column, operator, values))
    table, texts, numbers = {
        "metric": (metric_latest, None, metric_latest.c.value),
        "param": (run_param, run_param.c.text, run_param.c.number),
        "tag": (run_tag, run_tag.c.value, None),
    }[field.kind]
    held = sa.exists().where(table.c.run == run.c.row, table.c.key == field.key)
    # A value in numbers is compared with numbers, one in quotes with text; `in` may hold both.
    by_number = [value for value in values if isinstance(value, float) and numbers is not None]
    by_text = [
        value if isinstance(value, str) else plain_text(value)
        for value in values
        if isinstance(value, str) or numbers is None
    ]
    sides = []
    if by_number:
        assert numbers is not None
        sides.append(_apply(numbers, operator, by_number))
    if by_text:
        assert texts is not None
        sides.append(_apply(texts, operator, by_text))
    return held.where(sa.or_(*sides)).correlate(run)


def _apply(
    column: sa.ColumnElement[Any], operator: str, values: Sequence[float | str]
) -> sa.ColumnElement[bool]:
    value = values[0]
    if isinstance(value, str) and operator in {"<", "<=", ">", ">="}:
        column = _Bytewise(column)
    if isinstance(value, float) and math.isnan(value) and operator != "in":
        # Null is how NaN is stored. Nothing is greater or less than NaN.
        return {"=": column.is_(None), "!=": column.is_not(None)}.get(operator, sa.false())
    match operator:
        case "=":
            return column == value
        case "!=":
            # NaN is different from any number.
            return sa.or_(column != value, column.is_(None)) if isinstance(value, float) else column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value
        case "in":
            has_nan = any(isinstance(each, float) and math.isnan(each) for each in values)
            plain = [each for each in values if each == each]
            found = column.in_(plain)
            return sa.or_(found, column.is_(None)) if has_nan else found
        case "like":
            return _Like(column, str(value))
        case "ilike":
            return column.ilike(str(value), escape=_NO_ESCAPE)
        case other:
            raise AssertionError(other)


_NO_ESCAPE = "\x1b"
"""A sign that no pattern holds: `%` and `_` are always wildcards."""


class _Bytewise(sa.ColumnElement[str]):
    """Text in the order of its code points, as SQLite has it, whatever language the database sorts by."""

    type = sa.Text()
    inherit_cache = False

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        self.column = column


@compiles(_Bytewise)
def _compile_as_it_is(element: _Bytewise, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.column, **options))


@compiles(_Bytewise, "postgresql")
def _compile_bytewise(element: _Bytewise, compiler: Any, **options: Any) -> str:
    return f'({compiler.process(element.column, **options)} COLLATE "C")'


class _Like(sa.ColumnElement[bool]):
    """`like` that minds case. SQLite's own does not; its GLOB does, with other wildcards."""

    type = sa.Boolean()
    inherit_cache = False

    def __init__(self, column: sa.ColumnElement[Any], pattern: str) -> None:
        self.plain = column.like(pattern, escape=_NO_ESCAPE)
        guarded = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in pattern)
        self.glob = column.op("GLOB")(guarded.replace("%", "*").replace("_", "?"))


@compiles(_Like)
def _compile_like(element: _Like, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.plain, **options))


@compiles(_Like, "sqlite")
def _compile_glob(element: _Like, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.glob, **options))


def _attribute(key: str) -> sa.ColumnElement[Any]:
    return run.c[key + "_us" if ATTRIBUTES[key] else key]


def _sort_columns(field: Field) -> tuple[sa.ColumnElement[Any], ...]:
    """What to order by: for a parameter its number, then (those that have none) its text."""
    if field.kind == "attribute":
        column = _attribute(field.key)
        return (column if ATTRIBUTES[field.key] else _Bytewise(column),)
    columns: tuple[sa.ColumnElement[Any], ...] = {
        "metric": (metric_latest.c.value,),
        "param": (run_param.c.number, run_param.c.text),
        "tag": (run_tag.c.value,),
    }[field.kind]
    table = columns[0].table
    found = [
        sa.select(column)
        .where(table.c.run == run.c.row, table.c.key == field.key)
        .correlate(run)
        .scalar_subquery()
        for column in columns
    ]
    return tuple(
        one if isinstance(column.type, sa.Float) else _Bytewise(one)
        for one, column in zip(found, columns, strict=True)
    )
