"""What a feature is: entities, sources, views, services; and what reads, pushes and audits answer.

A *source* is a table of events. A *view* turns the events of one source into features of one entity:
the latest value of a column, an aggregation over a window of time, or an expression over these. A
*service* is the list of features that one model needs. Definitions are versioned by their content:
change the meaning and the version changes; change the owner or the words and it does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from fourfold.core.times import Instant

Scalar = bool | int | float | str | None
"""A feature's value or an entity's key. Times are integers: microseconds UTC."""

EXACT_HOP_US = 0
"""The hop of a window that slides without steps."""

FORMAT = 1


Function = Literal["sum", "count", "mean", "min", "max"]
"""What a window computes over the values of its column that are not null."""


class Kind(StrEnum):
    """The type of a column or a feature."""

    int = "int"
    float = "float"
    bool = "bool"
    string = "string"
    time = "time"


@dataclass(frozen=True, slots=True)
class Entity:
    """What features describe: an airport, a customer, a (user, device) pair."""

    name: str
    keys: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A table of events that never change: each happened at `time` and became known at `available_at`.

    `event_id` names the columns that together identify an event: a repeat is ignored.
    """

    name: str
    table: str
    time: str
    event_id: tuple[str, ...]
    available_at: str = ""
    """Column with the moment the event became known; empty says: known when it happened (`time`)."""

    @property
    def known(self) -> str:
        """The column that says when an event became known."""
        return self.available_at or self.time


@dataclass(frozen=True, slots=True)
class Latest:
    """The column's value in the newest event at or before t."""

    name: str
    column: str


@dataclass(frozen=True, slots=True)
class Window:
    """An aggregation over the events in `[floor(t - length, hop), t)` that satisfy `where`."""

    name: str
    function: Function
    column: str
    """Empty for a `count` of events."""
    length_us: int
    hop_us: int = EXACT_HOP_US
    where: str = ""


@dataclass(frozen=True, slots=True)
class Expression:
    """A SQL expression over other features of the same view."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class View:
    """Features of one entity, computed from one source."""

    name: str
    entity: Entity
    source: Source
    latest: tuple[Latest, ...] = ()
    windows: tuple[Window, ...] = ()
    expressions: tuple[Expression, ...] = ()
    ttl_us: int = 0
    """Latest values older than this are null; 0 keeps them for ever."""
    lag_us: int = 0
    """How far behind the newest event an online read may ask: so long raw events are kept."""
    owner: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        features: tuple[Latest | Window | Expression, ...] = self.latest + self.windows + self.expressions
        return tuple(feature.name for feature in features)

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of the digest of what the view means."""
        from fourfold.core.wire import encode  # here, so that definitions import nothing heavy

        meaning = (
            FORMAT, self.name, self.entity.keys, self.source.table, self.source.time, self.source.known,
            self.source.event_id, self.latest, self.windows, self.expressions, self.ttl_us, self.lag_us,
        )  # fmt: skip
        return hashlib.sha256(encode(meaning)).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Pick:
    """One feature of a view, under the name that the service gives it."""

    feature: str
    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """Which column of the request or the labels holds an entity's key."""

    key: str
    column: str


@dataclass(frozen=True, slots=True)
class Use:
    """A view as a service uses it: which features under which names, with keys from which columns."""

    view: str
    picks: tuple[Pick, ...]
    keys: tuple[Key, ...]
    version: str
    """The view's version that the service was written against."""


