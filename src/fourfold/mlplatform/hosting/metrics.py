"""The gateway's figures as OpenMetrics text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourfold.mlplatform.hosting.running import RunningEndpoint

CONTENT_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

COUNTERS = (
    ("requests", "request_count", "Requests answered."),
    ("rows", "row_count", "Rows answered."),
    ("errors", "error_count", "Requests that failed for a reason of ours."),
    ("refused", "refused_count", "Requests refused for a reason of theirs."),
    ("shed", "shed_count", "Requests given up: queue full, or deadline out of reach."),
    ("retried_rows", "retried_count", "Rows sent a second time because a worker died under them."),
    ("log_dropped_rows", "log_dropped_count", "Rows that the prediction log had no room for."),
)


def text(endpoints: Iterable[RunningEndpoint]) -> bytes:
    """All endpoints' figures; one family after the other, as the format wants it."""
    told = [
        (
            f'endpoint="{_escaped(each.name)}"',
            each.live.deployment.model if each.live is not None else "",
            str(each.health()[0]),
            each.traffic(),
            each.log.row_count,
        )
        for each in sorted(endpoints, key=lambda one: one.name)
    ]
    lines: list[str] = []
    for name, attribute, words in COUNTERS:
        lines += [f"# TYPE fourfold_endpoint_{name} counter", f"# HELP fourfold_endpoint_{name} {words}"]
        lines += [
            f"fourfold_endpoint_{name}_total{{{label}}} {getattr(traffic, attribute)}"
            for label, _, _, traffic, _ in told
        ]
    lines += [
        "# TYPE fourfold_endpoint_latency_seconds summary",
        "# UNIT fourfold_endpoint_latency_seconds seconds",
        "# HELP fourfold_endpoint_latency_seconds Latency of the last requests.",
    ]
    for label, _, _, traffic, _ in told:
        for share, value_ms in (("0.5", traffic.latency_ms_p50), ("0.99", traffic.latency_ms_p99)):
            if value_ms is not None:
                lines.append(
                    f'fourfold_endpoint_latency_seconds{{{label},quantile="{share}"}} {value_ms / 1000:.9g}'
                )
    for name, words, values in (
        ("queue_rows", "Rows that wait.", [traffic.queue_rows for *_, traffic, _ in told]),
        ("log_rows", "Rows of the log that wait to be written.", [rows for *_, rows in told]),
    ):
        lines += [f"# TYPE fourfold_endpoint_{name} gauge", f"# HELP fourfold_endpoint_{name} {words}"]
        lines += [
            f"fourfold_endpoint_{name}{{{label}}} {value}"
            for (label, *_), value in zip(told, values, strict=True)
        ]
    lines += [
        "# TYPE fourfold_endpoint info",
        "# HELP fourfold_endpoint The live model version and the endpoint's health.",
    ]
    lines += [
        f'fourfold_endpoint_info{{{label},model="{_escaped(model)}",health="{health}"}} 1'
        for label, model, health, _, _ in told
    ]
    return ("\n".join([*lines, "# EOF"]) + "\n").encode()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
