"""What the steps found, as the plain JSON that the page is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from examples.flights.features import service
from examples.flights.report import Summary
from examples.flights.scores import Score
from examples.flights.steps.audit import Audited
from examples.flights.steps.decide import RULE, Decision
from examples.flights.steps.evaluate import Evaluation
from examples.flights.steps.join import Joined
from examples.flights.steps.replay import Replayed
from examples.flights.steps.train import Fitted

from fourfold.core.compute import Job
from fourfold.core.flows import CallKind, CallState, Graph, StepCall
from fourfold.core.hosting import Scored
from fourfold.core.storage import TableVersion
from fourfold.core.times import Instant, seconds_between

LATENCY_BINS = 28


def data(schedule: pa.Table, tables: Iterable[TableVersion], late_after_min: int) -> Summary:
    """The flights as they are: how many, what became of them, and how late by the hour."""
    outcomes = {one["values"]: one["counts"] for one in pc.value_counts(schedule["outcome"]).to_pylist()}
    landed = schedule.filter(pc.is_valid(schedule["arr_delay_min"]))
    late = pc.cast(pc.greater(landed["arr_delay_min"], late_after_min), pa.float64())
    hours = landed.append_column("late", late).group_by("hour").aggregate(
        [("late", "count"), ("late", "mean"), ("arr_delay_min", "mean")]
    )  # fmt: skip
    versions = {one.name.removeprefix("flights."): one for one in tables}
    return {
        "flights": schedule.num_rows,
        **{what: outcomes.get(what, 0) for what in ("landed", "cancelled", "diverted")},
        "late_share": pc.mean(late).as_py(),
        "weather": versions["weather"].rows,
        "planes": versions["planes"].rows,
        "tables": [_version(one) for one in versions.values()],
        "by_hour": [
            {
                "hour": one["hour"],
                "flights": one["late_count"],
                "late_share": one["late_mean"],
                "delay_min": one["arr_delay_min_mean"],
            }
            for one in hours.sort_by("hour").to_pylist()
        ],
    }


def features(version: str) -> Summary:
    """What is looked up for each flight, view by view."""
    views = [handle.view for handle in service.views]
    return {
        "service": service.name,
        "version": version,
        "count": sum(len(view.feature_names) for view in views),
        "views": [
            {
                "name": view.name,
                "entity": view.entity.name,
                "source": view.source.name,
                "features": list(view.feature_names),
                "words": view.description,
            }
            for view in views
        ],
    }


def training_set(joined: Joined) -> Summary:
    """A training set, and what makes it the same again."""
    return {
        "rows": joined.table.rows,
        "entity_rows": joined.entity_rows,
        "fingerprint": joined.fingerprint,
        "seconds": joined.seconds,
        "table": _version(joined.table),
    }


def sweep(tried: Sequence[Fitted], best: Fitted) -> list[Summary]:
    """Each recipe with its figures on the validation days."""
    return [
        {
            "recipe": one.recipe.name,
            "rows": one.rows,
            "fit_s": one.fit_s,
            "is_best": one.recipe == best.recipe,
            "score": one.score,
        }
        for one in tried
    ]


def evaluation(found: Evaluation, *, model: str, days: str) -> Summary:
    """The chosen model on the test days."""
    return {
        "model": model,
        "days": days,
        "score": found.score,
        "calibration": found.calibration,
        "by_hour": found.by_hour,
    }


def leak(found: Evaluation) -> Summary:
    """What each way of joining promises and keeps."""
    return {"point_in_time": asdict(found.point_in_time), "naive": asdict(found.naive)}


def batch(scored: Scored) -> Summary:
    """What the batch prediction wrote."""
    return {
        "table": scored.out,
        "version": scored.out_version,
        "rows": scored.row_count,
        "seconds": scored.row_count / scored.rows_per_s if scored.rows_per_s else 0.0,
    }


def replay(replayed: Replayed, asked: pa.Table, decision: Decision, day: date) -> Summary:
    """The live day: traffic, latency, and how the champion did."""
    took = asked["latency_ms"].to_numpy()
    return {
        "day": f"{day.day} {day:%B %Y}",
        "endpoint": replayed.endpoint,
        "requests": replayed.requests,
        "errors": replayed.errors,
        "events": replayed.events,
        "filled_s": replayed.filled_s,
        "wall_s": replayed.wall_s,
        "latency_ms": {f"p{q}": float(np.percentile(took, q)) for q in (50, 90, 99)}
        | {"max": float(took.max())},
        "latencies": _bins(took),
        "score": decision.champion,
        "by_hour": decision.by_hour,
    }


def parity(audited: Audited) -> Summary:
    """Online against offline, feature by feature."""
    report = audited.report
    wanted = ("feature", "rows", "equal", "mismatched", "missing", "extra", "greatest_difference", "example")
    return {
        "rows": report.rows,
        "skipped": report.skipped,
        "is_equal": report.is_equal,
        "values": sum(one.rows for one in report.features),
        "mismatches": sum(one.rows - one.equal for one in report.features),
        "features": [{name: getattr(one, name) for name in wanted} for one in report.features],
        "batch_rows": audited.answers,
        "batch_difference": audited.greatest_difference,
    }


def challenger(replayed: Replayed, decision: Decision, rows: Mapping[str, int]) -> Summary:
    """Both versions on the same requests, and the decision."""

    def side(model: str, score: Score) -> Summary:
        return {"model": model, "trained_rows": rows[model], "score": score}

    return {
        "champion": side(replayed.champion, decision.champion),
        "challenger": side(replayed.challenger, decision.challenger),
        "shadowed": replayed.comparison.pair_count,
        "missed": replayed.comparison.unpaired_count,
        "pairs": decision.pairs,
        "difference": decision.difference,
        "interval": list(decision.interval),
        "rule": RULE,
        "is_promoted": decision.is_promoted,
        "reason": decision.reason,
    }


def flow(graph: Graph, jobs: Iterable[Job], now: Instant) -> Summary:
    """The run so far: each step with its times, its use, its cost and what bounds it."""
    began = graph.run.started_at or graph.run.created_at
    told = {job.report.key: job.account.sentence for job in jobs}
    calls = [
        _call(call, graph, told, began)
        for call in graph.calls
        if call.kind is CallKind.step and not call.state.is_open
    ]
    return {
        "run": graph.run.id,
        "wall_s": seconds_between(began, now),
        "cpu_s": sum(one["cpu_s"] or 0.0 for one in calls),
        "cost_usd": sum(one["cost_usd"] for one in calls),
        "calls": calls,
    }


def _call(call: StepCall, graph: Graph, told: Mapping[str, str], began: Instant) -> Summary:
    attempts = [one for one in graph.attempts if one.call == call.key and one.ended_at is not None]
    name = call.key.split("#")[0].replace(":", " ").replace("_", " ")
    last = attempts[-1] if attempts else None
    is_cached = call.state is CallState.cached
    start = last.started_at if last is not None and last.started_at is not None else call.created_at
    return {
        "key": call.key,
        "name": name if call.key.endswith("#0") or ":" in call.key else f"{name} {call.key.split('#')[1]}",
        "after": list(call.deps),
        "is_cached": is_cached,
        "started_s": seconds_between(began, start),
        "wall_s": sum(one.usage.wall_s for one in attempts),
        "cpu_s": None if last is None else last.usage.cpu_s,
        "memory_bytes": None if last is None else last.usage.memory_peak_bytes,
        "utilisation": None if last is None else last.utilisation,
        "cost_usd": sum(one.cost_nanousd for one in attempts) / 1e9,
        "words": told.get(last.key, "") if last is not None else f"as in {call.cached_from.split('/')[0]}",
    }


def _version(one: TableVersion) -> Summary:
    return {"name": one.name, "version": one.version, "rows": one.rows}


def _bins(took_ms: np.ndarray) -> list[Summary]:
    """Latencies in bins that grow by a factor, from the quickest to the slowest."""
    edges = np.geomspace(took_ms.min() * 0.98, took_ms.max() * 1.02, LATENCY_BINS + 1)
    counts, _ = np.histogram(took_ms, edges)
    return [
        {"ms_from": float(low), "ms_to": float(high), "requests": int(count)}
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
