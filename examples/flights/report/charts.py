"""The pictures, drawn by matplotlib as SVG that takes its colours and its font from the page.

Colours are drawn as stand-ins and replaced by the page's variables, so one picture fits light and dark.
Text stays text: it can be selected, and it is set in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#101112", "#707172", "#d0d1d2", "#f8f9fa"
BLUE, ORANGE, GREEN, RED = "#2060d0", "#d07010", "#108050", "#c02030"
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper",
    BLUE: "blue", ORANGE: "orange", GREEN: "green", RED: "red",
}  # fmt: skip

WIDTH_IN = 9.2
Row = Mapping[str, Any]

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flights",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def leak(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Each way of joining: the figure that its own data promises, and the one it keeps in service."""
    ways = (("naive", "naive join"), ("point_in_time", "point-in-time join"))
    with _figure(height_in=2.35, columns=2) as (figure, panels):
        for axes, (metric, title) in zip(
            panels,
            (("auc", "AUC on the test days (more is better)"), ("log_loss", "log loss (less is better)")),
            strict=True,
        ):
            values = []
            for y, (way, _) in enumerate(reversed(ways)):
                offline, served = found[way]["offline"][metric], found[way]["served"][metric]
                values += [offline, served]
                lost = abs(offline - served) > 1e-9
                if lost:
                    axes.annotate(
                        "",
                        xy=(served, y),
                        xytext=(offline, y),
                        arrowprops={"arrowstyle": "-|>", "color": RED, "lw": 2, "shrinkA": 7, "shrinkB": 7},
                    )
                axes.plot(offline, y, "o", ms=10, mfc=PAPER, mec=BLUE, mew=2, zorder=3)
                axes.plot(served, y, "o", ms=10 if lost else 5, color=RED if lost else BLUE, zorder=4)
                axes.annotate(f"{offline:.3f}", (offline, y), (0, 11), **_LABEL, color=BLUE)
                if lost:
                    axes.annotate(f"{served:.3f}", (served, y), (0, 11), **_LABEL, color=RED)
            axes.set_title(title, pad=10)
            axes.locator_params(axis="x", nbins=5)
            margin = (max(values) - min(values)) * 0.28 + 1e-3
            axes.set_xlim(min(values) - margin, max(values) + margin)
            axes.set_ylim(-0.55, 1.6)
            axes.set_yticks([0, 1], [name for _, name in reversed(ways)] if axes is panels[0] else ["", ""])
            axes.tick_params(axis="y", labelcolor=INK)
            axes.grid(axis="y", visible=False)
    return _svg(figure, "offline promise and result in service, for both joins")


def calibration(bins: Sequence[Row]) -> str:
    """What was said against what happened."""
    with _figure(height_in=3.9, width_in=4.5) as (figure, (axes,)):
        most = max(max(one["predicted"], one["observed"]) for one in bins) * 1.08
        axes.plot([0, most], [0, most], color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            "as said, so it came", (most * 0.78, most * 0.72), color=MUTED, fontsize=9,
            rotation=45, rotation_mode="anchor", ha="center", va="center",
        )  # fmt: skip
        x, y = [one["predicted"] for one in bins], [one["observed"] for one in bins]
        axes.plot(x, y, "-o", color=BLUE, ms=6.5, mec=PAPER, mew=1.2)
        axes.set(xlim=(0, most), ylim=(0, most), xlabel="probability given", ylabel="share that arrived late")
        axes.set_aspect("equal")
        _percent(axes, "xy")
    return _svg(figure, "calibration on the test days")


def delays_by_hour(hours: Sequence[Row]) -> str:
    """Lateness grows through the day."""
    with _figure(height_in=2.7) as (figure, (axes,)):
        shown = [one for one in hours if one["flights"] >= 50]
        axes.bar([one["hour"] for one in shown], [one["late_share"] for one in shown], color=BLUE, width=0.72)
        axes.set(xlabel="scheduled hour of departure, New York", ylabel="arrived late")
        axes.set_xticks([one["hour"] for one in shown])
        axes.grid(axis="x", visible=False)
        _percent(axes, "y")
    return _svg(figure, "share of late flights by hour")


def said_and_seen(hours: Sequence[Row], *, what: str) -> str:
    """The mean probability given in each hour, beside the share that came late."""
    with _figure(height_in=2.7) as (figure, (axes,)):
        x = [one["hour"] for one in hours]
        axes.bar(x, [one["observed"] for one in hours], color=LINE, width=0.72, label="arrived late")
        axes.plot(x, [one["predicted"] for one in hours], "-o", color=BLUE, ms=5, label="probability given")
        for one in hours:
            axes.annotate(str(one["rows"]), (one["hour"], 0), (0, 3), **_LABEL, color=MUTED, fontsize=8)
        axes.set(xlabel=what)
        axes.set_xticks(x)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", ncols=2)
        axes.margins(y=0.2)
        _percent(axes, "y")
    return _svg(figure, f"probability given and share late, {what}")


