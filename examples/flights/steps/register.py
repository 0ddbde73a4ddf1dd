"""Register a fitted model with all that a version holds: its functions, its example, its card."""

from __future__ import annotations

from examples.flights import labels
from examples.flights.model import INPUTS, featurize, predict
from examples.flights.scores import named
from examples.flights.steps.evaluate import Evaluation
from examples.flights.steps.join import SERVICE
from examples.flights.steps.train import Fitted

import fourfold as ff
from fourfold.core.models import ModelVersion

MODEL = "flight-delays"
EXAMPLE_ROWS = 20

CARD = """\
# Will this flight arrive late?

For flights from New York's three airports, half an hour before their scheduled departure: the probability
of an arrival more than half an hour late. Recipe: {recipe}, learned from {rows:,} flights of {learned},
with the features of `{service}` as they were known then.

{judged}

Limits: one year of one city. Cancelled and diverted flights have no arrival and were not learned from.
Nothing is known of an aircraft's legs that did not begin in New York. Not for decisions about people.

Owner: the flights example. Data: `{table}` version {version}.
"""


@ff.step(cache=True, memory="1GiB")
def register(fitted: Fitted, alias: str, evaluation: Evaluation | None = None) -> ModelVersion:
    """A new version of the model under an alias, in a run that holds the figures it was chosen by."""
    joined = fitted.joined
    table = ff.table(joined.table.name).version(joined.table.version).read()
    example = labels.split(table, fitted.learned, known=True).slice(0, EXAMPLE_ROWS).select(INPUTS)
    found = fitted.score if evaluation is None else evaluation.score
    with ff.run(
        f"{alias} {fitted.recipe.name}",
        experiment="flights-registered",
        params={**fitted.recipe.parameters, "learn": str(fitted.learned), "trained_in": fitted.run},
        seed=fitted.recipe.seed,
        data=[joined.table],
    ) as run:
        run.log(fit_s=fitted.fit_s, rows=fitted.rows)
        if found is not None:
            run.log(named(found, "test"))
        version: ModelVersion = run.save(
            fitted.model,
            name=MODEL,
            featurize=featurize,
            predict=predict,
            example=example,
            card=_card(fitted, evaluation),
            tags={"owner": "flights", "recipe": fitted.recipe.name, "made_as": alias},
        )
    ff.model(MODEL).promote(version, alias, why=_why(fitted, evaluation))
    return version


def _card(fitted: Fitted, evaluation: Evaluation | None) -> str:
    judged = (
        "It has not been judged by days that it did not learn from: it is there to be tried beside another."
        if evaluation is None
        else "On {rows:,} flights of later days: AUC {auc:.4f}, log loss {log_loss:.4f}, Brier score "
        "{brier:.4f}.".format(**evaluation.score)
    )
    return CARD.format(
        recipe=fitted.recipe.name,
        rows=fitted.rows,
        learned=fitted.learned,
        service=SERVICE,
        judged=judged,
        table=fitted.joined.table.name,
        version=fitted.joined.table.version,
    )


def _why(fitted: Fitted, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return f"to be tried: learned from {fitted.rows:,} flights, up to the eve of the live day"
    return f"least log loss of the sweep; {evaluation.score['log_loss']:.4f} on the test days"
