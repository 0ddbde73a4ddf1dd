"""The report: everything found, as one page and one JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from examples.flights.labels import Days
from examples.flights.report import summary as told
from examples.flights.report import write
from examples.flights.steps.audit import Audited
from examples.flights.steps.decide import Decision
from examples.flights.steps.evaluate import Evaluation
from examples.flights.steps.join import Joined
from examples.flights.steps.land import Landed
from examples.flights.steps.replay import Replayed
from examples.flights.steps.train import Fitted

import fourfold as ff
from fourfold.core import context
from fourfold.core.hosting import Scored
from fourfold.core.storage import TableVersion
from fourfold.core.times import instant
from fourfold.core.workbench import NotebookRun


@dataclass(frozen=True, slots=True)
class Findings:
    """What the flow's steps answered."""

    days: Days
    late_after_min: int
    landed: Landed
    service: str
    labels: TableVersion
    notebook: NotebookRun
    known: Joined
    leaking: Joined
    tried: list[Fitted]
    best: Fitted
    more: Fitted
    evaluation: Evaluation
    scored: Scored
    replayed: Replayed
    audited: Audited
    decision: Decision


@ff.step(memory="1GiB")
def report(found: Findings, out: str) -> Path:
    """Write `report.html`, `summary.json` and the notebook's page; the path of the first."""
    days, landed, replayed = found.days, found.landed, found.replayed
    services = context.services()
    here = context.ambient()
    assert here is not None, "the report tells of the flow run that it is a step of"
    run = here.executing.flow_run
    now = datetime.now(UTC)
    schedule = ff.table(landed.schedule.name).version(landed.schedule.version).read()
    asked = ff.table(replayed.table.name).version(replayed.table.version).read()
    rows = {replayed.champion: found.best.rows, replayed.challenger: found.more.rows}
    folder = Path(out).resolve()
    page = write(
        {
            "format": 1,
            "question": f"Will this flight arrive more than {found.late_after_min} minutes late?",
            "made_at": f"{now:%Y-%m-%d %H:%M} UTC",
            "parameters": {
                "late_after_min": found.late_after_min,
                "learn_days": str(days.learn),
                "validation_days": str(days.validate),
                "test_days": str(days.test),
                "live_day": str(days.live),
            },
            "data": told.data(schedule, (landed.schedule, *landed.sources), found.late_after_min)
            | {"labelled": found.labels.rows},
            "features": told.features(found.service),
            "training_sets": {
                "point_in_time": told.training_set(found.known),
                "naive": told.training_set(found.leaking),
            },
            "sweep": told.sweep(found.tried, found.best),
            "leak": told.leak(found.evaluation),
            "evaluation": told.evaluation(found.evaluation, model=replayed.champion, days=str(days.test)),
            "batch": told.batch(found.scored),
            "replay": told.replay(replayed, asked, found.decision, days.live),
            "parity": told.parity(found.audited),
            "challenger": told.challenger(replayed, found.decision, rows),
            "notebook": {"id": found.notebook.id, "file": "notebook.html"},
            "flow": told.flow(
                services.flows.graph(run), services.compute.jobs(run, limit=1000), instant(now)
            ),
        },
        folder,
    )
    (folder / "notebook.html").write_bytes(services.workbench.notebook_html(found.notebook.id))
    return page
