"""A feature service compiled for reading: one record per (entity, view), and most need only their head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fourfold.core.errors import Refused, Unavailable, did_you_mean
from fourfold.core.features import FeatureService, Scalar, Status, Vector
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.online import OnlineReader, OnlineStore, Space
from fourfold.core.times import Instant
from fourfold.mlplatform.features.columns import check_key, encode_key, store_key
from fourfold.mlplatform.features.ingest import Ingest
from fourfold.mlplatform.features.state import Program, Reading, decode_statuses

MOST_ENTITIES = 100_000
"""Rows of keys in one read."""

MOST_CACHED = 4096
"""Readings kept per view for entities whose head does not hold at t."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One view of the service: where its keys are, and which of its features go on."""

    program: Program
    columns: tuple[str, ...]
    picks: tuple[int, ...]
    is_whole: bool
    """All features in the view's own order: nothing to pick."""
    cache: dict[bytes, tuple[int, int, Reading]]


class ServicePlan:
    """Fulfils `core.services.features.Plan`."""

    def __init__(
        self,
        service: FeatureService,
        programs: Mapping[str, Program],
        store: OnlineStore,
        ingest: Ingest,
        clock: Clock,
    ) -> None:
        self._service = service
        self._version = service.version
        self._store = store
        self._ingest = ingest
        self._clock = clock
        self._steps = []
        for use in service.uses:
            program = programs[use.version]
            columns = {key.key: key.column for key in use.keys}
            names = program.view.feature_names
            picks = tuple(names.index(pick.feature) for pick in use.picks)
            self._steps.append(
                _Step(
                    program,
                    tuple(columns[key] for key in program.view.entity.keys),
                    picks,
                    picks == tuple(range(len(names))),
                    {},
                )
            )
        self.kinds = tuple(
            programs[use.version].kinds[pick.feature] for use in service.uses for pick in use.picks
        )
        self._present = (Status.present,) * len(self.names)
        self._fed_at = -1
        """The store's stamp at which every view was known to have all events."""

    @property
    def service(self) -> str:
        return self._service.name

    @property
    def version(self) -> str:
        return self._version

    @property
    def names(self) -> tuple[str, ...]:
        return self._service.feature_names

    @property
    def request(self) -> tuple[str, ...]:
        return self._service.request

    @property
    def key_columns(self) -> tuple[str, ...]:
        return self._service.key_columns

    def read(
        self, keys: Sequence[Mapping[str, Scalar]], at: Instant | None = None
    ) -> tuple[list[Vector], int]:
        if len(keys) > MOST_ENTITIES:
            raise Refused(
                f"{len(keys)} entities in one read; at most {MOST_ENTITIES}", ways_on=["read them in parts"]
            )
        t = self._clock.now() if at is None else at
        with self._store.read() as reader:
            stamp = self._ingest.stamp(reader)
            if stamp != self._fed_at:
                self._refuse_unfed(reader)
                self._fed_at = stamp
            watermark = self._ingest.watermark(reader)
            return [self._vector(reader, row, t) for row in keys], watermark

    def _vector(self, reader: OnlineReader, row: Mapping[str, Scalar], t: int) -> Vector:
        values: list[Scalar] = []
        statuses: list[Status] | None = None
        for step in self._steps:
            found, codes = self._look_up(reader, step, row, t)
            before = len(values)
            values.extend(found if step.is_whole else [found[pick] for pick in step.picks])
            if codes is not None or statuses is not None:
                if statuses is None:
                    statuses = [Status.present] * before
                statuses.extend(
                    [Status.present] * len(step.picks) if codes is None else [codes[p] for p in step.picks]
                )
        return Vector(tuple(values), self._present if statuses is None else tuple(statuses))

    def _look_up(
        self, reader: OnlineReader, step: _Step, row: Mapping[str, Scalar], t: int
    ) -> tuple[tuple[Scalar, ...], tuple[Status, ...] | None]:
        program = step.program
        key = self._key(step, row)
        if key is None:
            return program.null_key.values, program.null_key.statuses
        record = reader.get(Space.state, key)
        if record is None:
            return program.unknown.values, program.unknown.statuses
        revision, start, until, values, codes = program.head(record)
        if start <= t < until:
            return values, None if codes is None else decode_statuses(codes, len(values))
        cached = step.cache.get(key)
        if cached is not None and cached[0] == revision and cached[1] <= t < cached[2].until:
            return cached[2].values, cached[2].statuses
        reading = program.evaluate(program.state(record), t)
        if len(step.cache) >= MOST_CACHED:
            step.cache.clear()
        step.cache[key] = (revision, t, reading)
        return reading.values, reading.statuses

    def _key(self, step: _Step, row: Mapping[str, Scalar]) -> bytes | None:
        program = step.program
        values = []
        for column, kind in zip(step.columns, program.key_kinds, strict=True):
            if column not in row:
                raise Refused(
                    f"service '{self.service}' needs the key '{column}'",
                    ways_on=did_you_mean(column, row, what="given"),
                    column=column,
                )
            value = check_key(row[column], kind, column=column)
            if value is None:
                return None
            values.append(value)
        return program.prefix + store_key(encode_key(values))

    def _refuse_unfed(self, reader: OnlineReader) -> None:
        """Refuse while a view lacks the events that came before it was defined."""
        for step in self._steps:
            view = step.program.view
            if self._ingest.needs_backfill(reader, step.program):
                raise Unavailable(
                    f"view '{view.name}@{view.version}' has not read all events of source "
                    f"'{view.source.name}'",
                    ways_on=[
                        "run materialize",
                        f"or, if the view was changed since, apply service '{self.service}' again",
                    ],
                    view=view.name,
                )
