"""The meter tells what one attempt used, in a worker that ran others before."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourfold.core import wire
from fourfold.core.errors import Refused
from fourfold.core.jobs import Usage
from fourfold.foundation.compute.counting import count_flops, counted_flops
from fourfold.runner import meter as module
from fourfold.runner.meter import Meter


def test_it_is_made_of_the_standard_library_alone() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported <= set(sys.stdlib_module_names)


def test_each_attempt_has_its_own_peak_of_memory() -> None:
    meter = Meter()
    meter.start()
    block = bytearray(96 << 20)
    large = wire.convert(meter.stop(), Usage)
    del block
    meter.start()
    small = wire.convert(meter.stop(), Usage)
    assert large.memory_peak_is_exact
    assert large.memory_peak_bytes - small.memory_peak_bytes > 64 << 20


@pytest.mark.slow
def test_time_of_processors_and_children_and_bytes_are_differences(tmp_path: Path) -> None:
    meter = Meter()
    (tmp_path / "before").write_bytes(b"x" * 100_000)
    meter.start()
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import time\nwhile time.process_time() < 0.1: pass"], check=True
    )
    usage = wire.convert(meter.stop(), Usage)
    assert usage.cpu_s >= 0.14
    assert 50_000 <= usage.written_bytes < 100_000
    assert usage.wall_s > 0


def test_after_a_fork_the_child_measures_itself() -> None:
    meter = Meter()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Both readings are the child's: how much of its parent's memory it maps differs by system.
        meter.start()
        small = meter.stop()["memory_peak_bytes"]
        meter.start()
        block = bytearray(64 << 20)
        large = meter.stop()["memory_peak_bytes"]
        del block
        os.write(tell, f"{large} {small}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    large, small = (int(word) for word in os.read(told, 64).split())
    assert large - small > 48 << 20


def test_operations_that_an_attempt_counts_are_its_own() -> None:
    meter = Meter(counted_flops)
    count_flops(1e6)
    meter.start()
    assert meter.stop()["flops"] is None
    meter.start()
    count_flops(2e9)
    count_flops(1e9)
    assert wire.convert(meter.stop(), Usage).flops == 3e9
    for wrong in (-1, float("nan")):
        with pytest.raises(Refused, match="a number of operations"):
            count_flops(wrong)


def test_where_the_system_tells_less_the_meter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_open", lambda path, flags: -1)
    meter = Meter()
    meter.start()
    usage = wire.convert(meter.stop(), Usage)
    assert usage.memory_peak_bytes > 0
    assert not usage.memory_peak_is_exact
    assert (usage.read_bytes, usage.written_bytes) == (None, None)
