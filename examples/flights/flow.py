"""The flow, readable like its picture: from the raw tables to a model that answers, and is checked."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from examples.flights.labels import Days
from examples.flights.model import sweep
from examples.flights.steps.audit import audit
from examples.flights.steps.decide import decide
from examples.flights.steps.deploy import deploy, score_batch
from examples.flights.steps.evaluate import evaluate
from examples.flights.steps.join import join
from examples.flights.steps.land import land
from examples.flights.steps.look import look
from examples.flights.steps.prepare import define, label, plan
from examples.flights.steps.register import register
from examples.flights.steps.replay import replay
from examples.flights.steps.report import Findings, report
from examples.flights.steps.train import train

import fourfold as ff

QUICK_FLIGHTS = 60


@ff.flow
def flights(
    day: date = date(2013, 12, 2),
    leaves: list[int] = [15, 31, 63],  # noqa: B006 - a flow's parameters are values
    rounds: int = 60,
    late_after_min: int = 30,
    quick: bool = False,
    out: str = ".fourfold/flights",
) -> Path:
    """Will this flight arrive late? Learn from the days before `day`, and go live on it.

    `quick` leaves out the days after that, and most flights of the day itself.
    """
    days = Days.before(day)

    landed = land(day) if quick else land()
    service = define(landed)
    labels = label(landed, late_after_min)
    notebook = look(landed, late_after_min)

    known = join(landed, service, labels, "point_in_time", key="point-in-time")
    leaking = join(landed, service, labels, "naive", key="naive")

    tried = [train(known, one, days.learn, days.validate, key=one.name) for one in sweep(leaves, rounds)]
    best = min(tried, key=lambda fitted: fitted.result().score["log_loss"])
    recipe = best.result().recipe

    naive = train(leaking, recipe, days.learn, days.validate, key="naive")
    evaluation = evaluate(best, naive, days.test)
    champion = register(best, "champion", evaluation, key="champion")
    live = deploy(champion, key="champion")

    tomorrow = plan(landed, day, QUICK_FLIGHTS) if quick else plan(landed, day)
    scored = score_batch(champion, tomorrow)

    more = train(known, recipe, days.all_past, key="challenger")
    challenger = register(more, "challenger", key="challenger")
    replayed = replay(landed, labels, tomorrow, live, challenger, day)
    audited = audit(replayed, scored)
    decision = decide(replayed, champion, challenger)
    if decision.result().is_promoted:
        deploy(challenger, key="challenger")

    page: Path = report(
        Findings(
            days=days,
            late_after_min=late_after_min,
            landed=landed,
            service=service,
            labels=labels,
            notebook=notebook,
            known=known,
            leaking=leaking,
            tried=tried,
            best=best,
            more=more,
            evaluation=evaluation,
            scored=scored,
            replayed=replayed,
            audited=audited,
            decision=decision,
        ),
        out,
    ).result()
    return page
