"""Where a training set's columns come from: told from the definitions that it was made by.

A feature's value is that of its column, or is computed from it. Which events it sees is decided by the
entity's keys, the time, the moment an event became known and its id, on the events' side, and by the keys and
the time of each row on the labels' side. No other column can change it: `tests/features/test_provenance.py`
changes each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fourfold.core.context import Ref
from fourfold.core.features import FeatureService, Kind, View, ViewInfo, Window
from fourfold.core.lineage import How, Influence, OutputColumn, QueryColumns, UnknownColumns
from fourfold.foundation.storage.columns.made import Derived, Origin, followed
from fourfold.mlplatform.features.expressions import names, parse, to_sql

Influences = tuple[Influence, ...]


def training_set_columns(
    service: FeatureService,
    views: Mapping[str, ViewInfo],
    versions: Mapping[str, int],
    labels: Derived,
    *,
    at: str,
) -> Derived:
    """The columns of a training set: those of the labels, and behind them the service's features.

    `views` are by version, `versions` by table.
    """
    of_label = {output.name: output.influences for output in labels.columns.outputs}
    outputs = list(labels.columns.outputs)
    refs = set(labels.refs)
    for use in service.uses:
        info = views[use.version]
        table = info.view.source.table
        source = Ref("table", table, str(versions[table]))
        asked = [each for column in (at, *(key.column for key in use.keys)) for each in of_label[column]]
        found = view_columns(info.view, info.kinds, str(source), asked)
        outputs += [OutputColumn(pick.name, found[pick.feature]) for pick in use.picks]
        refs.add(source)
    return Derived(QueryColumns(tuple(outputs), labels.columns.rows), frozenset(refs))


def view_columns(
    view: View, kinds: Mapping[str, Kind], source: str, asked: Iterable[Influence]
) -> dict[str, Influences]:
    """What acts on each feature of a view over `source`; `asked` is what acts on the keys and times at which
    it is evaluated. `kinds` are the features'."""
    asked = tuple(asked)
    deciding = (view.source.time, view.source.known, *view.source.event_id, *view.entity.keys)
    found: dict[str, Influences] = {}
    for latest in view.latest:
        meeting = [
            *(Influence(source, column, How.joins) for column in deciding),
            *_steered(asked, How.joins),
        ]
        found[latest.name] = _once([Influence(source, latest.column, How.identity), *meeting])
    for window in view.windows:
        seen = [*(Influence(source, column, How.window) for column in deciding), *_steered(asked, How.window)]
        found[window.name] = _once([*_aggregated(window, source), *seen])
    return found | _expressions(view, kinds, source, found)


def labels_known(origin: Origin | None, names: Iterable[str], digest: str) -> Derived:
    """The labels' columns by where they came from; else they are what was handed in, and no more is known."""
    handed = Ref("labels", digest)
    if origin is None:
        outputs = [OutputColumn(name, (Influence(str(handed), name, How.identity),)) for name in names]
        return Derived(QueryColumns(tuple(outputs)), frozenset({handed}))
    found = followed(origin)
    if isinstance(found, UnknownColumns):
        unknown = tuple(Influence(str(ref), "", How.unknown) for ref in sorted(origin.refs))
        return Derived(
            QueryColumns(tuple(OutputColumn(name, unknown) for name in names), unknown), origin.refs
        )
    of_name = {output.name: output.influences for output in found.outputs}
    outputs = [
        OutputColumn(name, of_name.get(name, (Influence(str(handed), name, How.identity),))) for name in names
    ]
    return Derived(QueryColumns(tuple(outputs), found.rows), origin.refs | {handed})


def _aggregated(window: Window, source: str) -> Iterable[Influence]:
    if window.column:
        yield Influence(source, window.column, How.aggregation, is_masked=window.function == "count")
    for column in names(parse(window.where)) if window.where else ():
        yield Influence(source, column, How.conditional)


def _expressions(
    view: View, kinds: Mapping[str, Kind], source: str, features: Mapping[str, Influences]
) -> dict[str, Influences]:
    """The expressions are DuckDB's, over the other features as its columns."""
    from fourfold.foundation.storage.columns.of_sql import columns_of_sql

    over = QueryColumns(tuple(OutputColumn(name, acting) for name, acting in features.items()))
    inputs = {name: kinds[name] for name in features}
    found: dict[str, Influences] = {}
    for expression in view.expressions:
        text = " ".join(
            ["SELECT", to_sql(parse(expression.sql), inputs), "AS", "__value", "FROM", "features"]
        )
        answer = columns_of_sql(text, {}, views={"features": over})
        if isinstance(answer, UnknownColumns):
            found[expression.name] = (Influence(source, "", How.unknown),)
        else:
            found[expression.name] = answer.outputs[0].influences
    return found


def _steered(influences: Iterable[Influence], how: How) -> Iterable[Influence]:
    """What held the value now only decides."""
    return (replace(each, how=how) if each.how.is_direct else each for each in influences)


def _once(influences: Iterable[Influence]) -> Influences:
    return tuple(sorted(set(influences)))
