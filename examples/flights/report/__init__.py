"""The report: one HTML file that needs nothing else, and `summary.json` with the same numbers.

The page is a function of the summary and reads nothing beside it, so the two cannot disagree. The summary
(`format` 1) holds, in the order of the page:

- `question`, `parameters` (the flow's own), `made_at`
- `data`: `flights`, `landed`, `cancelled`, `diverted`, `labelled`, `late_share`, `weather`, `planes`,
  `tables` (each `name`, `version`, `rows`), `by_hour` (each `hour`, `flights`, `late_share`, `delay_min`)
- `features`: `service`, `version`, `count`, `views` (each `name`, `entity`, `source`, `features`, `words`)
- `training_sets`: `point_in_time` and `naive`, each `table`, `rows`, `entity_rows`, `fingerprint`, `seconds`
- `sweep`: each `recipe`, `rows`, `fit_s`, `is_best`, `score` (below), on the validation days
- `leak`: `point_in_time` and `naive`, each with three scores: `validation` and `offline` (on the validation
  and test days, with features joined the way it was trained) and `served` (on the test days, with features
  as they were known at the time)
- `evaluation`: `model`, `days`, `score`, `calibration` (each `predicted`, `observed`, `rows`), `by_hour`
  (each `hour`, `rows`, `predicted`, `observed`)
- `batch`: `table`, `version`, `rows`, `seconds`
- `replay`: `day`, `endpoint`, `requests`, `errors`, `events` (by source), `filled_s`, `wall_s`, `latency_ms`
  (`p50`, `p90`, `p99`, `max`), `latencies` (each `ms_from`, `ms_to`, `requests`), `score`, `by_hour`
- `parity`: `rows`, `skipped`, `is_equal`, `values` and `mismatches` (of all features), `features` (each
  `feature`, `rows`, `equal`, `mismatched`, `missing`, `extra`, `greatest_difference`, `example`),
  `batch_rows` and `batch_difference` (online answers against batch scores)
- `challenger`: `champion` and `challenger` (each `model`, `trained_rows`, `score`), `shadowed`, `missed`,
  `pairs`, `difference`, `interval` (low, high), `rule`, `is_promoted`, `reason`
- `notebook`: `id`, `file`
- `flow`: `run`, `wall_s`, `cpu_s`, `cost_usd`, `calls` (each `key`, `name`, `after`, `is_cached`,
  `started_s`, `wall_s`, `cpu_s`, `memory_bytes`, `utilisation`, `cost_usd`, `words`)

A score is `rows`, `late_share`, `auc`, `log_loss`, `brier`. Shares and probabilities run from 0 to 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.flights.report.page import page

Summary = dict[str, Any]
"""Plain JSON; the module's docstring says what it holds."""


def write(summary: Summary, folder: Path) -> Path:
    """Write `report.html` and `summary.json` into `folder`; answers the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page(summary), encoding="utf-8")
    return path
