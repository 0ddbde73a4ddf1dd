"""Measures the first GPU by PyTorch; started as a process of its own, like `measure`.

`python -m fourfold.foundation.compute.measure_gpu '{"device": "cuda", "budget_s": 2.0, ...}'` writes one line
of JSON per figure. `device` may be `cpu`, which is how the same lines are tried where there is no GPU.

What is counted. *Triad* (a = b + s·c), in one pass: 24 bytes an element of FP64. *Arithmetic*: 2·n³
operations of a matrix product, in FP32 with TF32 forbidden, in FP32 with TF32 allowed, in FP16 and in BF16.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from fourfold.foundation.compute.measure import repeat, tell

TRIAD_BYTES_PER_ELEMENT = 24


def main() -> None:
    request = json.loads(sys.argv[1])
    torch: Any = importlib.import_module("torch")  # where it is: nothing of ours depends on it
    device, budget_s = str(request["device"]), float(request["budget_s"]) / 5
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "this PyTorch sees no GPU: it was built without CUDA, or the driver is too old for it"
        )
    triad(torch, device, int(request["array_bytes"]), budget_s)
    side = int(request["matrix_side"])
    for name, kind, has_tf32 in (
        ("gpu_fp32", torch.float32, False),
        ("gpu_tf32", torch.float32, True),
        ("gpu_fp16", torch.float16, False),
        ("gpu_bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = has_tf32
        product(torch, name, device, kind, side, budget_s)


def triad(torch: Any, device: str, array_bytes: int, budget_s: float) -> None:
    """Memory bandwidth in GB/s."""
    count = array_bytes // 8
    b, c = (torch.full((count,), value, dtype=torch.float64, device=device) for value in (1.5, 2.5))
    a = torch.empty_like(b)
    times = repeat(_done(torch, device, lambda: torch.add(b, c, alpha=3.0, out=a)), budget_s)
    tell("gpu_triad", "GB/s", [count * TRIAD_BYTES_PER_ELEMENT / seconds / 1e9 for seconds in times])


def product(torch: Any, name: str, device: str, kind: Any, side: int, budget_s: float) -> None:
    """Arithmetic in GFLOP/s."""
    a, b = (torch.rand((side, side), device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    times = repeat(_done(torch, device, lambda: torch.matmul(a, b, out=out)), budget_s)
    tell(name, "GFLOP/s", [2 * side**3 / seconds / 1e9 for seconds in times])


def _done(torch: Any, device: str, once: Callable[[], Any]) -> Callable[[], None]:
    """A GPU answers before it has worked: wait until it has."""

    def whole() -> None:
        once()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole


if __name__ == "__main__":
    main()
