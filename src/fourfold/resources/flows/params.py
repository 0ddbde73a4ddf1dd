"""A flow's parameters: checked where the flow is started, read again where its body runs."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.times import Instant, moment

if TYPE_CHECKING:
    from fourfold.resources.flows.api import Flow


class _ScheduledDay(dt.date):
    """Stands for the day that a run is for, in the schedule's zone; replaced before the body starts."""

    def __repr__(self) -> str:
        return "scheduled_day"


scheduled_day: dt.date = _ScheduledDay(1, 1, 1)
"""As a parameter's default: the day that the run is for (of its tick, or else of its start)."""

_SIMPLE = (int, str, bool)


def check(flow: Flow, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as JSON, or a refusal that names the parameter and what it would have taken."""
    _refuse_unknown(flow, params)
    for name, parameter in flow.signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in params:
            raise Refused(
                f"flow '{flow.name}' needs a value for '{name}'",
                ways_on=[f"{flow.name}.run({name}=...)"],
                parameter=name,
            )
    hints = _hints(flow)
    return {name: _to_json(flow, name, value, hints.get(name, Any)) for name, value in params.items()}


def from_text(flow: Flow, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters typed at a command line, as JSON values of the types that the flow asks for.

    A text is read as JSON where that fits the type (`--depths '[3, 5]'`), else as the text that it is.
    """
    _refuse_unknown(flow, texts)
    hints = _hints(flow)
    return check(flow, {name: _typed(flow, name, text, hints.get(name, Any)) for name, text in texts.items()})


def _typed(flow: Flow, name: str, text: str, hint: Any) -> Any:
    if hint is str:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    try:
        _from_json(flow, name, value, hint)
    except Refused:
        return text
    return value


def read(flow: Flow, params: Mapping[str, Any], *, at: Instant) -> dict[str, Any]:
    """The arguments of a body: parameters of their types, defaults filled in; `at` is what the run is for."""
    _refuse_unknown(flow, params)
    hints = _hints(flow)
    tz = flow.schedule.tz if flow.schedule is not None else "UTC"
    found: dict[str, Any] = {}
    for name, parameter in flow.signature.parameters.items():
        if name in params:
            found[name] = _from_json(flow, name, params[name], hints.get(name, Any))
        elif parameter.default is scheduled_day:
            found[name] = moment(at).astimezone(ZoneInfo(tz)).date()
        else:
            found[name] = parameter.default
    return found


def scheduled_param(flow: Flow) -> str:
    """The parameter that takes the day that a run is for, if there is one."""
    for name, parameter in flow.signature.parameters.items():
        if parameter.default is scheduled_day:
            return name
    return ""


def _refuse_unknown(flow: Flow, params: Mapping[str, Any]) -> None:
    known = flow.signature.parameters
    for name in params:
        if name not in known:
            raise Refused(
                f"flow '{flow.name}' has no parameter '{name}'",
                ways_on=did_you_mean(name, known, what="its parameters"),
                parameter=name,
            )


def _hints(flow: Flow) -> dict[str, Any]:
    try:
        return typing.get_type_hints(flow.function)
    except NameError as error:
        raise Refused(f"flow '{flow.name}' has an annotation that leads nowhere: {error}") from error


def _to_json(flow: Flow, name: str, value: Any, hint: Any) -> Any:
    if hint is float and type(value) is int:
        return value
    if hint in _SIMPLE and type(value) is hint:
        return value
    import msgspec

    try:
        plain = msgspec.to_builtins(value, enc_hook=_out)
    except (TypeError, NotImplementedError) as error:
        raise Refused(
            f"parameter '{name}' of flow '{flow.name}' cannot be written as JSON: {error}"
        ) from error
    _from_json(flow, name, plain, hint)
    return plain


def _from_json(flow: Flow, name: str, value: Any, hint: Any) -> Any:
    if hint is Any or (hint in _SIMPLE and type(value) is hint):
        return value
    import msgspec

    try:
        return msgspec.convert(value, type=hint, dec_hook=_in)
    except msgspec.ValidationError as error:
        shown = getattr(hint, "__name__", None) or str(hint)
        raise Refused(
            f"parameter '{name}' of flow '{flow.name}' takes {shown}, not {value!r}: {error}", parameter=name
        ) from error
    except TypeError as error:
        raise Refused(
            f"parameter '{name}' of flow '{flow.name}' has a type that no text can give: {error}"
        ) from error


def _out(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _in(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Path):
        return Path(value)
    raise TypeError(f"{kind} cannot be read")
