"""A flow run as the loop holds it in memory, and the slice of it that an event touches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fourfold.core.decide import flow as rules
from fourfold.core.flows import BODY, Attempt, CallKey, CallState, FlowRun, StepCall
from fourfold.core.ports.flow_store import OpenRun


@dataclass(slots=True)
class OpenFlow:
    """A run with all its calls, those attempts that have not ended, and who waits for whom."""

    run: FlowRun
    calls: dict[CallKey, StepCall] = field(default_factory=dict)
    attempts: dict[CallKey, Attempt] = field(default_factory=dict)
    dependents: dict[CallKey, dict[CallKey, None]] = field(default_factory=dict)
    """Who waits for a call: each once, though it may come to wait again when the run is resumed."""

    @classmethod
    def of(cls, loaded: OpenRun) -> OpenFlow:
        flow = cls(loaded.run, {call.key: call for call in loaded.calls})
        flow.attempts = {attempt.call: attempt for attempt in loaded.attempts}
        for call in loaded.calls:
            if call.state is CallState.blocked:
                flow.depend(call)
        return flow

    def depend(self, call: StepCall) -> None:
        """Note which of its inputs a blocked call waits for: those that are there were counted already."""
        for dep in dict.fromkeys(call.deps):
            known = self.calls.get(dep)
            if known is None or not known.state.is_good:
                self.dependents.setdefault(dep, {})[call.key] = None

    def slice(self, event: rules.Event) -> rules.Slice:
        """What the rules need to see of this run to decide about an event."""
        keys: Iterable[CallKey]
        match event:
            case rules.CallMade(call, _) | rules.EffectDone(call, _):
                keys = (BODY, call.key, *call.deps)
            case rules.InputSettled(key, dep):
                keys = (key, dep)
            case rules.CancelAsked():
                keys = [key for key, call in self.calls.items() if call.state.is_open]
            case rules.ResumeAsked():
                keys = self.calls
            case _:
                keys = (event.key,)
        calls = {key: self.calls[key] for key in keys if key in self.calls}
        attempts = {key: self.attempts[key] for key in calls if key in self.attempts}
        return rules.Slice(self.run, calls, attempts)
