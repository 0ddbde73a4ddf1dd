"""How columns act on a value, put together: from an expression's parts to the expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from sqlglot import exp

from fourfold.core.lineage import How

Via: TypeAlias = tuple[How, bool]
"""How a column acts, and whether it is masked on the way."""
Flow: TypeAlias = dict[tuple[str, str], frozenset[Via]]
"""From (input, column) to all the ways in which it acts."""

PICKS = (exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue)
"""Window functions that take one row's value rather than adding many up."""

HASHES = frozenset(
    {"hash", "md5", "md5digest", "md5_number", "md5_number_lower", "md5_number_upper", "sha", "sha2"}
)
"""Functions whose result does not show the value: a column that passes through one is masked."""

AGGREGATES = frozenset(
    {"approx_top_k", "arbitrary", "arg_max_null", "arg_max_nulls_last", "arg_min_null", "arg_min_nulls_last"}
    | {"bitstring_agg", "combine_aggr", "decimal_average", "entropy", "favg", "fsum", "geomean", "histogram"}
    | {"geometric_mean", "histogram_exact", "kahan_sum", "kurtosis_pop", "lttb", "mad", "mean", "product"}
    | {"reservoir_quantile", "sem", "sum_no_overflow", "sumkahan", "variant_group_object", "wavg"}
    | {"weighted_avg"}
)
"""DuckDB's aggregates that the parser does not know as such; a test asks DuckDB for others."""

_COUNTS = (exp.Count, exp.CountIf, exp.ApproxDistinct)


def union(flows: Iterable[Flow]) -> Flow:
    """All that acts in any of these."""
    found: Flow = {}
    for flow in flows:
        for origin, vias in flow.items():
            found[origin] = found.get(origin, frozenset()) | vias
    return found


def derived(flow: Flow) -> Flow:
    """The flow of a value that was computed from these."""
    return {
        origin: frozenset((How.transformation if how is How.identity else how, mask) for how, mask in vias)
        for origin, vias in flow.items()
    }


def aggregated(flow: Flow, function: exp.Expr) -> Flow:
    """The flow of a value that was computed from many rows by this function."""
    found = {
        origin: frozenset((How.aggregation if how.is_direct else how, mask) for how, mask in vias)
        for origin, vias in flow.items()
    }
    return masked(found) if isinstance(function, _COUNTS) else found


def steer(flow: Flow, how: How) -> Flow:
    """The flow of what only decides: what held the value now acts as `how`."""
    return {
        origin: frozenset((how if each.is_direct else each, mask) for each, mask in vias)
        for origin, vias in flow.items()
    }


def masked(flow: Flow) -> Flow:
    """The flow of a value that no longer shows these."""
    return {origin: frozenset((how, True) for how, _ in vias) for origin, vias in flow.items()}


def is_aggregate(node: exp.Expr) -> bool:
    """Whether it is a function that adds rows up."""
    if isinstance(node, exp.AggFunc):
        return not isinstance(node, PICKS)
    return isinstance(node, exp.Anonymous) and node.name.lower() in AGGREGATES


def is_hash(node: exp.Expr) -> bool:
    """Whether it is a function whose result does not show the value."""
    if isinstance(node, exp.Anonymous):
        return node.name.lower() in HASHES
    return isinstance(node, exp.Func) and type(node).__name__.lower() in HASHES
