"""The hosting service: writes what is wanted, asks the gateway, reads what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, FourfoldError, NotFound, Refused, TimedOut, Unavailable
from fourfold.core.hosting import (
    Comparison,
    Deployment,
    Duty,
    Endpoint,
    EndpointSettings,
    Gateway,
    Health,
    HostingEvent,
    Phase,
    Prediction,
    Scalar,
    Scored,
    Traffic,
)
from fourfold.core.models import ModelVersion, refusal
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine
from fourfold.core.ports.gateway import GatewayClient, HttpServer
from fourfold.core.ports.model_worker import WorkerDoor
from fourfold.core.services.features import Features
from fourfold.core.services.models import Models
from fourfold.core.services.storage import Storage
from fourfold.core.storage import table_name
from fourfold.core.times import Instant
from fourfold.mlplatform.hosting import comparing
from fourfold.mlplatform.hosting.homes import Homes
from fourfold.mlplatform.hosting.host import GatewayHost
from fourfold.mlplatform.hosting.tables import HostingTables

if TYPE_CHECKING:
    from fourfold.mlplatform.hosting.gateway import GatewayParts
    from fourfold.mlplatform.models.loading import LoadedModel

T = TypeVar("T")

WAIT_STEP_S = 0.05
EVENTS_MAX = 10_000
READY_S = 30.0
"""How long an endpoint may take to come back with a gateway."""


@dataclass(frozen=True, slots=True)
class Local:
    """What only the machine that holds the project has: engine, doors, the models' homes."""

    engine: Engine
    """An engine of hosting's own (its folder is not the loop's, whose `reap` would end our workers)."""
    homes: Homes
    door: Callable[[], WorkerDoor]
    http: Callable[[], HttpServer]
    load: Callable[[str], LoadedModel]
    """A model version in this process, for batch predictions."""
    project: Path
    """The project's folder: a gateway started as a process opens it."""


