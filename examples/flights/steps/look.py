"""Run a notebook as a step, with parameters; its page is kept as an artifact."""

from __future__ import annotations

from examples.flights.steps.land import Landed

import fourfold as ff
from fourfold.core.workbench import NotebookRun

NOTEBOOK = "examples/flights/delays.ipynb"


@ff.step(cache=True, memory="1GiB")
def look(landed: Landed, late_after_min: int) -> NotebookRun:
    """How late flights are by hour, month and airline."""
    return ff.notebook(
        NOTEBOOK,
        table=landed.schedule.name,
        version=landed.schedule.version,
        late_after_min=late_after_min,
    )