def sweep(tried: Sequence[Row]) -> str:
    """Each recipe's figures on the validation days."""
    ordered = sorted(tried, key=lambda one: -one["score"]["log_loss"])
    with _figure(height_in=0.42 * len(ordered) + 0.85, columns=2) as (figure, panels):
        for axes, (metric, title) in zip(
            panels, (("log_loss", "log loss (less is better)"), ("auc", "AUC (more is better)")), strict=True
        ):
            values = [one["score"][metric] for one in ordered]
            span = max(values) - min(values) or 1e-3
            for y, one in enumerate(ordered):
                colour = BLUE if one["is_best"] else MUTED
                axes.plot(one["score"][metric], y, "o", ms=9, color=colour)
                axes.annotate(
                    f"{one['score'][metric]:.4f}", (one["score"][metric], y), (9, -0.5), color=colour,
                    textcoords="offset points", va="center", fontsize=9.5,
                )  # fmt: skip
            axes.set_title(title, pad=8)
            axes.locator_params(axis="x", nbins=5)
            axes.set_yticks(
                range(len(ordered)),
                [one["recipe"] for one in ordered] if axes is panels[0] else [""] * len(ordered),
            )
            axes.tick_params(axis="y", labelcolor=INK)
            axes.set_xlim(min(values) - 0.12 * span, max(values) + 0.38 * span)
            axes.set_ylim(-0.6, len(ordered) - 0.4)
    return _svg(figure, "the sweep on the validation days")


def latency(bins: Sequence[Row], quantiles: Mapping[str, float]) -> str:
    """How long the live requests took."""
    with _figure(height_in=2.7) as (figure, (axes,)):
        for one in bins:
            axes.bar(one["ms_from"], one["requests"], width=one["ms_to"] - one["ms_from"], align="edge",
                     color=BLUE, edgecolor=PAPER, linewidth=0.8)  # fmt: skip
        top = max(one["requests"] for one in bins)
        for name in ("p50", "p90", "p99"):
            axes.axvline(quantiles[name], color=ORANGE, lw=1.4)
            axes.annotate(f"{name} {quantiles[name]:.1f} ms", (quantiles[name], top * 1.03), (4, 0),
                          textcoords="offset points", color=ORANGE, fontsize=9)  # fmt: skip
        axes.set_xscale("log")
        axes.set(xlabel="milliseconds per request, features looked up included", ylabel="requests")
        axes.set_ylim(0, top * 1.15)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        axes.tick_params(axis="x", which="minor", labelcolor=MUTED, size=0)
        axes.grid(axis="x", visible=False)
    return _svg(figure, "latency of the live requests")


def parity(features: Sequence[Row]) -> str:
    """The greatest difference of each served feature from its recomputation."""
    half = (len(features) + 1) // 2
    floor = 1e-17
    with _figure(height_in=0.215 * half + 0.8, columns=2) as (figure, panels):
        for axes, part in zip(panels, (features[:half], features[half:]), strict=True):
            for y, one in enumerate(part):
                wrong = one["mismatched"] + one["missing"] + one["extra"]
                x = max(one["greatest_difference"], floor)
                axes.plot([floor, x], [y, y], color=LINE, lw=1.2, zorder=1)
                axes.plot(x, y, "o", ms=5.5, color=RED if wrong else GREEN)
            axes.set_xscale("log")
            axes.set_xlim(floor / 5, 1e-8)
            axes.axvline(1e-9, color=ORANGE, lw=1.2, ls=(0, (4, 3)))
            axes.set_xticks([floor, 1e-15, 1e-12, 1e-9], ["exactly 0", "1e-15", "1e-12", "1e-9"])
            axes.minorticks_off()
            axes.set_yticks(range(len(part)), [one["feature"] for one in part])
            axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
            axes.grid(axis="y", visible=False)
            axes.set_ylim(half - 0.3, -0.7)
    return _svg(figure, "greatest difference of each feature, served against recomputed")


def difference(mean: float, interval: Sequence[float]) -> str:
    """The challenger's loss less the champion's, with its interval."""
    low, high = interval
    with _figure(height_in=1.35) as (figure, (axes,)):
        axes.axvline(0, color=MUTED, lw=1)
        colour = GREEN if high < 0 else RED if low > 0 else BLUE
        axes.plot([low, high], [0, 0], color=colour, lw=5, alpha=0.35)
        axes.plot(mean, 0, "o", ms=10, color=colour)
        axes.annotate(f"{mean:+.4f}", (mean, 0), (0, 11), **_LABEL, color=colour)
        reach = max(abs(low), abs(high), 1e-4) * 1.25
        axes.set(xlim=(-reach, reach), ylim=(-0.8, 1.1))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            "challenger better   \N{LEFTWARDS ARROW}   difference in log loss   "
            "\N{RIGHTWARDS ARROW}   champion better"
        )
    return _svg(figure, "paired difference in log loss, challenger less champion")


_LABEL: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}


@contextmanager
def _figure(
    *, height_in: float, width_in: float = WIDTH_IN, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in))
        panels = figure.subplots(1, columns, squeeze=False)
        yield figure, list(panels[0])


def _percent(axes: Axes, which: str) -> None:
    for name in which:
        getattr(axes, f"{name}axis").set_major_formatter(lambda value, _: f"{value * 100:.0f} %")


def _svg(figure: Figure, label: str) -> str:
    """The figure as an inline element: no header, the page's colours and font, no fixed size."""
    with mpl.rc_context(_STYLE):
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    width_px = float(size[1]) * 4 / 3
    head = f'<svg {size[0]} role="img" aria-label="{label}" style="max-width:{width_px:.0f}px">'
    return re.sub(r"<svg[^>]*>", head, text, count=1)
