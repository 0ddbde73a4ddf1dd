"""Lineage as a picture: SVG that needs nothing else, for eyes in the light and in the dark.

It holds no script and names nothing outside itself; every text is escaped and cut to its box, and the whole
of it is in the box's title. The same graph gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from fourfold.core.context import Ref
from fourfold.core.layers import Box, Layout, Link, Point, arrange
from fourfold.core.lineage import ColumnEdge, ColumnGraph, How, LineageGraph

MOST_BOXES = 300
"""Things drawn at most, the nearest first: more is no picture any more."""
MOST_ROWS = 60
"""Columns drawn of one version at most."""

_LETTER = 7.3
_PAD, _GAP_X, _GAP_Y = 28.0, 76.0, 18.0
_CARD, _PILL, _ROW, _HEAD = 46.0, 30.0, 20.0, 42.0
_NARROWEST, _WIDEST = 118.0, 280.0
_ACTIONS = ("step", "flow_run")

_COLOURS: Mapping[str, tuple[str, str]] = {
    # kind: in the light, in the dark
    "table": ("#2563c9", "#6ea8fe"),
    "training_set": ("#0b7f63", "#4fd1ae"),
    "feature_service": ("#3f7a12", "#9bd16a"),
    "run": ("#b4530f", "#f5a35c"),
    "model": ("#7a3fc4", "#c29bff"),
    "endpoint": ("#b32468", "#ff8fc0"),
    "blob": ("#7d6115", "#d9bd62"),
    "step": ("#5a6675", "#9aa7b8"),
    "flow_run": ("#414b58", "#b7c2cf"),
}
_OTHER = ("#5a6675", "#9aa7b8")
_LINES: Mapping[str, tuple[str, str, str]] = {
    # class: in the light, in the dark, dashes
    "plain": ("#9aa5b3", "#5d6978", ""),
    "identity": ("#2563c9", "#6ea8fe", ""),
    "transformation": ("#7a3fc4", "#c29bff", ""),
    "aggregation": ("#b4530f", "#f5a35c", ""),
    "steers": ("#9aa5b3", "#5d6978", "4 4"),
    "unknown": ("#c22f2f", "#ff8585", "1 4"),
    "masked": ("#5a6675", "#9aa7b8", "9 3"),
}
_LEGEND = (
    ("identity", "the value itself"),
    ("transformation", "computed from it"),
    ("aggregation", "from many rows"),
    ("steers", "decides rows or order"),
    ("unknown", "could not be followed"),
)


def of_things(graph: LineageGraph) -> str:
    """Things and what was made from what, from left to right."""
    refs = graph.nodes[:MOST_BOXES]
    index = {ref: i for i, ref in enumerate(refs)}
    cards = [_card(ref, is_start=ref == graph.start) for ref in refs]
    links = [
        Link(s, t, cards[s].height / 2, cards[t].height / 2)
        for s, t in sorted(
            {
                (index[edge.source], index[edge.target])
                for edge in graph.edges
                if edge.source in index and edge.target in index
            }
        )
    ]
    layout = arrange([Box(c.width, c.height) for c in cards], links, gap_x=_GAP_X, gap_y=_GAP_Y)
    lines = [_line(course, "plain") for course in layout.courses]
    notes = _notes(len(graph.nodes) - len(refs), is_complete=graph.is_complete)
    return _drawn(f"Lineage of {graph.start}, {graph.direction}", cards, layout, lines, notes, [])


def of_columns(graph: ColumnGraph) -> str:
    """Versions with their columns, and which column acts on which."""
    shown = _shown(graph)
    refs = list(shown)[:MOST_BOXES]
    index = {ref: i for i, ref in enumerate(refs)}
    unknown = {made.target: made.unknown for made in graph.queries if made.unknown}
    cards = [
        _card(ref, columns=shown[ref][:MOST_ROWS], is_start=ref == graph.start, note=unknown.get(ref, ""))
        for ref in refs
    ]
    links: list[Link] = []
    drawn: list[tuple[str, bool, str]] = []
    for (source, column, target, onto), edges in _by_ends(graph.edges):
        if source not in index or target not in index:
            continue
        from_card, to_card = cards[index[source]], cards[index[target]]
        links.append(Link(index[source], index[target], from_card.port(column), to_card.port(onto)))
        drawn.append((_strongest(edges), all(edge.is_masked for edge in edges), _words(edges)))
    layout = arrange([Box(c.width, c.height) for c in cards], links, gap_x=_GAP_X + 30, gap_y=_GAP_Y)
    lines = [
        _line(course, kind, is_masked=masked, title=title)
        for course, (kind, masked, title) in zip(layout.courses, drawn, strict=True)
    ]
    used = {kind for kind, _, _ in drawn}
    legend = [(kind, words) for kind, words in _LEGEND if kind in used]
    if any(masked for _, masked, _ in drawn):
        legend.append(("masked", "only a hash or a count"))
    notes = _notes(len(shown) - len(refs), is_complete=graph.is_complete)
    what = f"{graph.start}#{graph.column}" if graph.column else str(graph.start)
    return _drawn(f"Columns of {what}, {graph.direction}", cards, layout, lines, notes, legend)


# What is drawn


@dataclass(frozen=True, slots=True)
class _Card:
    """A box as it is drawn: an action as a pill, a version with the rows of its columns."""

    ref: Ref
    title: str
    over: str
    width: float
    height: float
    columns: tuple[str, ...] = ()
    is_start: bool = False
    note: str = ""

    def port(self, column: str) -> float:
        """At which height a link to a column ends; the head stands for all rows."""
        if column not in self.columns:
            return _HEAD / 2
        return _HEAD + _ROW * (self.columns.index(column) + 0.5)


def _card(ref: Ref, *, columns: Sequence[str] = (), is_start: bool, note: str = "") -> _Card:
    title, over = _labels(ref)
    texts = [title, over, *(f"   {column}" for column in columns)]
    width = min(max(_NARROWEST, *(_letters(text) * _LETTER + 30 for text in texts)), _WIDEST)
    card = _HEAD + _ROW * len(columns) + 8 if columns else _CARD
    height = _PILL if ref.kind in _ACTIONS else card
    return _Card(ref, title, over, width, height, tuple(columns), is_start, note)


def _labels(ref: Ref) -> tuple[str, str]:
    """The name of a thing as people know it, and what stands over it."""
    name = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", ref.name)
    version = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", ref.version)
    kind = ref.kind.replace("_", " ")
    match ref.kind:
        case "step":
            return name.rpartition("/")[2], kind
        case "flow_run":
            return name, kind
        case "model":
            return f"{name}/{version}" if version else name, kind
        case _:
            return name, f"{kind} · {version}" if version else kind


def _shown(graph: ColumnGraph) -> dict[Ref, list[str]]:
    """Each version with the columns that are spoken of, the start first."""
    found: dict[Ref, dict[str, None]] = {graph.start: {graph.column: None} if graph.column else {}}
    for edge in graph.edges:
        for ref, column in ((edge.target, edge.column), (edge.source, edge.source_column)):
            names = found.setdefault(ref, {})
            if column:
                names[column] = None
    return {ref: list(names) for ref, names in found.items()}


def _by_ends(
    edges: Iterable[ColumnEdge],
) -> list[tuple[tuple[Ref, str, Ref, str], list[ColumnEdge]]]:
    found: dict[tuple[Ref, str, Ref, str], list[ColumnEdge]] = {}
    for edge in edges:
        found.setdefault((edge.source, edge.source_column, edge.target, edge.column), []).append(edge)
    return sorted(found.items())


def _strongest(edges: Sequence[ColumnEdge]) -> str:
    hows = {edge.how for edge in edges}
    for how in (How.aggregation, How.transformation, How.identity, How.unknown):
        if how in hows:
            return how.value
    return "steers"


def _words(edges: Sequence[ColumnEdge]) -> str:
    one = edges[0]
    hows = ", ".join(edge.how.value + (" (masked)" if edge.is_masked else "") for edge in edges)
    source = f"{one.source}#{one.source_column}" if one.source_column else str(one.source)
    target = f"{one.target}#{one.column}" if one.column else f"all rows of {one.target}"
    return f"{source} → {target}: {hows}"


def _notes(left_out: int, *, is_complete: bool) -> list[str]:
    notes = [f"{left_out} more not drawn, the farthest: ask for less depth"] if left_out else []
    return notes if is_complete else [*notes, "there is more beyond: ask for more depth"]


# Drawing


def _drawn(
    title: str,
    cards: Sequence[_Card],
    layout: Layout,
    lines: Sequence[str],
    notes: Sequence[str],
    legend: Sequence[tuple[str, str]],
) -> str:
    width = max(
        layout.width + 2 * _PAD, 360.0, sum(_letters(words) * 6.2 + 56 for _, words in legend) + 2 * _PAD
    )
    below = 18.0 * len(notes) + (30.0 if legend else 0.0)
    height = layout.height + 2 * _PAD + 26 + below
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}">',
        f"<title>{_text(title)}</title>",
        f"<style>{_style()}</style>",
        _arrows(),
        '<rect class="paper" width="100%" height="100%"/>',
        f'<text class="heading" x="{_PAD:.0f}" y="{_PAD:.0f}">{_text(title)}</text>',
        f'<g transform="translate({_PAD:.0f} {_PAD + 22:.0f})">',
        *lines,
        *(_box(card, corner) for card, corner in zip(cards, layout.corners, strict=True)),
        "</g>",
    ]
    y = layout.height + _PAD + 50
    if legend:
        parts.append(_legend(legend, y))
        y += 26
    for note in notes:
        parts.append(f'<text class="note" x="{_PAD:.0f}" y="{y:.0f}">{_text(note)}</text>')
        y += 18
    return "\n".join([*parts, "</svg>", ""])


def _box(card: _Card, at: Point) -> str:
    kind = card.ref.kind if card.ref.kind in _COLOURS else "other"
    whole = str(card.ref) + (f": {card.note}" if card.note else "")
    start = " start" if card.is_start else ""
    w, h = card.width, card.height
    parts = [
        f'<g class="{kind}{start}" transform="translate({at.x:.1f} {at.y:.1f})"><title>{_text(whole)}</title>'
    ]
    if card.ref.kind in _ACTIONS:
        parts.append(f'<rect class="pill" width="{w:.1f}" height="{h:.1f}" rx="{h / 2:.1f}"/>')
        parts.append(f'<text class="action" x="{w / 2:.1f}" y="19.5">{_cut(card.title, w - 28)}</text></g>')
        return "".join(parts)
    parts.append(f'<rect class="card" width="{w:.1f}" height="{h:.1f}" rx="7"/>')
    parts.append(f'<rect class="mark" x="7" y="8" width="3.5" height="{_HEAD - 13:.1f}" rx="1.7"/>')
    parts.append(f'<text class="over" x="18" y="17">{_cut(card.over, w - 26, 6.0)}</text>')
    parts.append(f'<text class="name" x="18" y="33.5">{_cut(card.title, w - 26)}</text>')
    if card.columns:
        parts.append(f'<line class="rule" x1="8" x2="{w - 8:.1f}" y1="{_HEAD:.0f}" y2="{_HEAD:.0f}"/>')
    for row, column in enumerate(card.columns):
        y = _HEAD + _ROW * (row + 0.5)
        parts.append(f'<text class="column" x="18" y="{y + 5:.1f}">{_cut(column, w - 30)}</text>')
    return "".join([*parts, "</g>"])


def _line(course: Sequence[Point], kind: str, *, is_masked: bool = False, title: str = "") -> str:
    """A course in cubic curves: straight within each pair of points, bent between pairs."""
    start, *rest = course
    path = [f"M{start.x:.1f} {start.y:.1f}"]
    here = start
    for step, there in enumerate(rest):
        if step % 2 == 0:  # within a pair
            if there != here:
                path.append(f"L{there.x:.1f} {there.y:.1f}")
        else:
            end = Point(there.x - 5, there.y) if step == len(rest) - 2 else there
            middle = (here.x + end.x) / 2
            path.append(f"C{middle:.1f} {here.y:.1f} {middle:.1f} {end.y:.1f} {end.x:.1f} {end.y:.1f}")
        here = there
        if step == len(rest) - 2:
            break
    words = f"<title>{_text(title)}</title>" if title else ""
    masked = " masked" if is_masked else ""
    return (
        f'<path class="line {kind}{masked}" d="{"".join(path)}" marker-end="url(#to-{kind})">{words}</path>'
    )


def _legend(legend: Sequence[tuple[str, str]], y: float) -> str:
    parts, x = [], _PAD
    for kind, words in legend:
        parts.append(f'<path class="line {kind}" d="M{x:.0f} {y - 4:.0f}h24"/>')
        parts.append(f'<text class="note" x="{x + 31:.0f}" y="{y:.0f}">{_text(words)}</text>')
        x += _room(words)
    return "".join(parts)


def _arrows() -> str:
    shape = '<path d="M0 0L7 3.5L0 7z"/>'
    marks = (
        f'<marker id="to-{kind}" class="{kind}" viewBox="0 0 7 7" refX="2" refY="3.5" markerWidth="5.5" '
        f'markerHeight="5.5" orient="auto">{shape}</marker>'
        for kind in _LINES
    )
    return "<defs>" + "".join(marks) + "</defs>"


def _style() -> str:
    def theme(dark: bool) -> str:
        i = int(dark)
        paper, card, edge, ink, soft = (
            ("#14181e", "#1d232b", "#39434f", "#e8edf3", "#95a1b0")
            if dark
            else ("#fbfcfd", "#ffffff", "#d5dbe3", "#1c2430", "#66717f")
        )
        rules = [
            f".paper{{fill:{paper}}}.card{{fill:{card};stroke:{edge}}}.rule{{stroke:{edge}}}",
            f".name,.column,.heading{{fill:{ink}}}.over,.note{{fill:{soft}}}.pill{{fill:{paper}}}",
        ]
        for kind, colours in [*_COLOURS.items(), ("other", _OTHER)]:
            c = colours[i]
            rules.append(
                f".{kind} .mark,.{kind} .action{{fill:{c}}}.{kind} .pill,.{kind}.start .card{{stroke:{c}}}"
            )
        for kind, line in _LINES.items():
            rules.append(f".line.{kind}{{stroke:{line[i]}}}marker.{kind}{{fill:{line[i]}}}")
        return "".join(rules)

    dashes = "".join(f".line.{k}{{stroke-dasharray:{d}}}" for k, (_, _, d) in _LINES.items() if d)
    return (
        "text{font-family:Inter,'Segoe UI',system-ui,'Helvetica Neue',Arial,sans-serif;font-size:12.5px}"
        ".heading{font-size:13px;font-weight:600}.name{font-weight:600}.over{font-size:10.5px}"
        ".note{font-size:11px}.action{text-anchor:middle;font-size:12px;font-weight:500}"
        ".line{fill:none;stroke-width:1.5}.card,.pill{stroke-width:1.2}"
        ".start .card,.start .pill{stroke-width:2.4}"
        f"{dashes}{theme(False)}@media(prefers-color-scheme:dark){{{theme(True)}}}"
    )


def _room(words: str) -> float:
    """What an entry of the legend takes."""
    return _letters(words) * 5.6 + 50


# Texts


def _letters(text: str) -> int:
    """The width of a text in letters: those of Chinese, Japanese and Korean, and emoji, count two."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def _cut(text: str, room: float, letter: float = _LETTER) -> str:
    """As much of a text as fits, escaped."""
    most, taken = max(int(room / letter), 1), 0
    for position, each in enumerate(text):
        taken += _letters(each)
        if taken > most:
            return _text(text[: max(position - 1, 1)].rstrip() + "…")
    return _text(text)


def _text(text: str) -> str:
    """A text as XML can hold it: control signs and halves of pairs cannot be said in it at all."""
    return escape("".join(each if _is_sayable(each) else "\ufffd" for each in text), {'"': "&quot;"})


def _is_sayable(each: str) -> bool:
    code = ord(each)
    is_half = 0xD800 <= code <= 0xDFFF
    return each in "\t\n\r" or not (code < 0x20 or is_half or code in (0xFFFE, 0xFFFF))
