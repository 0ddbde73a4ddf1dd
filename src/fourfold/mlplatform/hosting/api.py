"""What people write: deploy a model version, ask it, tell it what came of it.

endpoint = ff.deploy("delays@champion", name="delays", features="flight_features")
prediction = endpoint.predict({"carrier": "UA", "origin": "JFK", "tailnum": "N14228", "distance": 2475})
endpoint.feedback(prediction.id, late=True)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, overload

from fourfold.core.context import services
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.hosting import (
    Comparison,
    Endpoint,
    EndpointSettings,
    Health,
    Prediction,
    Scalar,
    Scored,
)
from fourfold.core.services.hosting import Hosting
from fourfold.core.times import Instant, instant, iso

if TYPE_CHECKING:
    import pyarrow as pa


def deploy(model: object, name: str = "", *, wait_s: float = 120.0, **settings: Any) -> EndpointHandle:
    """Put a model version live behind the endpoint `name` (by default, the model's own name).

    `model` is a reference (`"delays@champion"`, `"delays/3"`) or a model version. `settings` are those of
    `EndpointSettings`, such as `features="flight_features"`, `missing="refuse"`, `deadline_s=1`.

    It answers as long as the gateway's host runs: `fourfold up`, else the script that runs the flow, else
    this process. What is deployed stays deployed, and comes back with the next prediction or `fourfold up`.
    """
    reference = _reference(model)
    name = name or reference.split("@")[0].split("/")[0]
    hosting = _hosting()
    chosen = _settings(hosting, name, settings) if settings else None
    hosting.deploy(name, reference, settings=chosen, wait_s=wait_s)
    return EndpointHandle(name)


def endpoint(name: str) -> EndpointHandle:
    """The handle of an endpoint; nothing is asked until it is used."""
    return EndpointHandle(name)


def predict_table(
    model: object,
    table: str,
    *,
    out: str,
    features: str = "",
    keep: Iterable[str] = (),
    where: Mapping[str, Scalar] | None = None,
    version: int | None = None,
    time_column: str = "",
    partition_by: Iterable[str] = (),
) -> Scored:
    """Predict every row of a table into the table `out`; see `Hosting.predict_table`."""
    return _hosting().predict_table(
        _reference(model),
        table,
        out=out,
        features=features,
        keep=tuple(keep),
        where=where,
        version=version,
        time_column=time_column,
        partition_by=tuple(partition_by),
    )


class EndpointHandle:
    """An endpoint by name. As a context manager it stops the endpoint at the end."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"

    def __enter__(self) -> EndpointHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def info(self) -> Endpoint:
        """Health, versions, latency and counts, asked anew each time."""
        return _hosting().endpoint(self.name)

    @property
    def url(self) -> str:
        """Where the endpoint answers HTTP; its gateway is started if none runs."""
        known = self.info
        if known.health is Health.unreachable:
            _hosting().start_gateway()
            known = self.info
        return known.url

    @overload
    def predict(
        self, rows: Mapping[str, Any], *, t: Instant | datetime | None = None, deadline_s: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        t: Instant | datetime | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Prediction, ...]: ...

    def predict(
        self,
        rows: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        t: Instant | datetime | None = None,
        deadline_s: float | None = None,
    ) -> Prediction | tuple[Prediction, ...]:
        """One row gives one prediction; several rows give as many, in their order.

        `t` asks for features as of another time than now, for replays.
        """
        at = instant(t) if isinstance(t, datetime) else t
        asked = [_plain(rows)] if isinstance(rows, Mapping) else [_plain(row) for row in rows]
        found = _hosting().predict(self.name, asked, t=at, deadline_s=deadline_s)
        return found[0] if isinstance(rows, Mapping) else found

    def feedback(
        self, prediction: Prediction | str, *, at: Instant | datetime | None = None, **values: Scalar
    ) -> None:
        """Keep what was learned about a prediction: `endpoint.feedback(prediction, late=True)`."""
        key = prediction.id if isinstance(prediction, Prediction) else prediction
        moment = instant(at) if isinstance(at, datetime) else at
        _hosting().feedback(self.name, key, values=values, at=moment)

    def shadow(self, model: object, *, wait_s: float = 120.0) -> None:
        """Give a challenger a copy of each request; an empty reference ends it."""
        _hosting().shadow(self.name, _reference(model) if model else "", wait_s=wait_s)

    def compare(self, output: str = "", *, label: str = "") -> Comparison:
        """The shadow beside the live version; with metrics when `label` names feedback."""
        return _hosting().compare(self.name, output=output, label=label)

    def served(self) -> pa.Table:
        """What was predicted live, as logged: what went in, what came out, `at` and `watermark`.

        This is what `features.audit(service, endpoint.served())` takes.
        """
        from fourfold.mlplatform.hosting.comparing import served

        self.flush()
        return served(services().storage, self.name)

    def labelled(self, name: str) -> pa.Table:
        """The log with a column `feedback`: what feedback said of `name`, null where none came."""
        from fourfold.mlplatform.hosting.comparing import with_feedback

        self.flush()
        return with_feedback(services().storage, self.name, name)

    def flush(self) -> int:
        """Write what the prediction log still holds to its table."""
        return _hosting().flush(self.name)

    def stop(self) -> None:
        """Drain and stop; the log stays."""
        _hosting().stop(self.name)


def _hosting() -> Hosting:
    return services().hosting


def _reference(model: object) -> str:
    """A model version or a reference as text; anything with `.ref` of kind `model` will do."""
    if isinstance(model, str):
        return model
    ref = getattr(model, "ref", None)
    if getattr(ref, "kind", "") == "model":
        return f"{ref.name}/{ref.version}"  # type: ignore[union-attr]
    raise Refused(
        f"{model!r} is not a model version", ways_on=["pass one, or text such as 'delays@champion'"]
    )


def _settings(hosting: Hosting, name: str, given: Mapping[str, Any]) -> EndpointSettings:
    from fourfold.core.wire import convert, plain

    known = [one.name for one in fields(EndpointSettings)]
    for key in given:
        if key not in known:
            raise Refused(
                f"an endpoint has no setting '{key}'", ways_on=did_you_mean(key, known, what="settings")
            )
    present = next((one.settings for one in hosting.endpoints() if one.name == name), EndpointSettings())
    checked: EndpointSettings = convert(
        {**plain(present), **plain(dict(given))}, EndpointSettings, what=f"settings of '{name}'"
    )
    return checked


def _plain(row: Mapping[str, Any]) -> dict[str, Scalar]:
    """A row as JSON can carry it: zoned times become ISO text, numpy scalars become Python's."""
    return {key: _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Scalar:
    from fourfold.core.wire import number_out

    if isinstance(value, datetime):
        return iso(instant(value))
    if hasattr(value, "item"):
        value = value.item()
    return number_out(value) if isinstance(value, float) else value
