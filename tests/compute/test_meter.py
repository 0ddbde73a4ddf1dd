"""The meter tells what one attempt used, in a worker that ran others before."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from fourfold.core import wire
from fourfold.core.errors import Refused
from fourfold.core.jobs import Usage
from fourfold.foundation.compute.meter import counted_flops, flops, torch_flops
from fourfold.runner import meter as module
from fourfold.runner import watch
from fourfold.runner.meter import Meter


@pytest.mark.parametrize("part", [module, watch])
def test_it_is_made_of_the_standard_library_alone(part: types.ModuleType) -> None:
    tree = ast.parse(Path(str(part.__file__)).read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported <= set(sys.stdlib_module_names) | {"fourfold"}  # its own parts, and core.trace


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
    flops(1e6)
    meter.start()
    assert meter.stop()["flops"] is None
    meter.start()
    flops(2e9)
    flops(1e9)
    assert wire.convert(meter.stop(), Usage).flops == 3e9
    for wrong in (-1, float("nan")):
        with pytest.raises(Refused, match="a number of operations"):
            flops(wrong)


def test_pytorch_counts_its_own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    class FlopCounterMode:  # as torch.utils.flop_counter has it
        def __init__(self, *, display: bool = True) -> None:
            assert not display, "its table is for people who asked for it"

        def __enter__(self) -> FlopCounterMode:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def get_total_flops(self) -> int:
            return 3 * 10**9

    for name in ("torch", "torch.utils", "torch.utils.flop_counter"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["torch.utils.flop_counter"], "FlopCounterMode", FlopCounterMode, False)
    before = counted_flops()
    with torch_flops():
        pass
    assert counted_flops() - before == 3e9
    for name in ("torch", "torch.utils", "torch.utils.flop_counter"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Refused, match="torch is not installed"), torch_flops():
        pass


LONGER = """
import json, subprocess, sys
from fourfold.runner.meter import Meter
meter = Meter()
meter.start()
burns = "import time; block = bytearray(96 << 20)\\nwhile time.process_time() < 0.8: pass"
subprocess.run([sys.executable, "-I", "-S", "-c", burns], check=True)
longer = meter.stop()
meter.start()
print(json.dumps([longer, meter.stop()]))
"""


@pytest.mark.slow
def test_an_attempt_that_takes_longer_is_looked_at_with_its_children() -> None:
    # In a process of its own: this one holds what earlier tests have left, and their children.
    told = subprocess.run([sys.executable, "-c", LONGER], check=True, capture_output=True, text=True)
    usage, short = (wire.convert(each, Usage) for each in json.loads(told.stdout))
    assert usage.trace
    assert usage.disk_wait_s is not None
    assert usage.memory_mean_bytes is not None
    assert 96 << 20 < usage.memory_peak_bytes < 1 << 30  # the child's too
    assert 32 << 20 < usage.memory_mean_bytes <= usage.memory_peak_bytes
    at_ms, cpu_ms, *_ = usage.trace[-1]
    assert at_ms == pytest.approx(usage.wall_s * 1000, abs=2)
    assert cpu_ms == pytest.approx(usage.cpu_s * 1000, abs=2)
    assert (short.trace, short.disk_wait_s, short.memory_mean_bytes) == ((), None, None)


def test_a_worker_that_has_nothing_to_do_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "IDLE_S", 0.0)
    monkeypatch.setattr(watch, "FIRST_S", 0.01)
    meter = Meter()
    meter.start()
    thread = meter._watch._thread
    assert thread is not None
    meter.stop()
    thread.join(20)
    assert not thread.is_alive()
    meter.start()
    assert meter._watch._thread is not None
    meter.stop()


def test_where_the_system_tells_less_the_meter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_open", lambda path, flags: -1)
    meter = Meter()
    meter.start()
    usage = wire.convert(meter.stop(), Usage)
    assert usage.memory_peak_bytes > 0
    assert not usage.memory_peak_is_exact
    assert (usage.read_bytes, usage.written_bytes) == (None, None)
