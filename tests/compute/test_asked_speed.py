"""A step that asks for a speed: held against what was measured of this machine, by the whole of the house."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.flows.conftest import Project, opened

from fourfold.core.errors import Refused
from fourfold.core.figures import Speed, amount_text

pytestmark = pytest.mark.slow

QUICK = """
@ff.step({asked})
def fit() -> int:
    return 7

@ff.flow
def main() -> int:
    return fit().result()
"""


def run(project: Project, asked: str) -> object:
    return project.module("quick", QUICK.format(asked=asked)).main.run(show=False)


def test_a_step_runs_within_the_measured_speed_and_one_beyond_is_refused_with_the_figure(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as project:
        project.compute.bench(quick=True)
        figures = {figure.speed: figure for figure in project.compute.unit_info().speeds}
        triad, fp64 = figures[Speed.bandwidth].value, figures[Speed.fp64].value
        assert run(project, f'bandwidth="{triad / 2}GB/s", flops="fp64>={fp64 / 2}GFLOP/s"') == 7
        with pytest.raises(Refused) as refused:
            run(project, f'bandwidth="{triad * 2}GB/s"')
        had = amount_text(Speed.bandwidth, triad)
        assert f"but that of the nearest unit is {had}, measured" in str(refused.value)
        assert "nearest unit: local (2 cores, 4.0 GiB)" in str(refused.value)


def test_a_machine_that_was_never_measured_meets_no_speed_and_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        with pytest.raises(Refused) as refused:
            run(project, 'bandwidth="1GB/s"')
        assert "is unknown: it was never measured" in str(refused.value)
        assert "measure it (fourfold unit bench)" in str(refused.value)


def test_what_else_no_unit_can_give_is_refused_before_the_flow_starts(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        for asked, told in (
            ('location="mars"', "asks for a unit in mars, but the place of the nearest unit is unknown"),
            ('spot="only"', "asks for a spot unit, but the nearest unit is none"),
            ('disk="1000TiB"', "asks for 1000.0 TiB of free disk, but no unit can ever give more than"),
            ('gpu="a100, capability>=8.0"', "asks for 1 GPUs, but no unit can ever give more than 0"),
        ):
            with pytest.raises(Refused) as refused:
                run(project, asked)
            assert told in str(refused.value)
        assert project.flows.list() == ()
        assert run(project, 'disk="1MiB", spot=True') == 7
