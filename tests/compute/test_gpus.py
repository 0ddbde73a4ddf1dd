"""GPUs as NVML tells of them: against an imitation of its library, compiled here. No GPU was ever asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from tests.compute.fake_nvml import FakeDriver, FakeGpu, FakeProcess

from fourfold.core.compute import Figure, FigureName, Gpu, Unit
from fourfold.core.decide.measured import OF_A_GPU
from fourfold.foundation.compute import bench, measure_gpu
from fourfold.foundation.compute.gpus import find_gpus
from fourfold.foundation.compute.nvml import Nvml, open_nvml
from fourfold.runner.gpu import Gpus

pytestmark = pytest.mark.slow

LARGE, SMALL = FakeGpu(), FakeGpu("Tesla T4", "GPU-1", 16 << 30, (7, 5))
DIVIDED = FakeGpu(
    "NVIDIA H100",
    "GPU-2",
    80 << 30,
    (9, 0),
    rate=-1,
    instances=(
        FakeGpu("NVIDIA H100 MIG 1g.10gb", "MIG-a", 10 << 30, rate=-1),
        FakeGpu("NVIDIA H100 MIG 2g.20gb", "MIG-b", 20 << 30, rate=-1),
    ),
)


def names(gpus: tuple[Gpu, ...]) -> list[str]:
    return [gpu.name for gpu in gpus]


def opened(driver: FakeDriver, folder: Path) -> Nvml:
    nvml = open_nvml(driver.library(folder))
    assert isinstance(nvml, Nvml)
    return nvml


def test_gpus_are_found_with_memory_capability_and_uuid(tmp_path: Path) -> None:
    found, fewer = find_gpus({}, root=tmp_path, library=FakeDriver([LARGE, SMALL]).library(tmp_path))
    assert found == (
        Gpu("NVIDIA A100-SXM4-40GB", 40 << 30, "GPU-0", "8.0"),
        Gpu("Tesla T4", 16 << 30, "GPU-1", "7.5"),
    )
    assert fewer == ()


def test_only_gpus_that_cuda_may_see_are_ours(tmp_path: Path) -> None:
    library = FakeDriver([LARGE, SMALL, DIVIDED]).library(tmp_path)

    def seen(named: str) -> list[str]:
        return [gpu.uuid for gpu in find_gpus({"CUDA_VISIBLE_DEVICES": named}, library=library)[0]]

    assert seen("1") == ["GPU-1"]
    assert seen("1,0") == ["GPU-1", "GPU-0"]
    assert seen("GPU-1") == ["GPU-1"]
    assert seen("MIG-b") == ["MIG-b"]
    assert seen("2") == ["MIG-a"]  # of a divided GPU CUDA takes the first instance
    assert seen("") == seen("-1") == seen("NoDevFiles") == seen("GPU-") == seen("0,0") == []
    assert seen("0,9,1") == ["GPU-0"]  # what follows a wrong name is not looked at
    _, fewer = find_gpus({"CUDA_VISIBLE_DEVICES": "1"}, library=library)
    assert fewer == ("1 of 4 GPUs by CUDA_VISIBLE_DEVICES",)


def test_of_a_divided_gpu_its_instances_are_found_and_not_the_whole(tmp_path: Path) -> None:
    found, _ = find_gpus({}, library=FakeDriver([DIVIDED]).library(tmp_path))
    assert names(found) == ["NVIDIA H100 MIG 1g.10gb", "NVIDIA H100 MIG 2g.20gb"]
    assert [(gpu.memory_bytes, gpu.capability) for gpu in found] == [(10 << 30, "9.0"), (20 << 30, "9.0")]


def test_a_gpu_that_does_not_answer_and_one_that_is_not_shown_are_said(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    refused = FakeGpu(uuid="GPU-9", error=4)
    library = FakeDriver([LARGE, refused]).library(tmp_path)
    found, fewer = find_gpus({}, root=tmp_path, library=library)
    assert names(found) == [LARGE.name]
    assert fewer == (
        "GPU 1 does not answer: Insufficient Permissions",
        "2 of 3 GPUs in /dev: the driver does not show the rest",
    )


def test_without_a_driver_there_are_no_gpus_and_device_files_are_not_passed_over(tmp_path: Path) -> None:
    nothing = str(tmp_path / "libnvidia-ml.so.1")
    assert find_gpus({}, root=tmp_path, library=nothing) == ((), ())
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    found, (why,) = find_gpus({}, root=tmp_path, library=nothing)
    assert found == ()
    assert why.startswith("none of 1 GPU in /dev: NVML does not open")
    unloaded = FakeDriver(init_error=9).library(tmp_path / "unloaded")
    _, (why,) = find_gpus({}, root=tmp_path, library=unloaded)
    assert "Driver Not Loaded" in why


def test_the_whole_way_from_the_loader_to_the_unit(tmp_path: Path) -> None:
    FakeDriver([LARGE, SMALL]).library(tmp_path)
    code = "from fourfold.foundation.compute.units import find_unit as f; print(*(g.uuid for g in f().gpus))"
    environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout == "GPU-1\n"


def test_use_is_counted_by_process_and_memory_is_that_of_ours(tmp_path: Path) -> None:
    own = os.getpid()
    driver = FakeDriver(
        [LARGE, SMALL],
        [
            FakeProcess("GPU-0", own, 4 << 30, rate=30),
            FakeProcess("GPU-0", 1, 9 << 30, rate=70),
            FakeProcess("GPU-1", own, 2**64 - 1, rate=20),  # memory that the driver does not tell
        ],
    )
    gpus = Gpus(opened(driver, tmp_path))
    gpus.look(2.0, {own})
    gpus.look(4.0, {own})
    assert gpus.busy_s == pytest.approx(4.0 * (0.3 + 0.2))
    assert gpus.memory_peak_bytes == gpus.memory_bytes == 4 << 30


def test_a_driver_that_tells_nothing_by_process_tells_of_the_device(tmp_path: Path) -> None:
    own = os.getpid()
    driver = FakeDriver([LARGE], [FakeProcess("GPU-0", own, 1 << 30)], tells_by_process=False)
    gpus = Gpus(opened(driver, tmp_path))
    gpus.look(2.0, {own})
    assert gpus.busy_s == pytest.approx(2.0 * 0.5)


def test_what_an_instance_of_a_divided_gpu_does_is_unknown_and_its_memory_is_not(tmp_path: Path) -> None:
    own = os.getpid()
    driver = FakeDriver([DIVIDED], [FakeProcess("MIG-b", own, 1 << 30)], tells_by_process=False)
    gpus = Gpus(opened(driver, tmp_path))
    gpus.look(2.0, {own})
    assert (gpus.busy_s, gpus.memory_peak_bytes) == (None, 1 << 30)


def test_a_process_that_we_cannot_see_may_be_ours_so_nothing_is_known(tmp_path: Path) -> None:
    nobody = 2**22 + 7  # beyond what Linux gives
    gpus = Gpus(opened(FakeDriver([LARGE], [FakeProcess("GPU-0", nobody, 1 << 30)]), tmp_path))
    gpus.look(2.0, {os.getpid()})
    assert (gpus.busy_s, gpus.memory_peak_bytes) == (None, None)


def test_idle_gpus_are_known_to_be_idle_and_no_gpus_are_unknown(tmp_path: Path) -> None:
    idle = Gpus(opened(FakeDriver([LARGE]), tmp_path))
    idle.look(2.0, {os.getpid()})
    assert (idle.busy_s, idle.memory_peak_bytes) == (0.0, 0)
    none = Gpus("no library")
    none.look(2.0, {os.getpid()})
    assert (none.is_there, none.busy_s, none.memory_peak_bytes) == (False, None, None)


def test_the_arithmetic_of_a_gpu_is_told_figure_by_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed, waits = imitation_of_torch(monkeypatch, has_cuda=True)
    request = {"device": "cuda", "array_bytes": 1 << 16, "matrix_side": 8, "budget_s": 0.0}
    monkeypatch.setattr(sys, "argv", ["measure_gpu", json.dumps(request)])
    measure_gpu.main()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["name"] for each in told} == {name.value for name in OF_A_GPU}
    assert allowed == [False, True, False, False]
    assert len(waits) >= 3 * len(told)  # each repeat is over before the clock is read


def test_a_pytorch_without_cuda_and_none_at_all_leave_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unit = Unit("local", 1, 1 << 30, gpus=(Gpu("x", 1 << 30),))
    told: list[Figure] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (note,) = bench._measure_gpu(unit, quick=True, tell=told.append)
    assert note == "the GPU was not measured: PyTorch is not installed here"
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (note,) = bench._measure_gpu(unit, quick=True, tell=told.append)
    assert "this PyTorch sees no GPU" in note
    assert told == []
    assert FigureName.gpu_fp32 in OF_A_GPU


def imitation_of_torch(monkeypatch: pytest.MonkeyPatch, *, has_cuda: bool) -> tuple[list[bool], list[None]]:
    """As much of PyTorch as the measuring calls, over NumPy; when TF32 was allowed, and each wait."""
    import numpy as np

    allowed: list[bool] = []
    waits: list[None] = []

    class Matmul:
        def __setattr__(self, name: str, value: bool) -> None:
            assert name == "allow_tf32"
            allowed.append(value)

    class Tensor(np.ndarray):
        def to(self, kind: object) -> Tensor:
            return self

    torch = types.ModuleType("torch")
    members: dict[str, object] = {
        "cuda": types.SimpleNamespace(is_available=lambda: has_cuda, synchronize=lambda: waits.append(None)),
        "backends": types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=Matmul())),
        "full": lambda shape, value, dtype, device: np.full(shape, value),
        "rand": lambda shape, device: np.ones(shape).view(Tensor),
        "empty_like": np.empty_like,
        "add": lambda b, c, alpha, out: np.add(b, alpha * c, out=out),
        "matmul": lambda a, b, out: np.matmul(a, b, out=out),
        **dict.fromkeys(("float16", "bfloat16", "float32", "float64")),
    }
    for name, member in members.items():
        monkeypatch.setattr(torch, name, member, False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return allowed, waits