class HostingService:
    """Fulfils `core.services.hosting.Hosting` over the catalog, a gateway and its workers."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        storage: Storage,
        features: Features,
        models: Models,
        client: GatewayClient,
        clock: Clock,
        token: str,
        local: Local,
    ) -> None:
        self._tables = HostingTables(catalog)
        self._storage = storage
        self._features = features
        self._models = models
        self._client = client
        self._clock = clock
        self._token = token
        self._local = local
        self._url = ""
        self._host = GatewayHost(home=local.project, engine=local.engine, tables=self._tables, client=client)

    def gateway_parts(self) -> GatewayParts:
        """What a gateway in this process is made of."""
        from fourfold.mlplatform.hosting.gateway import GatewayParts

        return GatewayParts(
            tables=self._tables,
            models=self._models,
            features=self._features,
            storage=self._storage,
            engine=self._local.engine,
            homes=self._local.homes,
            door=self._local.door(),
            http=self._local.http(),
            client=self._client,
            clock=self._clock,
            token=self._token,
        )

    # What is wanted.

    def deploy(
        self,
        endpoint: str,
        model: str,
        *,
        settings: EndpointSettings | None = None,
        wait_s: float = 120.0,
    ) -> Endpoint:
        return self._want(endpoint, model, Duty.live, settings, wait_s)

    def shadow(self, endpoint: str, model: str, *, wait_s: float = 120.0) -> Endpoint:
        self._tables.endpoint(endpoint)
        if model:
            return self._want(endpoint, model, Duty.shadow, None, wait_s)
        self._tables.unwish(endpoint, [Duty.shadow], reason="the shadow was ended", now=self._clock.now())
        self._tell()
        self._wait_until_over(endpoint, [Duty.shadow], wait_s)
        return self.endpoint(endpoint)

    def stop(self, name: str) -> Endpoint:
        self._tables.endpoint(name)
        if self.gateway() is not None:
            self._flush_quietly(name)
        self._tables.unwish(name, list(Duty), reason="the endpoint was stopped", now=self._clock.now())
        self._tell()
        self._wait_until_over(name, list(Duty), 60.0)
        return self.endpoint(name)

    def _want(
        self, name: str, model: str, duty: Duty, settings: EndpointSettings | None, wait_s: float
    ) -> Endpoint:
        check_endpoint_name(name)
        version = self._deployable(model)
        present = self._present_settings(name)
        chosen = settings or present or EndpointSettings()
        check_settings(chosen)
        features = self._pinned(chosen.features)
        serving = self._tables.current().get((name, duty))
        is_same = (
            serving is not None
            and serving.phase is Phase.serving
            and (serving.model, serving.features) == (str(version), features)
            and chosen == present
        )
        self.start_gateway()
        if not is_same:
            made = self._tables.wish(
                name,
                model_name=version.name,
                model_number=version.number,
                duty=duty,
                settings=settings,
                features=features,
                now=self._clock.now(),
            )
            self._tell()
            self._wait_until_serving(made, wait_s)
        else:
            assert serving is not None
            self._wait_until_serving(serving, wait_s)
        context.record_read(version.ref)
        context.record_write(Ref("endpoint", name))
        return self.endpoint(name)

    def _deployable(self, model: str) -> ModelVersion:
        version = self._models.resolve(model)
        if version.missing:
            raise refusal(str(version), version.missing)
        return version

    def _pinned(self, features: str) -> str:
        """The feature service with its version, so that a deployment's meaning does not move."""
        if not features:
            return ""
        name, _, version = features.partition("@")
        return f"{name}@{self._features.service(name, version=version or None).version}"

    def _present_settings(self, name: str) -> EndpointSettings | None:
        try:
            return self._tables.endpoint(name).settings
        except NotFound:
            return None

    def _wait_until_serving(self, made: Deployment, wait_s: float) -> None:
        def reached() -> bool:
            found = self._tables.deployment(made.id)
            if found.phase is Phase.serving:
                return True
            if not found.phase.is_over:
                return False
            if found.reason.startswith("superseded"):
                raise Conflict(
                    f"deployment of {made.model} to '{made.endpoint}' was {found.reason}",
                    ways_on=[
                        "somebody deployed another version at the same time; deploy again if yours counts"
                    ],
                    deployment=made.id,
                )
            raise Refused(
                f"{made.model} did not get ready behind '{made.endpoint}': {found.reason}",
                ways_on=["what was live before stays live", f"see: fourfold endpoint show {made.endpoint}"],
                deployment=made.id,
            )

        self._wait(reached, wait_s, f"{made.model} behind '{made.endpoint}' is not ready")

    def _wait_until_over(self, name: str, duties: Sequence[Duty], wait_s: float) -> None:
        if self.gateway() is None:
            return  # nothing runs; the next gateway will not start what nobody wants
        wanted = set(duties)
        self._wait(
            lambda: all(
                each.duty not in wanted or each.phase.is_over for each in self._tables.deployments(name)
            ),
            wait_s,
            f"endpoint '{name}' did not stop",
        )

    def _wait(self, reached: Callable[[], bool], wait_s: float, what: str) -> None:
        # The machine's own clock: what is waited for is another process.
        end_s = time.monotonic() + wait_s
        while not reached():
            if time.monotonic() > end_s:
                raise TimedOut(f"{what} after {wait_s:g} s", ways_on=["allow more: wait_s=..."])
            time.sleep(WAIT_STEP_S)

    # How it stands.

    def endpoints(self) -> tuple[Endpoint, ...]:
        rows = self._tables.endpoints()
        current = self._tables.current()
        gateway = self.gateway()
        traffic: Mapping[str, tuple[str, str, Traffic]] = {}
        if gateway is not None:
            try:
                traffic = self._client.traffic(gateway.url)
            except Unavailable:
                gateway = None
        found = []
        for row in rows:
            live = current.get((row.name, Duty.live))
            health, reason = _health(live, gateway, traffic.get(row.name))
            told = traffic.get(row.name)
            found.append(
                Endpoint(
                    name=row.name,
                    health=health,
                    reason=reason,
                    settings=row.settings,
                    live=live,
                    shadow=current.get((row.name, Duty.shadow)),
                    url="" if gateway is None else f"{gateway.url}/endpoints/{row.name}",
                    traffic=Traffic() if told is None else told[2],
                    created_at=row.created_at,
                )
            )
        return tuple(found)

    def endpoint(self, name: str) -> Endpoint:
        self._tables.endpoint(name)  # says what exists, if this does not
        return next(each for each in self.endpoints() if each.name == name)

    def deployments(self, name: str) -> tuple[Deployment, ...]:
        self._tables.endpoint(name)
        return self._tables.deployments(name)

    def events(self, name: str, limit: int = 100) -> tuple[HostingEvent, ...]:
        if not 1 <= limit <= EVENTS_MAX:
            raise Refused(f"limit must be from 1 to {EVENTS_MAX}, not {limit}")
        self._tables.endpoint(name)
        return self._tables.events(name, limit=limit)

    # Predictions.

    def predict(
        self,
        endpoint: str,
        rows: Sequence[Mapping[str, Scalar]],
        *,
        t: Instant | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Prediction, ...]:
        return self._ask(
            lambda url: self._client.predict(url, endpoint, rows, t=t, deadline_s=deadline_s), endpoint
        )

    def feedback(
        self,
        endpoint: str,
        prediction: str,
        *,
        values: Mapping[str, Scalar],
        at: Instant | None = None,
    ) -> None:
        self._ask(lambda url: self._client.feedback(url, endpoint, prediction, values, at), endpoint)

    def flush(self, name: str) -> int:
        self._tables.endpoint(name)
        gateway = self.gateway()
        return 0 if gateway is None else self._client.flush(gateway.url, name)

    def compare(self, endpoint: str, *, output: str = "", label: str = "") -> Comparison:
        found = self.endpoint(endpoint)
        if found.shadow is None or found.live is None:
            raise Refused(
                f"endpoint '{endpoint}' has no shadow to compare",
                ways_on=["give it one: endpoint.shadow('model/2')"],
            )
        self._flush_quietly(endpoint)
        return comparing.compare(
            self._storage, endpoint, found.live.model, found.shadow.model, output=output, label=label
        )

    def predict_table(
        self,
        model: str,
        table: str,
        *,
        out: str,
        features: str = "",
        keep: tuple[str, ...] = (),
        where: Mapping[str, Scalar] | None = None,
        version: int | None = None,
        time_column: str = "",
        partition_by: tuple[str, ...] = (),
    ) -> Scored:
        from fourfold.mlplatform.hosting.scoring import Scoring, score

        resolved = self._models.resolve(model)
        loaded = self._local.load(str(resolved))
        context.record_read(resolved.ref)
        asked = Scoring(
            table=table,
            out=out,
            features=features,
            keep=tuple(keep),
            where=where,
            version=version,
            time_column=time_column,
            partition_by=tuple(partition_by),
        )
        return score(asked, loaded, storage=self._storage, features=self._features, now=self._clock.now())

    # The gateway.

    def gateway(self) -> Gateway | None:
        return self._host.running()

    def start_gateway(self, *, port: int = 0) -> Gateway:
        return self._host.start(port)

    def host_gateway(self, *, port: int = 0) -> Gateway:
        """Start the gateway as a child of this process, unless one runs: what `HostDoor` is given."""
        return self._host.start_here(port)

    def stop_gateway(self) -> None:
        self._host.stop()

    def close(self) -> None:
        """End the gateway if this process hosts it."""
        self._host.close()

    def _ask(self, call: Callable[[str], T], endpoint: str) -> T:
        """Ask the gateway; find it again, or start it, when nobody answers where it was."""
        if self._url:
            try:
                return call(self._url)
            except Unavailable as error:
                if "url" not in error.facts:  # it answered: the endpoint is what is unavailable
                    raise
        self._tables.endpoint(endpoint)
        was_running = self.gateway() is not None
        self._url = self.start_gateway().url
        if not was_running:  # its endpoints come back first
            live = self._tables.current().get((endpoint, Duty.live))
            if live is not None and not live.phase.is_over:
                self._wait(
                    lambda: self._client.traffic(self._url).get(endpoint, ("",))[0] == Health.ready,
                    READY_S,
                    f"endpoint '{endpoint}' is not ready",
                )
        return call(self._url)

    def _tell(self) -> None:
        """Let the gateway look at once; if it does not hear, it looks by itself soon."""
        found = self._tables.gateway()
        if found is not None:
            try:
                self._client.reconcile(found.url)
            except FourfoldError:
                return

    def _flush_quietly(self, name: str) -> None:
        try:
            self.flush(name)
        except Unavailable:
            return


