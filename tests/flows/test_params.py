"""Parameters of flows, code bundles and schedules, without a process."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from fourfold.core.decide.schedule import MOST_CATCH_UP, due
from fourfold.core.errors import Corrupted, Refused
from fourfold.core.flows import Code, DeployedFlow, RunId
from fourfold.core.times import SECOND_US, Instant, instant, iso
from fourfold.resources.flows import api as ff
from fourfold.resources.flows import bundle, messages, params


@ff.flow(schedule=ff.cron("30 3 * * *", tz="America/New_York"))
def sweep(
    n: int,
    share: float = 0.5,
    days: list[dt.date] | None = None,
    mode: Literal["fast", "slow"] = "fast",
    where: Path = Path("x"),
    day: dt.date = ff.scheduled_day,
) -> None:
    pass


AT = instant(dt.datetime(2013, 1, 2, 3, 0, tzinfo=dt.UTC))  # still the first of January in New York


def read(given: dict[str, Any]) -> dict[str, Any]:
    return params.read(sweep, params.check(sweep, given), at=AT)


def test_values_come_to_the_body_as_their_types() -> None:
    given = {"n": 3, "share": 1, "days": [dt.date(2013, 1, 5)], "mode": "slow", "where": Path("a/b")}
    assert read(given) == {**given, "share": 1.0, "day": dt.date(2013, 1, 1)}
    assert read({"n": 3})["days"] is None


def test_text_is_read_by_the_type_that_is_asked_for() -> None:
    texts = {
        "n": "3",
        "share": "1",
        "days": '["2013-01-05"]',
        "mode": "slow",
        "where": "7",
        "day": "2013-02-03",
    }
    assert params.read(sweep, params.from_text(sweep, texts), at=AT) == {
        "n": 3,
        "share": 1.0,
        "days": [dt.date(2013, 1, 5)],
        "mode": "slow",
        "where": Path("7"),
        "day": dt.date(2013, 2, 3),
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": "three"}, "'n' of flow 'sweep' takes int, not 'three'"),
        ({"n": True}, "takes int, not True"),
        ({"n": 1, "mode": "quick"}, "'mode' of flow 'sweep' takes"),
        ({"n": 1, "days": ["tomorrow"]}, "'days' of flow 'sweep' takes"),
        ({"n": 1, "where": object()}, "'where' of flow 'sweep' cannot be written as JSON"),
        ({"n": 1, "shar": 2}, r"no parameter 'shar'\n  did you mean 'share'\?"),
        ({}, "needs a value for 'n'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        params.check(sweep, given)


def test_a_flow_knows_the_steps_that_it_names_and_no_others() -> None:
    assert set(outer.steps()) == {"named", "inner_step"}


@ff.step
def named() -> None: ...


@ff.step
def inner_step() -> None: ...


@ff.step
def stranger() -> None: ...


def helper() -> Any:
    return [inner_step() for _ in range(2)]


@ff.flow
def outer() -> Any:
    named()
    return helper()


def test_impossible_steps_and_schedules_are_refused_where_they_are_written() -> None:
    with pytest.raises(Refused, match="'4 gigs' is not an amount of memory"):
        ff.step(memory="4 gigs")
    with pytest.raises(Refused, match="'ten minutes' is not a duration"):
        ff.step(timeout="ten minutes")
    with pytest.raises(Refused, match="from 0 to 1000 times, not -1"):
        ff.step(retries=-1)
    with pytest.raises(Refused, match="runs from more to less"):
        ff.step(backoff="5m..1s")
    with pytest.raises(Refused, match="minute 61 is not from 0 to 59"):
        ff.cron("61 * * * *")
    with pytest.raises(Refused, match="America/New_Yrok"):
        ff.cron("@daily", tz="America/New_Yrok")
    with pytest.raises(Refused, match="take none, latest or all"):
        ff.cron("@daily", catchup="some")
    with pytest.raises(Refused, match="is a generator or a coroutine"):

        @ff.step
        async def wrong() -> None: ...


# Bundles


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


FILES = {
    "job.py": "import shop.prices\nfrom shop import goods\nimport json, numpy\n",
    "shop/__init__.py": "",
    "shop/prices.py": "from .rates import RATE\n",
    "shop/rates.py": "RATE = 2\n",
    "shop/goods.py": "def late():\n    from .stock import count\n",
    "shop/stock.py": "",
    "shop/unused.py": "",
    "numpy_notes.py": "",
}


def test_a_bundle_holds_the_projects_modules_that_are_imported_and_no_others(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    place = bundle.Place("job", tmp_path / "job.py", tmp_path)
    files = bundle.closure(place)
    assert list(files) == ["job", "shop", "shop.goods", "shop.prices", "shop.rates", "shop.stock"]
    data = bundle.pack(files)
    assert data == bundle.pack(bundle.closure(place))
    folder = bundle.unpack(data, tmp_path / "code", bundle.bundle_digest(data))
    assert (folder / "shop" / "rates.py").read_text() == "RATE = 2\n"
    assert bundle.unpack(data, tmp_path / "code", folder.name) == folder


def test_only_what_a_module_imports_changes_its_digest(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    place = bundle.Place("shop.prices", tmp_path / "shop" / "prices.py", tmp_path)
    before = bundle.digest(bundle.closure(place))
    write(tmp_path, {"shop/goods.py": "changed = True\n"})
    assert bundle.digest(bundle.closure(place)) == before
    write(tmp_path, {"shop/rates.py": "RATE = 3\n"})
    assert bundle.digest(bundle.closure(place)) != before


def test_a_bundle_that_is_not_what_it_should_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupted, match="does not hold what it should"):
        bundle.unpack(b"other bytes", tmp_path, "0" * 40)
    assert not any(tmp_path.iterdir())


def test_a_flow_in_a_notebook_is_told_where_to_go() -> None:
    module = type(sys)("__main__")
    with pytest.raises(Refused, match=r"not a file \(a notebook or a console\?\)"):
        bundle.place_of(module)


# Schedules


def deployed(**more: Any) -> DeployedFlow:
    return DeployedFlow("sweep", Code("d", "m", "sweep"), AT, **{"cron": "30 3 * * *", **more})


def day(number: int, hour: int = 0, minute: int = 0) -> Instant:
    return instant(dt.datetime(2013, 1, number, hour, minute, tzinfo=dt.UTC))


def test_each_tick_is_due_once() -> None:
    first = due(deployed(last_tick=day(5)), day(5, 3, 30))
    assert [iso(tick) for tick in first.fire] == ["2013-01-05T03:30:00Z"]
    assert due(deployed(last_tick=first.last_tick), day(5, 3, 30)).fire == ()
    assert due(deployed(last_tick=first.last_tick), day(4)).fire == ()
    assert first.next_at == day(6, 3, 30)


@pytest.mark.parametrize(
    ("catchup", "fired"),
    [("none", []), ("latest", [9]), ("all", [6, 7, 8, 9])],
    ids=["none", "latest", "all"],
)
def test_missed_ticks_are_made_up_by_the_rule(catchup: str, fired: list[int]) -> None:
    decision = due(deployed(last_tick=day(6), catchup=catchup), day(10))
    assert decision.fire == tuple(day(number, 3, 30) for number in fired)
    assert decision.last_tick == day(9, 3, 30)
    assert decision.next_at == day(10, 3, 30)


def test_after_years_of_silence_no_more_is_looked_at_than_wanted() -> None:
    ten_years_later = Instant(day(1) + 3650 * 86400 * SECOND_US)
    decision = due(deployed(cron="* * * * *", last_tick=day(1), catchup="all"), ten_years_later)
    assert len(decision.fire) == MOST_CATCH_UP
    assert decision.passed_over < 24 * 60
    assert decision.reason.endswith("or more missed and passed over")


def test_a_ticks_day_is_the_day_in_the_schedules_zone() -> None:
    flow = deployed(tz="America/New_York", scheduled_param="day", params={"n": 1})
    run = messages.run_of(flow, RunId("r"), day(9), tick=AT, params={}, key="")
    assert run.params == {"day": "2013-01-01", "n": 1}
    assert run.key == f"schedule/sweep/{AT}"
    by_hand = messages.run_of(flow, RunId("r"), day(9), tick=None, params={"day": "2012-05-05"}, key="k")
    assert (by_hand.params["day"], by_hand.key) == ("2012-05-05", "k")
