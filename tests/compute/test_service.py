"""Jobs are recorded once with their cost as it was, units with their newest measurement, environments with
their locks: on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fourfold.catalog.database import Catalog
from fourfold.core.compute import Figure, FigureName, Held, JobReport, Measurement, Unit
from fourfold.core.decide.deadline import RunTimes
from fourfold.core.environment import Environment
from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.engine import Exit, ExitKind, Usage
from fourfold.core.quality import TaskName, TaskResult, TimeToQuality
from fourfold.core.times import Instant
from fourfold.foundation.compute import tables
from fourfold.foundation.compute.environments import Environments, lock_for
from fourfold.foundation.compute.service import Compute
from fourfold.foundation.compute.tables import ComputeTables
from fourfold.testing.clock import MovableClock

UNIT = Unit("local", cores=4, memory_bytes=16 << 30, cpu_model="Chip")


@pytest.fixture
def compute(catalog: Catalog, home: Path, clock: MovableClock) -> Compute:
    return service(catalog, home, clock)


def service(catalog: Catalog, home: Path, clock: MovableClock, price: float = 0.40) -> Compute:
    return Compute(
        catalog,
        clock,
        home=home,
        environments=Environments(home),
        prices_usd_per_hour={"local": price},
        find=lambda name: replace(UNIT, name=name),
    )


def report(key: str, *, at: int = 0, flow_run: str = "flow_1", **changes: object) -> JobReport:
    basis = JobReport(
        key=key,
        name="fit",
        unit="local",
        started_at=Instant(at),
        ended_at=Instant(at + 10_000_000),
        exit=Exit(ExitKind.failed, "exit status 3", 3),
        usage=Usage(10.0, 9.5, 2 << 30, 100, 200, False, 1e12),
        held=Held(2.0, 1 << 30, 0.0),
        flow_run=flow_run,
        environment="env-x",
        user="ada",
    )
    return replace(basis, **changes)  # type: ignore[arg-type]


def test_what_is_recorded_is_read_back_whole(compute: Compute) -> None:
    usage = Usage(10.0, 9.5, 2 << 30, 1, 2, False, 1e12, 1 << 30, 0.5, None, 2.5, 3 << 30)
    trace = ((1000, 900, 1 << 30, 10, 20), (10_000, 9500, 2 << 30, 100, 200))
    (job,) = compute.record((report("run/fit#1/1", usage=replace(usage, trace=trace)),))
    assert compute.job("run/fit#1/1") == job
    assert job.account.cost_nanousd == round(0.40 * 1e9 * 10 * 0.5 / 3600)
    (listed,) = compute.jobs("flow_1")
    assert replace(listed, report=replace(listed.report, usage=replace(usage, trace=trace))) == job
    assert compute.jobs("flow_2") == ()


def test_a_job_recorded_twice_counts_once(compute: Compute) -> None:
    (first,) = compute.record((report("a"),))
    compute.record((report("a", usage=Usage(99.0, 1.0)), report("b")))
    assert compute.job("a") == first
    assert compute.totals("flow_1").job_count == 2


def test_jobs_of_a_flow_run_come_in_the_order_of_their_start(compute: Compute) -> None:
    compute.record(tuple(report(f"k{at}", at=at) for at in (3, 1, 2)))
    assert [job.report.key for job in compute.jobs("flow_1")] == ["k1", "k2", "k3"]
    assert [job.report.key for job in compute.jobs(limit=2)] == ["k3", "k2"]
    assert compute.jobs(limit=0) == ()
    assert compute.record(()) == ()


def test_a_price_that_changes_later_does_not_change_what_was_paid(
    catalog: Catalog, home: Path, clock: MovableClock
) -> None:
    cheap, dear = service(catalog, home, clock, 0.10), service(catalog, home, clock, 9.0)
    cheap.record((report("a"),))
    dear.record((report("b"),))
    assert dear.job("a").account.price_usd_per_hour == 0.10
    both = dear.totals("flow_1")
    assert both.cost_nanousd == dear.job("a").account.cost_nanousd + dear.job("b").account.cost_nanousd
    assert both.cpu_s == pytest.approx(19.0)
    assert both.utilisation == pytest.approx(9.5 / 20)


def test_recording_joins_the_callers_unit_of_work(compute: Compute, catalog: Catalog) -> None:
    def fails() -> None:
        with catalog.write() as connection:
            compute.record_in(connection, (report("lost"),))
            raise RuntimeError("the loop's own commit failed")

    with pytest.raises(RuntimeError, match="own commit"):
        fails()
    with catalog.write() as connection:
        compute.record_in(connection, (report("kept"),))
        compute.record_in(connection, ())
    assert [job.report.key for job in compute.jobs()] == ["kept"]


def test_an_unknown_job_or_unit_or_environment_names_the_nearest(compute: Compute) -> None:
    compute.record((report("run/fit#1/1"),))
    with pytest.raises(NotFound, match="did you mean 'run/fit#1/1'"):
        compute.job("run/fit#1/2")
    with pytest.raises(NotFound, match="did you mean 'local'"):
        compute.bench("locl")
    with pytest.raises(NotFound, match="not known here"):
        compute.environment("env-0")


def test_a_job_of_a_unit_that_is_no_longer_configured_is_still_recorded(compute: Compute) -> None:
    compute.record((report("a", unit="sold"),))
    assert compute.job("a").report.unit == "sold"


def test_units_show_the_newest_measurement_of_their_own_hardware(
    compute: Compute, catalog: Catalog, home: Path, clock: MovableClock
) -> None:
    assert compute.units()[0].measurement is None
    tables = ComputeTables(catalog)
    figure = Figure(FigureName.fp32_all, 100.0, "GFLOP/s", 90.0, 110.0, 5)
    for number, fingerprint in enumerate((UNIT.fingerprint, UNIT.fingerprint, "other")):
        unit = UNIT if fingerprint == UNIT.fingerprint else replace(UNIT, cpu_model="Other")
        measurement = Measurement(
            f"b{number}",
            "local",
            unit.fingerprint,
            Instant(number),
            3.0,
            True,
            (figure,),
            {"numpy": "2"},
            0.5,
        )
        tables.add_measurement(unit, measurement)
    (info,) = service(catalog, home, clock).units()
    assert info.measurement is not None
    assert (info.measurement.id, info.measurement.is_confident) == ("b1", False)
    assert info.measurement.figures == (figure,)
    assert [each.id for each in compute.measurements()] == ["b1", "b0"]


def test_arithmetic_is_judged_against_the_newest_peak_that_nobody_disturbed(
    compute: Compute, catalog: Catalog
) -> None:
    (unknown,) = compute.accounted((report("a"),))
    assert unknown.account.flops_utilisation is None
    assert "peak is unknown" in unknown.account.sentence
    tables = ComputeTables(catalog)
    for number, (gflops, busy) in enumerate(((50.0, 0.0), (100.0, 0.05), (5.0, 1.5))):
        figure = Figure(FigureName.fp32_all, gflops, "GFLOP/s", gflops, gflops, 5)
        tables.add_measurement(
            UNIT,
            Measurement(
                f"b{number}", "local", UNIT.fingerprint, Instant(number), 3.0, True, (figure,), {}, busy
            ),
        )
    (judged,) = compute.accounted((report("a"),))  # 1e12 operations in 10 s, on 2 of the 4 cores
    assert judged.account.flops_utilisation == pytest.approx(1e12 / (10 * 100e9 * 0.5))


def test_the_present_environment_is_remembered_with_its_lock(compute: Compute) -> None:
    environment = compute.present_environment()
    assert compute.present_environment() == environment
    record = compute.environment(environment.identity)
    assert record.origin == "captured"
    assert "pytest==" in record.lock
    assert [each.identity for each in compute.environments()] == [environment.identity]
    assert compute.environments()[0].lock == ""


def remember(compute: Compute, environment: Environment, text: str, **changes: str) -> None:
    given = {"python": environment.python, "platform": environment.platform, "lock": text, "origin": "model"}
    identity = changes.pop("identity", environment.identity)
    compute.remember_environment(identity, **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lock": "msgspec==0.0.1 --hash=sha256:aa\n"}, "the lock gives env-"),
        ({"identity": "env-" + "0" * 32}, "the lock gives env-"),
        ({"python": "cpython-3.10"}, "the lock gives env-"),
        ({"lock": "msgspec>=1\n"}, "does not pin"),
        ({"python": "/bin/sh"}, "is not a Python"),
        ({"platform": "--flag"}, "is not a Python"),
        ({"origin": "rumour"}, "origin 'rumour' is not known"),
        ({"lock": "#" * 4_000_001}, "at most 4000000"),
    ],
)
def test_an_environment_under_another_identity_is_refused(
    compute: Compute, changes: dict[str, str], said: str
) -> None:
    environment, lock = lock_for(["msgspec"])
    with pytest.raises(Refused, match=said):
        remember(compute, environment, lock, **changes)
    assert compute.environments() == ()


def test_a_remembered_environment_finds_its_python_again(compute: Compute) -> None:
    environment, lock = lock_for(["msgspec"])
    for _ in range(2):
        remember(compute, environment, lock)
    assert Path(compute.python_for(environment.identity)).exists()


def test_a_listing_reads_no_traces_and_only_the_newest_are_kept(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_TRACES", 3)
    monkeypatch.setattr(tables, "LET_GO_EVERY", 1)
    usage = Usage(10.0, memory_mean_bytes=7, trace=((1000, 0, 5, 0, 0),))
    for at in range(6):
        compute.record((report(f"run/{at}", at=at * 1_000_000, usage=usage),))
    assert [job.report.usage.trace for job in compute.jobs()] == [()] * 6
    kept = [at for at in range(6) if compute.job(f"run/{at}").report.usage.trace]
    assert [compute.job(f"run/{at}").report.usage.memory_mean_bytes for at in range(6)] == [7] * 6
    assert kept == [3, 4, 5]


def test_advice_comes_from_the_newest_runs_of_a_step(compute: Compute) -> None:
    held, usage, well = Held(2.0, 8 << 30), Usage(10.0, 9.5, 1 << 30), Exit(ExitKind.ok)
    compute.record([report(f"run/fit#{i}/1", at=i, usage=usage, exit=well, held=held) for i in range(6)])
    compute.record([report("run/tell#1/1", name="tell"), report("note", name="note", kind="notebook")])
    compute.record([report("body", name="main", held=Held(0.0))])
    fit, tell = compute.advise()
    assert (fit.name, fit.run_count, fit.cpu, fit.memory_bytes) == ("fit", 6, 1.0, 5 << 28)
    assert fit.saving_nanousd_per_run
    assert (tell.name, tell.run_count, tell.left_out_count, tell.cpu) == ("tell", 0, 1, None)
    assert compute.advise("fit") == (fit,)
    with pytest.raises(NotFound, match="did you mean 'fit'"):
        compute.advise("fitt")


def test_a_saving_on_another_machine_is_unknown(compute: Compute) -> None:
    well = Exit(ExitKind.ok)
    compute.record([report(f"run/fit#{i}/1", at=i, exit=well, unit="lab/node") for i in range(6)])
    (fit,) = compute.advise("fit")
    assert fit.saving_nanousd_per_run is None
    assert "unknown" in fit.sentences[-1]


def measured_on(machine: str, triad: float, at: int) -> Measurement:
    figures = (Figure(FigureName.triad_all, triad, "GB/s", triad * 0.99, triad * 1.01, 5),)
    versions = {"machine": machine}
    return Measurement(machine, "local", UNIT.fingerprint, Instant(at), 3.0, True, figures, versions, 0.0)


def test_a_unit_is_shown_with_how_it_stands_among_machines_of_its_pool(
    catalog: Catalog, home: Path, clock: MovableClock
) -> None:
    here = replace(UNIT, machine="mine")
    compute = Compute(
        catalog, clock, home=home, environments=Environments(home), find=lambda name: replace(here, name=name)
    )
    kept = ComputeTables(catalog)
    for machine, triad, at in (("mine", 8.0, 1), ("a", 10.0, 2), ("b", 11.0, 3), ("c", 10.0, 4)):
        kept.add_measurement(UNIT, measured_on(machine, triad, at))
    info = compute.unit_info()
    assert info.measurement is not None
    assert info.measurement.id == "mine"  # its own, not the newest of equal hardware
    (standing,) = info.standings
    assert (standing.median, standing.other_count, standing.is_telling) == (10.0, 3, True)
    assert [made.id for made in compute.measurements(of_pool=True)] == ["c", "b", "a", "mine"]
    assert kept.measurements_of_pool("lab", 10) == ()


def trained_on(machine: str, seconds: float, *, unit: str = "local", version: int = 1) -> TimeToQuality:
    result = TaskResult(TaskName.trees, "AUC", 0.952, (), seconds, seconds * 0.99, seconds * 1.01)
    versions, fingerprint = {"machine": machine}, UNIT.fingerprint
    return TimeToQuality(
        f"{machine}{unit}{version}", unit, fingerprint, Instant(1), 60.0, version, (result,), versions, 0.0, 4
    )


def test_times_to_quality_are_held_against_those_of_the_pool_and_of_the_same_suite(
    catalog: Catalog, home: Path, clock: MovableClock
) -> None:
    here = replace(UNIT, machine="mine")
    compute = Compute(
        catalog, clock, home=home, environments=Environments(home), find=lambda name: replace(here, name=name)
    )
    kept = ComputeTables(catalog)
    of_pool = [trained_on("mine", 3.0), trained_on("a", 2.0), trained_on("b", 1.0, version=2)]
    for each in (*of_pool, trained_on("c", 1.0, unit="lab/c")):
        kept.add_quality(UNIT, each)
    (standing,) = compute.unit_info().standings
    assert (standing.name, standing.median, standing.other_count) == ("time to quality: trees", 2.0, 1)
    assert (standing.is_worse, standing.is_telling) == (True, True)
    assert {made.id for made in compute.qualities(of_pool=True)} == {made.id for made in of_pool}


def test_the_run_times_of_a_step_are_those_of_its_runs_that_ended_well(compute: Compute) -> None:
    assert compute.run_times("fit") is None
    good = [report(f"g{i}", exit=Exit(ExitKind.ok), usage=Usage(float(i)), at=i) for i in range(1, 41)]
    compute.record((*good, report("bad", usage=Usage(9000.0))))
    assert compute.run_times("fit") == RunTimes(38.0, 40)