@dataclass(frozen=True, slots=True)
class FeatureService:
    """The features that one model needs, in order; `request` columns are passed through."""

    name: str
    uses: tuple[Use, ...]
    request: tuple[str, ...] = ()
    owner: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the looked-up features, in the order of the vector."""
        return tuple(pick.name for use in self.uses for pick in use.picks)

    @property
    def names(self) -> tuple[str, ...]:
        """What a model gets: the request's columns, then the features."""
        return self.request + self.feature_names

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns that a request must bring to find its entities, each once."""
        return tuple(dict.fromkeys(key.column for use in self.uses for key in use.keys))

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of the digest of the list of features."""
        from fourfold.core.wire import encode

        return hashlib.sha256(encode((FORMAT, self.name, self.uses, self.request))).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Definitions:
    """What `apply` takes: views (with their entities and sources inside) and services."""

    views: tuple[View, ...] = ()
    services: tuple[FeatureService, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did; names with versions, `name@version`."""

    created: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """A view as listed, with the type of each feature."""

    view: View
    version: str
    kinds: Mapping[str, Kind]
    applied_at: Instant
    is_current: bool


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service as listed."""

    service: FeatureService
    version: str
    kinds: Mapping[str, Kind]
    applied_at: Instant
    is_current: bool


class Join(StrEnum):
    """How a training set looks at the past."""

    point_in_time = "point_in_time"
    """Only what was known at each row's time: `available_at <= t`."""
    naive = "naive"
    """Event times only, as if everything were known when it happened. It leaks; kept to show the leak."""


@dataclass(frozen=True, slots=True)
class TrainingSetInfo:
    """The record of a training set: the same fingerprint is the same rows."""

    fingerprint: str
    service: str
    service_version: str
    join: Join
    labels_digest: str
    table_versions: Mapping[str, int]
    rows: int
    columns: tuple[str, ...]
    made_at: Instant
    seconds: float = 0.0
    is_cached: bool = False
    types: tuple[str, ...] = ()
    """Of the columns, in Arrow's words; empty in records of before they were kept."""


class Status(StrEnum):
    """How a served feature came about."""

    present = "present"
    missing = "missing"
    """Nothing is known of this entity at t (a count says 0, everything else null)."""
    expired = "expired"
    """The newest event is older than the view's `ttl`."""
    too_old = "too_old"
    """t lies further back than the view's `lag`: the raw events are gone. The value is null."""
    overflow = "overflow"
    """An integer sum does not fit 64 bits. The value is null."""


@dataclass(frozen=True, slots=True)
class Vector:
    """Feature values of one row, in the order of the service's `feature_names`, and how each came about."""

    values: tuple[Scalar, ...]
    statuses: tuple[Status, ...]


@dataclass(frozen=True, slots=True)
class Vectors:
    """An online answer: what events with `event_time < at` and `sequence <= watermark` say."""

    service: str
    version: str
    names: tuple[str, ...]
    rows: tuple[Vector, ...]
    at: Instant
    watermark: int
    kinds: tuple[Kind, ...] = ()
    """The type of each name: where it is a float, the texts `NaN`, `Infinity`, `-Infinity` are numbers."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did with each event. `watermark` is the sequence number of the last event applied."""

    source: str
    events: int
    applied: int
    duplicates: int
    null_keys: int
    """Events of which a view could not tell the entity, or whose time or id is null."""
    too_late: int
    """Applied events older than anything a view still answers for: recorded, but without effect online."""
    watermark: int


@dataclass(frozen=True, slots=True)
class Materialized:
    """What `materialize` applied from a source's table."""

    source: str
    table_version: int
    events: int
    applied: int
    duplicates: int
    null_keys: int
    watermark: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the online side is behind: what was known, but not applied yet."""

    source: str
    newest_event_at: Instant | None
    newest_available_at: Instant | None
    events_waiting: int
    applied: int
    duplicates: int
    null_keys: int
    too_late: int
    buffered: int
    """Pushed events that are not in the source's table yet."""


@dataclass(frozen=True, slots=True)
class FeatureAudit:
    """One feature's served values against the recomputed ones."""

    feature: str
    rows: int
    equal: int
    mismatched: int
    missing: int
    """Served null where the recomputation has a value."""
    extra: int
    """Served a value where the recomputation has null."""
    greatest_difference: float
    example: str = ""
    """The first difference in words, empty where there is none."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Served against recomputed: equal in the exact sense (integers exactly, floats within 1e-9 of Σ|x|)."""

    service: str
    version: str
    rows: int
    skipped: int
    """Served rows that could not be recomputed (no time or watermark)."""
    features: tuple[FeatureAudit, ...]
    freshness: tuple[Freshness, ...]
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether every value of every feature was equal."""
        return all(f.equal == f.rows for f in self.features)

    @property
    def equal_share(self) -> float:
        """The share of values that were equal; 1.0 where nothing was served."""
        total = sum(f.rows for f in self.features)
        return sum(f.equal for f in self.features) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Contribution:
    """One event that went into a value."""

    event_id: str
    event_at: Instant
    available_at: Instant
    value: float | str | bool | int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a feature's value was made of. `start` and `end` bound the window; `end` is exclusive."""

    feature: str
    value: float | str | bool | int | None
    start: Instant | None
    end: Instant
    event_count: int
    contributions: tuple[Contribution, ...]
    """The newest first, bounded; `event_count` counts all."""
    table_version: int
    sql: str = ""
    """The expression, where the feature is one; its inputs' events are the contributions."""
    inputs: Mapping[str, float | str | bool | int | None] = field(default_factory=dict)
