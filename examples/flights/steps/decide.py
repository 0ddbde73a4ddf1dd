"""Promote the challenger, or not, by a rule that was written down before."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from examples.flights.scores import Hour, Score, by_hour, paired, score
from examples.flights.steps.register import MODEL
from examples.flights.steps.replay import Replayed

import fourfold as ff
from fourfold.core.models import ModelVersion

RULE = (
    "The challenger becomes the champion if, on the live day's flights that landed, its log loss is lower "
    "and the 95 % interval of the difference lies wholly below zero."
)
Z = 1.96


@dataclass(frozen=True, slots=True)
class Decision:
    """Both versions on the same live requests, and what follows by the rule."""

    champion: Score
    challenger: Score
    by_hour: list[Hour]
    pairs: int
    difference: float
    interval: tuple[float, float]
    is_promoted: bool
    reason: str
    version: ModelVersion
    """The champion from now on."""


@ff.step(cache=True)
def decide(replayed: Replayed, champion: ModelVersion, challenger: ModelVersion) -> Decision:
    """Compare the two by feedback, and move the alias `champion` if the rule says so."""
    pairs = _pairs(replayed)
    late = pairs["feedback"].to_numpy() > 0
    first, second = pairs["champion"].to_numpy(), pairs["challenger"].to_numpy()
    difference, error = paired(first, second, late)
    low, high = difference - Z * error, difference + Z * error
    is_promoted = high < 0
    reason = (
        f"Over {len(late)} flights the challenger's log loss is {abs(difference):.4f} "
        f"{'lower' if difference < 0 else 'higher'}, between {low:+.4f} and {high:+.4f}: "
        f"{'it is promoted' if is_promoted else 'the champion stays'}."
    )
    if is_promoted:
        ff.model(MODEL).promote(challenger, "champion", why=reason)
    return Decision(
        champion=score(first, late),
        challenger=score(second, late),
        by_hour=by_hour(pairs["hour"].to_numpy(), first, late),
        pairs=len(late),
        difference=difference,
        interval=(low, high),
        is_promoted=is_promoted,
        reason=reason,
        version=challenger if is_promoted else champion,
    )


def _pairs(replayed: Replayed) -> pa.Table:
    """One row per flight of the day that landed: what both said, and how it came."""
    log = ff.endpoint(replayed.endpoint).labelled("late")
    log = log.filter(pc.is_valid(log["feedback"])).select(
        ["prediction_id", "prediction_is_shadow", "predicted_late", "feedback"]
    )
    shadow = log["prediction_is_shadow"]
    champion = log.filter(pc.invert(shadow)).rename_columns({"predicted_late": "champion"})
    challenger = log.filter(shadow).rename_columns({"predicted_late": "challenger"})
    live = (
        ff.table(replayed.table.name)
        .version(replayed.table.version)
        .read(columns=["prediction_id", "t", "hour"])
    )
    both = live.join(
        champion.select(["prediction_id", "champion", "feedback"]), "prediction_id", join_type="inner"
    )
    both = both.join(challenger.select(["prediction_id", "challenger"]), "prediction_id", join_type="inner")
    return both.sort_by([("t", "ascending"), ("prediction_id", "ascending")])
