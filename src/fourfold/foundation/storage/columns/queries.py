"""Following columns through a query: where its sources' columns come from, then its expressions over them.

Every select is followed on its own. What decides which rows there are (filters, joins, groups, order) is
kept apart, because it acts on every column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sqlglot import exp

from fourfold.core.lineage import How, QueryColumns
from fourfold.foundation.storage.columns.flows import (
    PICKS,
    Flow,
    Via,
    aggregated,
    derived,
    is_aggregate,
    is_hash,
    masked,
    steer,
    union,
)


class Unclear(Exception):
    """What of the text leaves a doubt."""


class Names:
    """The inputs in lower case, as DuckDB compares names, and how they are spelled."""

    def __init__(self, inputs: Mapping[str, Sequence[str]], views: Mapping[str, QueryColumns]) -> None:
        self.columns = {
            name.lower(): {column.lower(): column for column in columns} for name, columns in inputs.items()
        }
        self.all_columns: dict[str, Sequence[str]] = {
            name: list(found) for name, found in self.columns.items()
        }
        """Those of the views too."""
        self._spelled = {
            (name.lower(), column.lower()): (name, column)
            for name, columns in inputs.items()
            for column in columns
        }
        for name, view in views.items():
            self.all_columns[name.lower()] = [each.name.lower() for each in view.outputs]
            acting = [*view.rows, *(each for output in view.outputs for each in output.influences)]
            self._spelled |= {
                (each.input.lower(), each.column.lower()): (each.input, each.column) for each in acting
            }

    def spelled(self, origin: tuple[str, str]) -> tuple[str, str]:
        return self._spelled[origin]


@dataclass(slots=True)
class Relation:
    """What a select or a table gives: its columns in order, and what decides its rows."""

    columns: list[tuple[str, Flow]]
    rows: Flow = field(default_factory=dict)

    def column(self, name: str) -> Flow | None:
        found = [flow for each, flow in self.columns if each == name]
        if len(found) > 1:
            raise Unclear(f"two columns are called '{name}'")
        return found[0] if found else None


@dataclass(frozen=True)
class Scope:
    """What an expression may name: the sources around it, the common table expressions, the inputs."""

    names: Names
    ctes: Mapping[str, Relation] = field(default_factory=dict)
    sources: Mapping[str, Relation] = field(default_factory=dict)
    outer: Scope | None = None
    windows: Mapping[str, exp.Window] = field(default_factory=dict)
    using: frozenset[str] = frozenset()
    """Columns that joins of this select share by USING, where the left one's value is taken."""

    def resolve(self, column: exp.Column) -> Flow:
        table, name = column.table.lower(), column.name.lower()
        here: Scope | None = self
        while here is not None:
            if (source := here.sources.get(table)) is not None:
                if (flow := source.column(name)) is None:
                    break
                return flow
            here = here.outer
        raise Unclear(f"it is not clear which column '{column.sql('duckdb')}' is")

    @cached_property
    def depth(self) -> int:
        return 0 if self.outer is None else self.outer.depth + 1


# Queries


def query(node: exp.Expr, scope: Scope) -> Relation:
    """What a query gives. `scope` holds what it sees around itself."""
    if scope.depth > 50:
        raise Unclear("it is nested too deeply")
    scope = _with_ctes(node, scope)
    match node:
        case exp.Select():
            return _select(node, scope)
        case exp.SetOperation():
            return _ordered(node, _set_operation(node, scope), scope)
        case exp.Subquery():
            return _ordered(node, query(node.this, scope), scope)
        case exp.Values():
            return _values(node, scope)
        case _:
            raise Unclear(f"{type(node).__name__.upper()} is not followed")


def _with_ctes(node: exp.Expr, scope: Scope) -> Scope:
    clause: exp.With | None = node.args.get("with_")
    if clause is None:
        return scope
    ctes = dict(scope.ctes)
    for cte in clause.expressions:
        name = cte.alias.lower()
        inside = Scope(scope.names, ctes, scope.sources, scope.outer)
        if clause.args.get("recursive") and _names_itself(cte, name):
            ctes[name] = _recursive(cte, name, inside)
        else:
            ctes[name] = _renamed(query(cte.this, inside), cte)
    return Scope(scope.names, ctes, scope.sources, scope.outer)


def _names_itself(cte: exp.CTE, name: str) -> bool:
    return any(table.name.lower() == name and not table.db for table in cte.this.find_all(exp.Table))


