"""Whether a model version may take an alias: every gate with its answer, as a pure rule."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fourfold.core.models import (
    AliasAction,
    AliasEvent,
    AliasRules,
    GateResult,
    MetricRule,
    ModelVersion,
    Replay,
)
from fourfold.core.wire import number


def gates(
    rules: AliasRules, candidate: ModelVersion, *, present: ModelVersion | None, replay: Replay | None
) -> tuple[GateResult, ...]:
    """Ask every gate of an alias; all must pass. None is skipped, so one answer names all that is wrong.

    `present` is the alias's holder now; `replay` is how the candidate's example came out, `None` if it was
    not run (which a protected alias does not accept).
    """
    asked = [_complete(candidate), _replays(replay)] if rules.is_protected else []
    asked += [_metric(rule, candidate, present) for rule in rules.metrics]
    return tuple(asked)


def failures(results: Iterable[GateResult]) -> tuple[str, ...]:
    """The reasons of the gates that failed."""
    return tuple(f"{result.gate}: {result.reason}" for result in results if not result.passed)


def rollback_target(history: Iterable[AliasEvent]) -> int | None:
    """Where an alias pointed before its last promotion that was not rolled back; `None` if nowhere.

    `history` is all of one alias's moves, oldest first. Two rollbacks go back two promotions.
    """
    held: list[int | None] = []
    for event in history:
        if event.action is AliasAction.rolled_back:
            held.pop()
        else:
            held.append(event.number)
    return next((number for number in reversed(held[:-1]) if number is not None), None)


def _complete(candidate: ModelVersion) -> GateResult:
    if candidate.missing:
        return GateResult("complete", False, f"{candidate} lacks {', '.join(candidate.missing)}")
    return GateResult("complete", True, f"{candidate} holds all that a version must hold")


def _replays(replay: Replay | None) -> GateResult:
    if replay is None:
        return GateResult("replay", False, "the stored example was not run again")
    if not replay.matched:
        return GateResult("replay", False, replay.reason)
    return GateResult("replay", True, f"{replay.row_count} stored rows gave their stored answers")


def _metric(rule: MetricRule, candidate: ModelVersion, present: ModelVersion | None) -> GateResult:
    gate = f"metric {rule.metric}"
    if rule.metric not in candidate.metrics:
        known = ", ".join(sorted(candidate.metrics)) or "none"
        return GateResult(gate, False, f"{candidate} has no metric '{rule.metric}' (it has: {known})")
    value = number(candidate.metrics[rule.metric])
    if math.isnan(value):
        return GateResult(gate, False, f"{rule.metric} of {candidate} is NaN")
    if rule.limit is not None and _worse(value, rule.limit, rule.better, 0.0):
        bound = "at least" if rule.better == "higher" else "at most"
        return GateResult(gate, False, f"{rule.metric} {value:.6g} is not {bound} {rule.limit:.6g}")
    reason = f"{rule.metric} {value:.6g}"
    if rule.limit is not None:
        reason += f" meets {rule.limit:.6g}"
    if rule.against_present and present is not None and present.digest != candidate.digest:
        held = number(present.metrics[rule.metric]) if rule.metric in present.metrics else math.nan
        if math.isnan(held):
            return GateResult(gate, True, f"{reason}; {present} has no such metric to compare with")
        if _worse(value, held, rule.better, rule.tolerance):
            allowed = f" (tolerance {rule.tolerance:.6g})" if rule.tolerance else ""
            return GateResult(
                gate, False, f"{rule.metric} {value:.6g} is worse than {held:.6g} of {present}{allowed}"
            )
        reason += f", not worse than {held:.6g} of {present}"
    return GateResult(gate, True, reason)


def _worse(value: float, than: float, better: str, tolerance: float) -> bool:
    """Whether `value` is worse than `than` by more than `tolerance`."""
    return value < than - tolerance if better == "higher" else value > than + tolerance
