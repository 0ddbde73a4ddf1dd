"""What hosting speaks of: endpoints, deployments, predictions, feedback.

An *endpoint* is a name that answers predictions. A *deployment* puts one model version behind it, on the
duty `live` (it answers) or `shadow` (it gets a copy of each request, and only the log sees its answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fourfold.core.context import Ref
from fourfold.core.times import Instant

Scalar = bool | int | float | str | None
"""One value of a row. In JSON, instants are ISO 8601 text, and NaN and infinities are the text `"NaN"`,
`"Infinity"`, `"-Infinity"`."""


class Missing(StrEnum):
    """What an endpoint does with an entity that its feature service has never seen."""

    nulls = "nulls"
    """Predict with nulls; the prediction says which features were missing."""
    refuse = "refuse"
    """Refuse the request, naming the entity."""


class Duty(StrEnum):
    """What a deployment does behind its endpoint."""

    live = "live"
    shadow = "shadow"


class Phase(StrEnum):
    """Where a deployment stands."""

    wanted = "wanted"
    """Asked for; the gateway has not begun."""
    starting = "starting"
    """Its worker process is starting."""
    warming = "warming"
    """The worker has loaded the model and replays the stored example."""
    serving = "serving"
    """It answers (`live`) or watches (`shadow`)."""
    restarting = "restarting"
    """Its worker ended; a new one is started after a pause. Requests wait, within their deadline."""
    draining = "draining"
    """Replaced; it finishes what it has begun."""
    stopped = "stopped"
    failed = "failed"
    """It never became ready; what was live before stays live."""

    @property
    def is_over(self) -> bool:
        return self in {Phase.stopped, Phase.failed}


class Health(StrEnum):
    """An endpoint's state in one word."""

    ready = "ready"
    starting = "starting"
    degraded = "degraded"
    """The live worker is being restarted."""
    crash_looping = "crash_looping"
    """The live worker ends again and again; restarts go on, with the longest pause."""
    failed = "failed"
    stopped = "stopped"
    unreachable = "unreachable"
    """No gateway runs in this project now."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Everything that may be set on an endpoint; the defaults suit a laptop."""

    features: str = ""
    """The feature service looked up at prediction time; empty: requests carry all the model's columns."""
    missing: Missing = Missing.nulls
    batch_rows_max: int = 64
    """The most rows that are sent to the worker at once."""
    queue_rows_max: int = 2048
    """The most rows that wait; beyond it requests are answered 503 with `Retry-After`."""
    request_rows_max: int = 1024
    """The most rows in one request; more belong into `predict_table`."""
    deadline_s: float = 5.0
    """How long a request may take when it does not say (header `X-Request-Timeout-S`)."""
    log: bool = True
    """Whether predictions are written to the table `predictions.<endpoint>`."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model version behind an endpoint."""

    id: str
    endpoint: str
    model: str
    """`name/number` of the model version."""
    duty: Duty
    phase: Phase
    reason: str
    """Why it is in this phase, in words."""
    created_at: Instant
    changed_at: Instant
    features: str = ""
    """The feature service that it reads, `name@version`; empty where requests carry all columns."""
    by: str = ""
    crash_count: int = 0

    @property
    def model_name(self) -> str:
        return self.model.rpartition("/")[0]

    @property
    def model_version(self) -> str:
        return self.model.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an endpoint has done since its gateway started; latencies over the last 2048 requests."""

    request_count: int = 0
    row_count: int = 0
    error_count: int = 0
    """Requests that failed for a reason of ours (5xx)."""
    refused_count: int = 0
    """Requests refused for a reason of theirs (4xx)."""
    shed_count: int = 0
    """Requests given up: the queue was full, or their deadline could not be met."""
    retried_count: int = 0
    """Rows sent a second time because a worker died under them."""
    queue_rows: int = 0
    log_dropped_count: int = 0
    """Rows that the prediction log had no room for."""
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    batch_rows_mean: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A name that answers predictions."""

    name: str
    health: Health
    reason: str
    settings: EndpointSettings
    live: Deployment | None = None
    shadow: Deployment | None = None
    url: str = ""
    """Where it answers now; empty when no gateway runs."""
    traffic: Traffic = Traffic()
    created_at: Instant = Instant(0)

    @property
    def ref(self) -> Ref:
        return Ref("endpoint", self.name)

    @property
    def predictions_table(self) -> str:
        return predictions_table(self.name)

    @property
    def feedback_table(self) -> str:
        return feedback_table(self.name)


def predictions_table(endpoint: str) -> str:
    """The table that logs an endpoint's predictions.

    >>> predictions_table("delays")
    'predictions.delays'
    """
    return f"predictions.{endpoint}"


def feedback_table(endpoint: str) -> str:
    """The table that keeps what was later learned about an endpoint's predictions."""
    return f"feedback.{endpoint}"


@dataclass(frozen=True, slots=True)
class HostingEvent:
    """Something that happened to an endpoint, with its reason."""

    at: Instant
    endpoint: str
    deployment: str
    """Identifier of the deployment; empty for the endpoint itself."""
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row's answer. `id` joins it with the log, the features as served, and feedback."""

    id: str
    endpoint: str
    model: str
    """`name/number` of the model version that answered."""
    outputs: Mapping[str, Scalar]
    t: Instant
    """The time at which features were looked up."""
    watermark: int | None = None
    """The highest sequence number of pushed events that the features had seen."""
    missing: tuple[str, ...] = ()
    """Features that were null because their entity was not known."""

    @property
    def value(self) -> Scalar:
        """The output, when there is exactly one."""
        (value,) = self.outputs.values()
        return value


@dataclass(frozen=True, slots=True)
class Gateway:
    """The process that answers for all endpoints of a project."""

    id: str
    url: str
    pid: int
    started_at: Instant
    seen_at: Instant


@dataclass(frozen=True, slots=True)
class Scored:
    """What a batch prediction wrote."""

    model: str
    table: str
    """The table read."""
    table_version: int
    out: str
    out_version: int
    row_count: int
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A shadow beside the live version, on the same requests."""

    endpoint: str
    live: str
    shadow: str
    output: str
    """The output compared."""
    pair_count: int
    """Requests that both answered."""
    unpaired_count: int
    """Requests that only the live version answered (a shadow never delays them, so it may miss some)."""
    difference_mean: float | None
    difference_abs_mean: float | None
    difference_abs_max: float | None
    labelled_count: int = 0
    """Pairs for which feedback arrived."""
    live_metrics: Mapping[str, float] = field(default_factory=dict)
    shadow_metrics: Mapping[str, float] = field(default_factory=dict)
