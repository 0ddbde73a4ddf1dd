"""Reading the log back: served rows for the audit, predictions with their feedback, a shadow's comparison."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import shadow as rule
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.hosting import Comparison, feedback_table, predictions_table
from fourfold.core.services.storage import Storage

PREFIX = "predicted_"


def served(storage: Storage, endpoint: str) -> pa.Table:
    """The live predictions of an endpoint as the feature audit takes them: with `at` and `watermark`."""
    rows = storage.read(predictions_table(endpoint), where=(("prediction_is_shadow", "==", False),))
    names = {"prediction_at": "at", "prediction_watermark": "watermark"}
    return rows.rename_columns([names.get(name, name) for name in rows.column_names])


def with_feedback(storage: Storage, endpoint: str, name: str) -> pa.Table:
    """Predictions (live and shadow) with a column `feedback`: the last word on `name`, null where none came.

    Numbers and true/false come as floats; where any is text, all are text.
    """
    rows = storage.read(predictions_table(endpoint))
    labels = _labels(storage, endpoint, name)
    ids = rows.column("prediction_id").to_pylist()
    found: list[float | str | None] = [labels.get(id_) for id_ in ids]
    if any(isinstance(value, str) for value in found):
        found = [None if value is None else str(value) for value in found]
    return rows.append_column("feedback", pa.array(found))


def compare(
    storage: Storage, endpoint: str, live: str, shadow: str, *, output: str, label: str
) -> Comparison:
    """The shadow's answers beside those of the live version, on the requests that both answered."""
    try:
        rows = storage.read(predictions_table(endpoint))
    except NotFound as error:
        raise NotFound(
            f"endpoint '{endpoint}' has no log yet", ways_on=["ask it for predictions first"]
        ) from error
    column = _column(rows, endpoint, output)
    models = rows.column("prediction_model")
    is_shadow = rows.column("prediction_is_shadow")
    answers = {
        side: dict(
            zip(
                part.column("prediction_id").to_pylist(),
                pc.cast(part.column(column), pa.float64()).to_pylist(),
                strict=True,
            )
        )
        for side, part in (
            ("live", rows.filter(pc.and_(pc.equal(models, live), pc.invert(is_shadow)))),
            ("shadow", rows.filter(pc.and_(pc.equal(models, shadow), is_shadow))),
        )
    }
    # Only requests since the shadow began can have a pair.
    began = _first(rows, shadow)
    since = {
        id_
        for id_, at, is_copy in zip(
            rows.column("prediction_id").to_pylist(),
            pc.cast(rows.column("prediction_served_at"), pa.int64()).to_pylist(),
            is_shadow.to_pylist(),
            strict=True,
        )
        if not is_copy and began is not None and at >= began and id_ in answers["live"]
    }
    ids = sorted(
        id_
        for id_ in answers["live"].keys() & answers["shadow"].keys()
        if answers["live"][id_] is not None and answers["shadow"][id_] is not None
    )
    pairs = rule.differences([answers["live"][id_] for id_ in ids], [answers["shadow"][id_] for id_ in ids])
    live_metrics: dict[str, float] = {}
    shadow_metrics: dict[str, float] = {}
    labelled: list[str] = []
    if label:
        labels = _labels(storage, endpoint, label)
        labelled = [id_ for id_ in ids if isinstance(labels.get(id_), float)]
        truth = [float(labels[id_]) for id_ in labelled]
        is_binary = bool(truth) and set(truth) <= {0.0, 1.0}
        live_metrics = rule.metrics([answers["live"][i] for i in labelled], truth, is_binary=is_binary)
        shadow_metrics = rule.metrics([answers["shadow"][i] for i in labelled], truth, is_binary=is_binary)
    return Comparison(
        endpoint=endpoint,
        live=live,
        shadow=shadow,
        output=column.removeprefix(PREFIX),
        pair_count=pairs.count,
        unpaired_count=len(since - answers["shadow"].keys()),
        difference_mean=pairs.mean,
        difference_abs_mean=pairs.abs_mean,
        difference_abs_max=pairs.abs_max,
        labelled_count=len(labelled),
        live_metrics=live_metrics,
        shadow_metrics=shadow_metrics,
    )


def _first(rows: pa.Table, model: str) -> int | None:
    part = rows.filter(
        pc.and_(pc.equal(rows.column("prediction_model"), model), rows.column("prediction_is_shadow"))
    )
    if not part.num_rows:
        return None
    return pc.min(pc.cast(part.column("prediction_served_at"), pa.int64())).as_py()  # type: ignore[no-any-return]


def _column(rows: pa.Table, endpoint: str, output: str) -> str:
    known = [name for name in rows.column_names if name.startswith(PREFIX)]
    if output:
        if PREFIX + output not in known:
            outputs = [name.removeprefix(PREFIX) for name in known]
            raise Refused(
                f"endpoint '{endpoint}' has no output '{output}'",
                ways_on=did_you_mean(output, outputs, what="outputs"),
            )
        return PREFIX + output
    numeric = [
        name
        for name in known
        if pa.types.is_floating(rows.schema.field(name).type)
        or pa.types.is_integer(rows.schema.field(name).type)
    ]
    if len(numeric) == 1:
        return str(numeric[0])
    raise Refused(
        f"endpoint '{endpoint}' has {len(numeric)} outputs that are numbers",
        ways_on=["name the one to compare: output=" + " or ".join(n.removeprefix(PREFIX) for n in numeric)],
    )


def _labels(storage: Storage, endpoint: str, name: str) -> dict[str, float | str]:
    """The last word on each prediction: by the time it speaks of, then by its arrival."""
    try:
        told = storage.read(feedback_table(endpoint))
    except NotFound:
        return {}
    names = sorted(set(told.column("name").to_pylist()))
    if name not in names:
        raise Refused(
            f"no feedback of endpoint '{endpoint}' is named '{name}'",
            ways_on=did_you_mean(name, names, what="feedback"),
        )
    ordered = told.filter(pc.equal(told.column("name"), name)).sort_by(
        [("at", "ascending"), ("received_at", "ascending")]
    )
    found: dict[str, float | str] = {}
    for id_, number, text in zip(
        *(ordered.column(column).to_pylist() for column in ("prediction_id", "number", "text")), strict=True
    ):
        value = text if number is None else number
        if value is not None:
            found[id_] = value
    return found