def _health(
    live: Deployment | None, gateway: Gateway | None, told: tuple[str, str, Traffic] | None
) -> tuple[Health, str]:
    if gateway is not None and told is not None:
        health = Health(told[0])
        if health is not Health.stopped or live is None:
            return health, told[1]
    if live is None:
        return Health.stopped, "nothing is deployed"
    if live.phase is Phase.failed:
        return Health.failed, live.reason
    if live.phase is Phase.stopped:
        return Health.stopped, live.reason
    if gateway is None:
        return Health.unreachable, "no gateway runs; the next prediction or `fourfold up` starts it"
    return Health.starting, live.reason


def check_endpoint_name(name: str) -> str:
    """The name if it may name an endpoint: it becomes part of addresses and of two tables' names."""
    if (
        not name
        or len(name) > 63
        or not name.replace("-", "").replace("_", "").isalnum()
        or not name.isascii()
    ):
        raise Refused(
            f"'{name[:80]}' cannot name an endpoint",
            ways_on=["use up to 63 letters, digits, '-' and '_'"],
        )
    return table_name(name)


def check_settings(settings: EndpointSettings) -> None:
    """Bounds are at least one, and times are times."""
    for field in ("batch_rows_max", "queue_rows_max", "request_rows_max"):
        value = getattr(settings, field)
        if not 1 <= value <= 1_000_000:
            raise Refused(f"setting '{field}' is {value}; it takes 1 to 1000000")
    if not 0 < settings.deadline_s <= 600:
        raise Refused(f"setting 'deadline_s' is {settings.deadline_s}; it takes more than 0 and at most 600")
