"""Hosting as a service: deploy, predict, learn what came of it, compare, score tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fourfold.core.hosting import (
    Comparison,
    Deployment,
    Endpoint,
    EndpointSettings,
    Gateway,
    HostingEvent,
    Prediction,
    Scalar,
    Scored,
)
from fourfold.core.routes import Role, route
from fourfold.core.times import Instant


class Hosting(Protocol):
    """Predictions: online, in batch, and tested in production."""

    @route("POST /endpoints/{endpoint}/deploy", needs=Role.deployer)
    def deploy(
        self,
        endpoint: str,
        model: str,
        *,
        settings: EndpointSettings | None = None,
        wait_s: float = 120.0,
    ) -> Endpoint:
        """Put a model version (`"delays@champion"`, `"delays/3"`) live behind an endpoint.

        The version is started, warmed with its stored example, then takes over; only then the one before
        is drained and stopped. Returns when it is live; raises, and leaves the one before live, when it
        does not get ready. `settings=None` keeps the endpoint's own. Starts the gateway if none runs.
        Deploying what is live already is nothing.
        """
        ...

    @route("POST /endpoints/{endpoint}/shadow", needs=Role.deployer)
    def shadow(self, endpoint: str, model: str, *, wait_s: float = 120.0) -> Endpoint:
        """Give a second version a copy of each request; its answers are only logged, under the same id.

        It never delays or fails a request. An empty `model` ends the shadow.
        """
        ...

    @route("GET /endpoints", needs=Role.viewer)
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints by name, with health, version, latency and counts."""
        ...

    @route("GET /endpoints/{name}", needs=Role.viewer)
    def endpoint(self, name: str) -> Endpoint:
        """One endpoint."""
        ...

    @route("GET /endpoints/{name}/deployments", needs=Role.viewer)
    def deployments(self, name: str) -> tuple[Deployment, ...]:
        """What was ever behind an endpoint, newest first."""
        ...

    @route("GET /endpoints/{name}/events", needs=Role.viewer)
    def events(self, name: str, limit: int = 100) -> tuple[HostingEvent, ...]:
        """What happened to an endpoint and why, newest first."""
        ...

    @route("POST /endpoints/{endpoint}/predict", needs=Role.viewer)
    def predict(
        self,
        endpoint: str,
        rows: Sequence[Mapping[str, Scalar]],
        *,
        t: Instant | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Prediction, ...]:
        """Predictions over HTTP from the gateway, one per row.

        A row holds the model's columns; with a feature service, the entity keys and the request's own
        columns. `t` asks for features as of another time than now (replays).
        """
        ...

    @route("POST /endpoints/{endpoint}/feedback", needs=Role.viewer)
    def feedback(
        self,
        endpoint: str,
        prediction: str,
        *,
        values: Mapping[str, Scalar],
        at: Instant | None = None,
    ) -> None:
        """Keep what was learned about a prediction later, such as `{"late": True}`. The last word counts."""
        ...

    @route("POST /endpoints/{name}/flush", needs=Role.viewer)
    def flush(self, name: str) -> int:
        """Write what the prediction log and feedback still hold to their tables; the rows written."""
        ...

    @route("GET /endpoints/{endpoint}/compare", needs=Role.viewer)
    def compare(self, endpoint: str, *, output: str = "", label: str = "") -> Comparison:
        """The shadow beside the live version on the same requests.

        `output` names the output column (needed when there are several). With `label`, a name used in
        feedback, both get metrics: for labels of true/false `log_loss`, `brier`, `auc`, `accuracy`; for
        numbers `mae`, `rmse`.
        """
        ...

    @route("POST /endpoints/{name}/stop", needs=Role.deployer)
    def stop(self, name: str) -> Endpoint:
        """Drain and stop an endpoint's versions. Its log stays."""
        ...

    @route("POST /models/{model:path}/score", needs=Role.editor)
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
        """Predict every row of a table with the featurize and predict that an endpoint would use.

        With `features`, each row's features are looked up as of its `time_column` by the point-in-time
        join; otherwise the table's own columns are used. `keep` names the columns copied to `out`, beside
        the outputs, `model_version` and `scored_at`. `where` selects rows (and, with `partition_by`,
        replaces these partitions of `out`; otherwise rows are appended). Repeated with the same write
        key, it writes once.
        """
        ...

    @route("GET /gateway", needs=Role.viewer)
    def gateway(self) -> Gateway | None:
        """The gateway that answers now, if one does."""
        ...

    @route("POST /gateway/start", needs=Role.deployer)
    def start_gateway(self, *, port: int = 0) -> Gateway:
        """Start the gateway (on any free port if 0) unless one runs, and wait until it answers."""
        ...

    @route("POST /gateway/stop", needs=Role.deployer)
    def stop_gateway(self) -> None:
        """Flush the logs and stop the gateway with its workers. Endpoints come back with the next start."""
        ...
