"""A table's figures as one page that needs nothing beside it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fourfold.cli.figures import distinct, ends, in_words, nulls, short
from fourfold.core.statistics import QUANTILES

if TYPE_CHECKING:
    from fourfold.core.statistics import ColumnStatistics, Histogram, TableStatistics

WIDTH, HEIGHT = 320, 72

_STYLE = """
:root { color-scheme: light dark; --bar: #4c7dd0; --dim: #8a8f98; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; }
h1 { font-size: 1.3rem; font-weight: 600; } h2 { font-size: 1rem; margin: 0; } small { color: var(--dim); }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.6rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 1rem; margin: .4rem 0; }
dt { color: var(--dim); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; } svg rect { fill: var(--bar); }
"""


def html(told: TableStatistics) -> str:
    """The page."""
    title = f"{told.table} at version {told.version}"
    cards = "\n".join(_card(column, told) for column in told.columns)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)} <small>{told.rows:,} rows</small></h1>\n"
        f"<main>\n{cards}\n</main>\n<p><small>Nulls and ends are exact. Quantiles and histograms are off by "
        f"at most {told.rank_error:.1%} of the rows in 99 cases of 100, distinct values with ~ by 3 % in 19 "
        "cases of 20.</small></p></html>\n"
    )


def _card(column: ColumnStatistics, told: TableStatistics) -> str:
    facts = [("null", nulls(column, told)), ("distinct", distinct(column.distinct))]
    if column.trues is not None:
        facts.append(("true", f"{column.trues:,} of {told.rows - column.nulls:,}"))
    facts += list(zip(("least", "greatest"), ends(column), strict=True))
    if column.mean is not None and not column.type.startswith(("date", "time")):
        facts.append(("mean", f"{short(column.mean)} ± {short(column.deviation)}"))
    if column.lengths is not None:
        lengths = column.lengths
        facts.append(("length", f"{lengths.least:,} to {lengths.most:,}, mean {lengths.mean:.4g}"))
    if column.quantiles:
        at = {
            f"{share:.0%}": in_words(column, v) for share, v in zip(QUANTILES, column.quantiles, strict=True)
        }
        facts.append(("quantiles", ", ".join(f"{share} {value}" for share, value in list(at.items())[1:-1])))
    if column.frequent and column.histogram is None:
        most = (f"{short(f.value)} ({f.at_least:,})" for f in column.frequent)
        facts.append(("frequent", ", ".join(most)))
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    picture = _bars(column.histogram, column.name) if column.histogram else ""
    return (
        f"<section><h2>{escape(column.name)} <small>{escape(column.type)}</small></h2>{picture}"
        f"<dl>{listed}</dl></section>"
    )


def _bars(histogram: Histogram, name: str) -> str:
    most, wide = max(histogram.counts), WIDTH / len(histogram.counts)
    drawn = []
    for index, count in enumerate(histogram.counts):
        if count:
            tall = max(1.0, HEIGHT * count / most)
            drawn.append(
                f'<rect x="{index * wide:.1f}" y="{HEIGHT - tall:.1f}" width="{wide - 1:.1f}" '
                f'height="{tall:.1f}"><title>{count:,}</title></rect>'
            )
    label = f"histogram of {escape(name, quote=True)}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