def _recursive(cte: exp.CTE, name: str, scope: Scope) -> Relation:
    """Go round until nothing new flows: each round only adds, and there are finitely many columns."""
    if not isinstance(cte.this, exp.SetOperation) or cte.args.get("key_expressions"):
        raise Unclear(f"the recursion of '{name}' is not followed")
    anchor = _renamed(query(cte.this.left, scope), cte)
    known = Relation([(column, {}) for column, _ in anchor.columns])
    while True:
        around = Scope(scope.names, {**scope.ctes, name: known}, scope.sources, scope.outer)
        found = _renamed(query(cte.this, around), cte)
        if found == known:
            return known
        known = found


def _renamed(relation: Relation, node: exp.Expr) -> Relation:
    """The relation under the column names of its alias, where that gives some: `t(a, b)`."""
    alias = node.args.get("alias")
    given = [each.name.lower() for each in alias.columns] if isinstance(alias, exp.TableAlias) else []
    if not given:
        return relation
    if len(given) > len(relation.columns):
        raise Unclear(f"'{node.alias}' names more columns than there are")
    named = [
        (given[index] if index < len(given) else name, flow)
        for index, (name, flow) in enumerate(relation.columns)
    ]
    return Relation(named, relation.rows)


def _values(node: exp.Values, scope: Scope) -> Relation:
    rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in node.expressions]
    width = len(rows[0]) if rows else 0
    columns = [
        (f"col{index}", union(_flow(row[index], scope) for row in rows if index < len(row)))
        for index in range(width)
    ]
    return _renamed(Relation(columns), node)


def _set_operation(node: exp.SetOperation, scope: Scope) -> Relation:
    left, right = query(node.left, scope), query(node.right, scope)
    rows = union([left.rows, right.rows])
    if node.args.get("by_name"):
        order = dict.fromkeys([name for name, _ in left.columns] + [name for name, _ in right.columns])
        pairs = [(name, left.column(name) or {}, right.column(name) or {}) for name in order]
    elif len(left.columns) == len(right.columns):
        pairs = [(name, flow, right.columns[index][1]) for index, (name, flow) in enumerate(left.columns)]
    else:
        raise Unclear("the two sides of a set operation have different numbers of columns")
    both = [union(flows) for _, *flows in pairs]
    if not isinstance(node, exp.Union):  # EXCEPT and INTERSECT: the right side chooses among the left's
        rows = union([rows, *(steer(flow, How.filter) for flow in both)])
        return Relation([(name, flow) for name, flow, _ in pairs], rows)
    if node.args.get("distinct"):
        rows = union([rows, *(steer(flow, How.group_by) for flow in both)])
    return Relation([(pair[0], flow) for pair, flow in zip(pairs, both, strict=True)], rows)


def _ordered(node: exp.Expr, relation: Relation, around: Scope) -> Relation:
    """The relation after the ORDER BY and LIMIT of a set operation, which see its columns."""
    if node.args.get("order") is None and node.args.get("limit") is None:
        return relation
    scope = Scope(around.names, around.ctes, {"": relation}, around)
    sorts = _order(node, relation, scope)
    return Relation(relation.columns, union([relation.rows, *sorts]))


# Selects


def _select(node: exp.Select, around: Scope) -> Relation:
    for clause, words in (("connect", "CONNECT BY"), ("kind", "SELECT AS"), ("into", "SELECT INTO")):
        if node.args.get(clause):
            raise Unclear(f"{words} is not followed")
    scope, rows = _sources(node, around)
    outputs: list[tuple[str, Flow]] = []
    for each in node.expressions:
        if not all(isinstance(star.parent, exp.Count) for star in each.find_all(exp.Star)):
            raise Unclear(f"which columns '{each.sql('duckdb')}' gives is not known")
        outputs.append((each.alias_or_name.lower(), _flow(each, scope)))
    result = Relation(outputs)
    for clause in ("where", "having", "qualify"):
        if (condition := node.args.get(clause)) is not None:
            rows.append(steer(_flow(condition.this, scope), How.filter))
    rows += _groups(node, result, scope)
    if (distinct := node.args.get("distinct")) is not None:
        on = distinct.args.get("on")
        keys = (
            [flow for _, flow in outputs]
            if on is None
            else [_named(key, result, scope) for key in on.expressions]
        )
        rows += [steer(flow, How.group_by) for flow in keys]
    rows += _order(node, result, scope)
    for each in node.expressions:  # a list that is unnested makes as many rows as it is long
        rows += [steer(_flow(one, scope), How.filter) for one in each.find_all(exp.Explode, exp.Unnest)]
    return Relation(outputs, union(rows))


