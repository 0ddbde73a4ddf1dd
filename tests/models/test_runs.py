"""Runs keep what was logged, once, in order, and never in halves."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import pytest
from tests.models.conftest import Store

from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.models import Host, Metric, RunStatus
from fourfold.core.times import Instant
from fourfold.core.wire import number


def test_a_run_answers_with_all_it_was_told(any_store: Store) -> None:
    with any_store.recorder(params={"depth": 5, "lr": 1e-3, "warm": True, "note": "x"}, seed=7) as run:
        for step in range(3):
            run.log(loss=1.0 / (step + 1), step=step)
        run.log({"val/auc": 0.7})
        run.tag(team="gates")
        run.log_file(b"picture", "plots/roc curve.png")
    found = any_store.models.get_run(run.id)
    assert found.status is RunStatus.finished
    assert found.params == {"depth": 5, "lr": 1e-3, "warm": True, "note": "x"}
    assert found.metrics == {"loss": 1.0 / 3, "val/auc": 0.7}
    assert found.tags == {"team": "gates"}
    assert found.seed == 7
    assert found.data == (Ref("table", "flights", "3"),)
    assert found.code.files[0].path == "train.py"
    assert [file.path for file in found.files] == ["plots/roc curve.png"]
    assert any_store.models.get_file(run.id, path="plots/roc curve.png") == b"picture"
    curve = any_store.models.metric_history(run.id, key="loss")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_not_finite_come_back_as_they_were(any_store: Store, value: float) -> None:
    with any_store.recorder() as run:
        run.log(loss=value)
    found = any_store.models.get_run(run.id)
    assert repr(found.metric("loss")) == repr(value)
    assert [repr(number(point.value)) for point in any_store.models.metric_history(run.id, key="loss")] == [
        repr(value)
    ]


@pytest.mark.parametrize("key", ["val/auc", "false alarms", "région 🛫", "a.b-c_d", "x" * 250, "'; drop --"])
def test_keys_are_kept_as_they_are_written(any_store: Store, key: str) -> None:
    with any_store.recorder(params={key: 1}, tags={key: "t"}) as run:
        run.log({key: 2.0})
    found = any_store.models.get_run(run.id)
    assert (found.params, found.metrics, found.tags) == ({key: 1}, {key: 2.0}, {key: "t"})
    quoted = f'metrics."{key}" = 2 and params.`{key}` = 1 and tags."{key}" = \'t\''
    assert [each.id for each in any_store.models.search_runs(quoted)] == [run.id]


@pytest.mark.parametrize("key", ["", "x" * 251, "line\nbreak", " padded", "zero\0"])
def test_keys_that_nobody_could_read_are_refused(store: Store, key: str) -> None:
    with store.recorder() as run, pytest.raises(Refused, match="key"):
        run.log({key: 1.0})
    with pytest.raises(Refused, match="key"):
        store.models.create_run(store.new_run(params={key: 1}))


@pytest.mark.parametrize("value", ["0.5", None, [1], b"1"])
def test_what_is_no_number_is_no_metric(store: Store, value: object) -> None:
    with store.recorder() as run, pytest.raises(Refused, match="a metric is a number"):
        run.log(loss=value)  # type: ignore[arg-type]


def test_a_parameter_keeps_its_first_value(any_store: Store) -> None:
    with any_store.recorder(params={"depth": 5}) as run:
        run.log_params(depth=5, width=2)
        with pytest.raises(Refused, match="keeps its first value") as caught:
            run.log_params(depth=6, height=1)
        assert "depth: 5, not 6" in str(caught.value)
    # All or nothing: the new parameter beside the refused one was not kept either.
    assert any_store.models.get_run(run.id).params == {"depth": 5, "width": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a/%2e%2e/x", "%2E%2E/x", "a//b", "", "C:\\x", "c:/x", "a\\..\\b",
     "x?y", "x#y", "a/./b", "a\nb", "d" * 2000],
)  # fmt: skip
def test_paths_that_could_leave_their_folder_are_refused(store: Store, path: str) -> None:
    digest = store.blobs.put(b"x")
    with store.recorder() as run:
        with pytest.raises(Refused, match="is not inside the folder"):
            store.models.add_file(run.id, path=path, digest=digest, size_bytes=1)
        with pytest.raises(Refused):
            store.models.get_file(run.id, path=path)
    assert store.models.get_run(run.id).files == ()


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to("/etc/passwd")
    with store.recorder() as run, pytest.raises(Refused, match="is a link"):
        run.log_file(link)


def test_a_file_whose_bytes_are_not_stored_is_refused(store: Store) -> None:
    digest = store.blobs.put(b"gone")
    store.blobs.delete(digest)
    with store.recorder() as run, pytest.raises(NotFound, match="put the blob first"):
        store.models.add_file(run.id, path="x", digest=digest, size_bytes=4)


def test_a_run_that_raises_is_failed_with_its_reason(store: Store) -> None:
    run = store.recorder()

    def train() -> None:
        with run:
            run.log(loss=0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    found = store.models.get_run(run.id)
    assert (found.status, found.metrics) == (RunStatus.failed, {"loss": 0.5})
    assert "ZeroDivisionError" in found.reason


def test_an_ended_run_takes_nothing_more(store: Store) -> None:
    with store.recorder() as run:
        pass
    with pytest.raises(Refused, match="has ended"):
        run.log(loss=1)
    assert store.models.end_run(run.id, status=RunStatus.finished).status is RunStatus.finished
    assert store.models.end_run(run.id, status=RunStatus.failed).status is RunStatus.finished


def test_points_sent_twice_count_once(any_store: Store) -> None:
    run = any_store.models.create_run(any_store.new_run())
    points = tuple(Metric("loss", float(step), step, Instant(step + 1)) for step in range(10))
    for _ in range(2):
        any_store.models.log(run.id, metrics=points)
    assert any_store.models.metric_history(run.id, key="loss") == points
    assert any_store.models.get_run(run.id).metrics == {"loss": 9.0}


def test_the_latest_value_is_that_of_the_greatest_step_whatever_came_last(any_store: Store) -> None:
    run = any_store.models.create_run(any_store.new_run())
    any_store.models.log(run.id, metrics=(Metric("loss", 0.1, 9, Instant(5)),))
    any_store.models.log(run.id, metrics=(Metric("loss", 0.9, 2, Instant(7)),))
    assert any_store.models.get_run(run.id).metrics == {"loss": 0.1}


def test_a_process_that_died_leaves_a_lost_run(any_store: Store) -> None:
    dead = 2**22 - 3  # beyond any process of this machine
    run = any_store.models.create_run(any_store.new_run(host=Host("box", dead)))
    found = any_store.models.get_run(run.id)
    assert found.status is RunStatus.lost
    assert "ended without saying so" in found.reason


def test_a_silent_run_elsewhere_is_lost_after_its_lease_and_back_when_it_speaks(any_store: Store) -> None:
    run = any_store.models.create_run(any_store.new_run(host=Host("far away", 7)))
    any_store.clock.advance(60)
    assert any_store.models.search_runs("status = 'running'")[0].id == run.id
    any_store.clock.advance(60)
    assert any_store.models.search_runs("status = 'lost'")[0].id == run.id
    any_store.models.log(run.id, metrics=(Metric("loss", 1.0),))
    assert any_store.models.get_run(run.id).status is RunStatus.running


def test_a_living_process_of_this_machine_is_not_lost(store: Store) -> None:
    run = store.models.create_run(store.new_run(host=Host("box", os.getpid())))
    assert store.models.get_run(run.id).status is RunStatus.running


def test_a_retried_step_begins_its_run_anew_and_the_old_attempt_is_fenced(any_store: Store) -> None:
    step = Ref("step", "flow_1/train#1", "1")
    first = any_store.models.create_run(any_store.new_run(step=step, attempt=1), key="k")
    any_store.models.log(first.id, metrics=(Metric("loss", 0.5),), params={"a": 1}, attempt=1)
    second = any_store.models.create_run(any_store.new_run(step=step, attempt=2), key="k")
    assert second.id == first.id
    assert (second.metrics, second.params, second.attempt) == ({}, {}, 2)
    with pytest.raises(Conflict, match="attempt 1 is over"):
        any_store.models.log(first.id, metrics=(Metric("loss", 0.1),), attempt=1)
    with pytest.raises(Conflict, match="attempt 1 is over"):
        any_store.models.create_run(any_store.new_run(step=step, attempt=1), key="k")
    assert any_store.models.search_runs("flow_run = 'flow_1'")[0].id == first.id


def test_two_threads_log_into_one_run_and_lose_nothing(store: Store) -> None:
    with store.recorder() as run:

        def work(name: str) -> None:
            for step in range(700):
                run.log({name: float(step)}, step=step)

        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in ("a", "b"):
        assert len(store.models.metric_history(run.id, key=name)) == 700


def test_bounds_are_refused_before_anything_is_kept(store: Store) -> None:
    run = store.models.create_run(store.new_run())
    with pytest.raises(Refused, match="at most"):
        store.models.log(run.id, metrics=tuple(Metric("x", 1.0, step) for step in range(10_001)))
    with pytest.raises(Refused, match="log it as a file"):
        store.models.log(run.id, tags={"text": "x" * 200_000})
    with pytest.raises(Refused, match="64-bit"):
        store.models.log(run.id, metrics=(Metric("x", 1.0, 2**63),))
    with pytest.raises(Refused, match="limit"):
        store.models.search_runs(limit=0)
    with pytest.raises(NotFound):
        store.models.log("run_none")
    assert store.models.get_run(run.id).metrics == {}


def test_experiments_count_their_runs(any_store: Store) -> None:
    for experiment in ("b", "a", "b"):
        any_store.models.create_run(any_store.new_run(experiment=experiment))
    assert [(e.name, e.run_count) for e in any_store.models.list_experiments()] == [("a", 1), ("b", 2)]
