"""Which input columns act on which columns of a DuckDB query's result: told from its text alone.

Where the text leaves a doubt the answer is `UnknownColumns` and says why: no edge is better than a wrong
one. That a column named nowhere cannot change the result is tested by changing it, in DuckDB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from fourfold.core.lineage import Influence, OutputColumn, QueryColumns, UnknownColumns
from fourfold.foundation.storage.columns.flows import Flow
from fourfold.foundation.storage.columns.queries import Names, Relation, Scope, Unclear, query

NO_VIEWS: Mapping[str, QueryColumns] = {}
NO_TEXTS: Mapping[str, str] = {}
MOST_CHARACTERS = 200_000
"""A longer query is not followed: parsing is Python, and must not hold up a write."""
DEEPEST_VIEW = 20
"""Views of views that are written out."""


def columns_of_sql(
    sql: str,
    inputs: Mapping[str, Sequence[str]],
    *,
    outputs: Sequence[str] = (),
    views: Mapping[str, QueryColumns] = NO_VIEWS,
) -> QueryColumns | UnknownColumns:
    """Follow the columns of a query over `inputs` (the columns of each table, by the name it has there),
    and over `views`, whose columns were followed already.

    `outputs` are the result's columns as DuckDB names them. They name what the query leaves unnamed, and
    where they differ from what was read, the reading was wrong and nothing is claimed.

    >>> columns_of_sql("select a + b as c from t where d", {"t": ["a", "b", "d"]}).rows
    (Influence(input='t', column='d', how=<How.filter: 'filter'>, is_masked=False),)
    >>> columns_of_sql("pivot t on a using sum(b)", {"t": ["a", "b"]})
    UnknownColumns(reason='PIVOT is not followed')
    """
    if len(sql) > MOST_CHARACTERS:
        return UnknownColumns(f"the query is longer than {MOST_CHARACTERS:,} characters")
    names = Names(inputs, views)
    seen = {name.lower(): _seen(view) for name, view in views.items()}
    try:
        result = query(_qualified(sql, names), Scope(names=names, ctes=seen))
        return _answer(result, names, outputs)
    except Unclear as error:
        return UnknownColumns(str(error))
    except SqlglotError as error:
        return UnknownColumns("it could not be parsed: " + str(error).splitlines()[0][:200])
    except RecursionError:
        return UnknownColumns("it is nested too deeply")


def tables_of(sql: str) -> tuple[str, ...]:
    """The names that a query reads from, as it spells them; none where it cannot be parsed."""
    try:
        trees = [each for each in sqlglot.parse(sql[:MOST_CHARACTERS], dialect="duckdb") if each is not None]
    except (SqlglotError, RecursionError):
        return ()
    names = {table.name for tree in trees for table in tree.find_all(exp.Table) if not table.db}
    return tuple(sorted(names - {""}))


def without_literals(sql: str, *, views: Mapping[str, str] = NO_TEXTS) -> str:
    """The query with `?` for every literal: those may be about a person, and a query is kept for long.

    The queries behind its views are written in their place.

    >>> without_literals("select a from t where name = 'Ada' limit 3")
    'SELECT a FROM t WHERE name = ? LIMIT ?'
    >>> without_literals("select a from v", views={"v": "select a from t"})
    'SELECT a FROM (SELECT a FROM t) AS query'
    """
    try:
        tree = _written_out(sql, views, depth=0)
        return tree.transform(_hidden).sql(dialect="duckdb", comments=False)
    except (SqlglotError, RecursionError):
        return ""


def _written_out(sql: str, views: Mapping[str, str], *, depth: int) -> exp.Expr:
    tree = sqlglot.parse_one(sql[:MOST_CHARACTERS], dialect="duckdb")
    for table in list(tree.find_all(exp.Table)) if depth < DEEPEST_VIEW else ():
        if not table.db and table.name in views:
            inner = _written_out(views[table.name], views, depth=depth + 1)
            given = table.alias if table.alias not in ("", table.name) else "query"
            table.replace(exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier(given))))
    return tree


def _hidden(node: exp.Expr) -> exp.Expr:
    is_literal = isinstance(node, _LITERALS) and not isinstance(node.parent, exp.DataTypeParam)
    return exp.Placeholder() if is_literal else node


_LITERALS = (
    exp.Literal,
    exp.BitString,
    exp.ByteString,
    exp.HexString,
    exp.National,
    exp.RawString,
    exp.UnicodeString,
)


def _seen(view: QueryColumns) -> Relation:
    """A view's columns as a query finds them."""
    return Relation(
        [(each.name.lower(), _flow_of(each.influences)) for each in view.outputs], _flow_of(view.rows)
    )


def _flow_of(influences: Sequence[Influence]) -> Flow:
    found: Flow = {}
    for each in influences:
        origin = (each.input.lower(), each.column.lower())
        found[origin] = found.get(origin, frozenset()) | {(each.how, each.is_masked)}
    return found


def _qualified(sql: str, names: Names) -> exp.Expr:
    statements = [each for each in sqlglot.parse(sql, dialect="duckdb") if each is not None]
    if len(statements) != 1:
        raise Unclear("it is not one statement")
    tree = statements[0]
    for kind, what in _NOT_FOLLOWED.items():
        if tree.find(kind) is not None:
            raise Unclear(f"{what} is not followed")
    if not isinstance(tree, exp.Query):
        raise Unclear(f"{type(tree).__name__.upper()} is no query")
    for select in tree.find_all(exp.Select):
        select.meta["using"] = _shared_by_using(select)
    schema = MappingSchema(
        {table: dict.fromkeys(columns, "UNKNOWN") for table, columns in names.all_columns.items()},
        dialect="duckdb",
        normalize=False,
    )
    return qualify(
        tree, dialect="duckdb", schema=schema, quote_identifiers=False, validate_qualify_columns=False
    )


_NOT_FOLLOWED: Mapping[type[exp.Expr], str] = {
    exp.Pivot: "PIVOT",
    exp.Columns: "COLUMNS(…)",
    exp.Summarize: "SUMMARIZE",
    exp.PositionalColumn: "a column by its position",
    exp.MatchRecognize: "MATCH_RECOGNIZE",
    exp.HistoricalData: "AT (VERSION …)",
    exp.Command: "a command",
}


def _shared_by_using(select: exp.Select) -> frozenset[str]:
    """Columns of USING whose value is the left table's: not where a row may have no left side."""
    joins: list[exp.Join] = select.args.get("joins") or []
    if any(join.side in ("RIGHT", "FULL") for join in joins):
        return frozenset()
    return frozenset(name.name.lower() for join in joins for name in join.args.get("using") or ())


def _answer(result: Relation, names: Names, outputs: Sequence[str]) -> QueryColumns:
    found = [name for name, _ in result.columns]
    if outputs and len(outputs) != len(found):
        raise Unclear(f"{len(found)} columns were read from it, and it has {len(outputs)}")
    for read, real in zip(found, outputs, strict=False):
        if read and not read.startswith("_col_") and read != real.lower() and read in set(outputs):
            raise Unclear(f"the column '{real}' was read as '{read}'")
    spelled = list(outputs) or found
    return QueryColumns(
        tuple(
            OutputColumn(name, _influences(flow, names))
            for name, (_, flow) in zip(spelled, result.columns, strict=True)
        ),
        _influences(result.rows, names),
    )


def _influences(flow: Flow, names: Names) -> tuple[Influence, ...]:
    return tuple(
        sorted(
            Influence(*names.spelled(origin), how, masked)
            for origin, vias in flow.items()
            for how, masked in vias
        )
    )