def _sources(node: exp.Select, around: Scope) -> tuple[Scope, list[Flow]]:
    """What a select's expressions may name, and what its FROM says about rows.

    Later sources see earlier ones.
    """
    sources: dict[str, Relation] = {}
    rows: list[Flow] = []
    scope = Scope(
        around.names,
        around.ctes,
        sources,
        around,
        {window.name.lower(): window for window in node.args.get("windows") or ()},
        node.meta.get("using", frozenset()),
    )

    def add(source: exp.Expr, hidden: bool = False) -> None:
        relation = _source(source, scope)
        name = source.alias_or_name.lower()
        if name in sources and not hidden:
            raise Unclear(f"two sources are called '{name}'")
        rows.append(relation.rows)
        sources[name] = relation
        for join in source.args.get("joins") or ():
            meet(join)

    def meet(join: exp.Join) -> None:
        if join.method not in ("", "ASOF", "POSITIONAL") or join.kind not in _JOINS:
            raise Unclear(f"{join.method} {join.kind} JOIN is not followed")
        if join.args.get("using") or join.args.get("match_condition"):
            raise Unclear("a join's columns could not be matched")
        add(join.this)
        if (on := join.args.get("on")) is not None:
            rows.append(steer(_flow(on, scope), How.joins))

    if (first := node.args.get("from_")) is not None:
        add(first.this)
    for join in node.args.get("joins") or ():
        meet(join)
    for lateral in node.args.get("laterals") or ():
        add(lateral)
    return scope, rows


_JOINS = ("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI")


def _source(node: exp.Expr, scope: Scope) -> Relation:
    """A table, a subquery or a function in FROM."""
    if node.args.get("pivots"):
        raise Unclear("PIVOT is not followed")
    match node:
        case exp.Table() if isinstance(node.this, exp.Identifier):
            return _renamed(_table(node, scope), node)
        case exp.Lateral():
            return _source_of(node.this, node, scope)
        case exp.Subquery():
            return _renamed(query(node, scope), node)
        case exp.Values():
            return _values(node, scope)
        case exp.Table():
            return _source_of(node.this, node, scope)
        case _:
            return _source_of(node, node, scope)


def _source_of(inner: exp.Expr, node: exp.Expr, scope: Scope) -> Relation:
    """LATERAL, and functions that make rows of their arguments."""
    if isinstance(inner, exp.Subquery | exp.Query):
        return _renamed(query(inner, scope), node)
    if not isinstance(inner, exp.Unnest | exp.Explode | exp.GenerateSeries):
        raise Unclear(f"what '{inner.sql('duckdb')[:80]}' reads is not known")
    flow = derived(union(_flow(each, scope) for each in inner.iter_expressions()))
    given = [each.name.lower() for each in node.args["alias"].columns] if node.args.get("alias") else []
    if not given:
        given = ["generate_series" if isinstance(inner, exp.GenerateSeries) else "unnest"]
    return Relation([(name, flow) for name in given], steer(flow, How.filter))


def _table(node: exp.Table, scope: Scope) -> Relation:
    name = node.name.lower()
    if not node.db and (cte := scope.ctes.get(name)) is not None:
        return cte
    if node.db or name not in scope.names.columns:
        raise Unclear(f"'{'.'.join(part.name for part in node.parts)}' is no table that is known")
    via: frozenset[Via] = frozenset({(How.identity, False)})
    return Relation([(column, {(name, column): via}) for column in scope.names.columns[name]])


def _groups(node: exp.Select, result: Relation, scope: Scope) -> list[Flow]:
    group: exp.Group | None = node.args.get("group")
    if group is None:
        return []
    if group.args.get("all"):
        plain = [each for each in node.expressions if not _has_aggregate(each)]
        return [steer(_flow(each, scope), How.group_by) for each in plain]
    return [steer(_named(each, result, scope), How.group_by) for each in group.iter_expressions()]


def _order(node: exp.Expr, result: Relation, scope: Scope) -> list[Flow]:
    found: list[Flow] = []
    if (order := node.args.get("order")) is not None:
        for each in order.expressions:
            if isinstance(each.this, exp.Var) and each.this.name.upper() == "ALL":
                found += [steer(flow, How.sort) for _, flow in result.columns]
            else:
                found.append(steer(_named(each.this, result, scope), How.sort))
    for clause in ("limit", "offset"):
        if (bound := node.args.get(clause)) is not None:
            found.append(steer(_flow(bound, scope), How.filter))
    return found


def _named(node: exp.Expr, result: Relation, scope: Scope) -> Flow:
    """An expression that may name an output column or its position, besides those of the sources."""
    if isinstance(node, exp.Literal) and node.is_int:
        position = int(node.name) - 1
        if 0 <= position < len(result.columns):
            return result.columns[position][1]
    own = Scope(
        scope.names, scope.ctes, {**scope.sources, "": result}, scope.outer, scope.windows, scope.using
    )
    return _flow(node, own)


