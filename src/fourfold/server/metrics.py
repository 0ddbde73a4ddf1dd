"""Counts and times of requests, in the words of OpenMetrics."""

from __future__ import annotations

from collections import defaultdict
from threading import Lock

BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Metrics:
    """A counter by route and status, and a histogram by route. Bounded: routes and statuses are few."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)

    def observe(self, name: str, status: int, took_s: float) -> None:
        """Count one answered request."""
        bucket = next((i for i, bound in enumerate(BUCKETS_S) if took_s <= bound), len(BUCKETS_S))
        with self._lock:
            self._counts[name, status] += 1
            self._buckets[name][bucket] += 1
            self._sums[name] += took_s

    def text(self) -> str:
        """All of it, in OpenMetrics text."""
        with self._lock:
            counts = sorted(self._counts.items())
            buckets = sorted((name, list(row)) for name, row in self._buckets.items())
            sums = dict(self._sums)
        lines = [
            "# TYPE fourfold_http_requests counter",
            "# HELP fourfold_http_requests Requests answered, by route and status.",
            *(
                f'fourfold_http_requests_total{{route="{name}",status="{status}"}} {count}'
                for (name, status), count in counts
            ),
            "# TYPE fourfold_http_request_seconds histogram",
            "# UNIT fourfold_http_request_seconds seconds",
            "# HELP fourfold_http_request_seconds Time from a request's arrival to its answer, by route.",
        ]
        for name, row in buckets:
            seen = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), row, strict=True):
                seen += count
                lines.append(f'fourfold_http_request_seconds_bucket{{route="{name}",le="{bound}"}} {seen}')
            lines.append(f'fourfold_http_request_seconds_count{{route="{name}"}} {seen}')
            lines.append(f'fourfold_http_request_seconds_sum{{route="{name}"}} {sums[name]:.6f}')
        return "\n".join([*lines, "# EOF", ""])