# Expressions


def _flow(node: exp.Expr, scope: Scope) -> Flow:
    """What acts on an expression's value."""
    match node:
        case exp.Column():
            return scope.resolve(node)
        case exp.Alias() | exp.Paren() | exp.Ordered():
            return _flow(node.this, scope)
        case exp.Case():
            return _case(node, scope)
        case exp.If():
            chosen = [_flow(node.args[part], scope) for part in ("true", "false") if node.args.get(part)]
            return union([steer(_flow(node.this, scope), How.conditional), *map(derived, chosen)])
        case exp.Coalesce():
            return _coalesce(node, scope)
        case exp.Window():
            return _window(node, scope)
        case exp.Filter():
            return union(
                [_flow(node.this, scope), steer(_flow(node.expression.this, scope), How.conditional)]
            )
        case exp.WithinGroup():  # its value is what it orders by
            parts = [
                _children(node.this, scope),
                *(_flow(each, scope) for each in node.expression.expressions),
            ]
            return aggregated(union(parts), node.this)
        case exp.Exists():
            inner = node.this
            asked = query(inner.this if isinstance(inner, exp.Subquery) else inner, _inside(scope))
            return steer(asked.rows, How.conditional)
        case exp.Query():
            asked = query(node, _inside(scope))
            values = derived(union(flow for _, flow in asked.columns))
            return union([values, steer(asked.rows, How.conditional)])
        case exp.Order():  # of an aggregate or a window: what is ordered may stand inside
            value = [_flow(node.this, scope)] if node.this is not None else []
            return union([*value, *(steer(_flow(each, scope), How.sort) for each in node.expressions)])
        case exp.TableColumn():
            raise Unclear(f"the whole row '{node.sql('duckdb')}' is not followed")
        case _ if is_aggregate(node):
            return aggregated(_children(node, scope), node)
        case _:
            flow = derived(_children(node, scope))
            return masked(flow) if is_hash(node) else flow


def _inside(scope: Scope) -> Scope:
    """What a subquery in an expression sees around itself."""
    return Scope(scope.names, scope.ctes, {}, scope)


def _children(node: exp.Expr, scope: Scope) -> Flow:
    return union(_flow(child, scope) for child in node.iter_expressions())


def _case(node: exp.Case, scope: Scope) -> Flow:
    steering = [node.this] if node.this is not None else []
    chosen = [node.args["default"]] if node.args.get("default") is not None else []
    for branch in node.args["ifs"]:
        steering.append(branch.this)
        chosen.append(branch.args["true"])
    return union(
        [steer(_flow(each, scope), How.conditional) for each in steering]
        + [derived(_flow(each, scope)) for each in chosen]
    )


def _coalesce(node: exp.Coalesce, scope: Scope) -> Flow:
    columns = [node.this, *node.expressions]
    is_shared = all(isinstance(each, exp.Column) and each.name.lower() in scope.using for each in columns)
    if is_shared and len({each.name.lower() for each in columns}) == 1:
        return _flow(node.this, scope)  # the column of a USING
    return derived(_children(node, scope))


def _window(node: exp.Window, scope: Scope) -> Flow:
    inner = node.this
    plain = inner.this if isinstance(inner, exp.IgnoreNulls | exp.RespectNulls) else inner
    value = derived(_children(plain, scope)) if isinstance(plain, PICKS) else _flow(inner, scope)
    return union([value, *_frame(node, scope, set())])


def _frame(node: exp.Window, scope: Scope, seen: set[str]) -> list[Flow]:
    """What decides which rows a window holds, also by a window that is named elsewhere."""
    found = [
        steer(_flow(child, scope), How.window)
        for part in ("partition_by", "order", "spec")
        for child in _listed(node.args.get(part))
    ]
    name = node.args["alias"].name.lower() if node.args.get("alias") is not None else ""
    if name and name not in seen:
        if (named := scope.windows.get(name)) is None:
            raise Unclear(f"no window is called '{name}'")
        found += _frame(named, scope, seen | {name})
    return found


def _listed(part: object) -> Iterable[exp.Expr]:
    if part is None:
        return ()
    return part if isinstance(part, list) else (part,)  # type: ignore[return-value]


def _has_aggregate(node: exp.Expr) -> bool:
    """Whether it adds rows up itself: not within a window, and not within a query of its own."""
    return any(
        is_aggregate(each) for each in node.walk(prune=lambda each: isinstance(each, exp.Window | exp.Query))
    )
