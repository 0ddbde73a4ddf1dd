"""What makers publish of well-known GPUs, found by the name that a driver or a cluster gives them.

Peak rates of dense arithmetic in TFLOP/s (no sparsity; FP16, BF16 and TF32 by tensor cores with sums in
FP32), memory in GiB and GB/s, and the compute capability. Where a name stands for several variants, the
least of them counts: a demand that it meets is met by all. Processors have no rows: what a cloud's virtual
machine gives of a socket follows from no data sheet, and `fourfold unit bench` measures it in seconds.
"""

from __future__ import annotations

import re
from functools import cache

from fourfold.core.figures import Origin, Speed, SpeedFigure

_WORD = re.compile(r"[a-z]+\d*[a-z]*|\d+[a-z]*")
_PARTS = frozenset({"laptop", "mobile", "max", "mig", "grid", "vgpu", "d"})
"""Words of names that are a part or a slower kind of the GPU whose name they share."""

# Words of the name; memory; bandwidth; capability; FP64; FP32; TF32; BF16; FP16. 0 is "there is none".
# The first row counts whose words are all in the name, so variants stand before their family.
_ROWS: tuple[tuple[str, int, int, float, float, float, float, float, float], ...] = (
    ("b200", 180, 7700, 10.0, 37, 75, 1125, 2250, 2250),
    ("gh200", 96, 4000, 9.0, 34, 67, 494, 989, 989),
    ("h200 nvl", 141, 4800, 9.0, 30, 60, 417, 835, 835),
    ("h200", 141, 4800, 9.0, 34, 67, 494, 989, 989),
    ("h100 nvl", 94, 3900, 9.0, 30, 60, 417, 835, 835),
    ("h100 pcie", 80, 2000, 9.0, 26, 51, 378, 756, 756),
    ("h100 sxm5", 80, 3350, 9.0, 34, 67, 494, 989, 989),
    ("h100 hbm3", 80, 3350, 9.0, 34, 67, 494, 989, 989),
    ("h100", 80, 2000, 9.0, 26, 51, 378, 756, 756),
    ("a100 sxm4 80gb", 80, 2039, 8.0, 9.7, 19.5, 156, 312, 312),
    ("a100 80gb", 80, 1935, 8.0, 9.7, 19.5, 156, 312, 312),
    ("a100 80g", 80, 1935, 8.0, 9.7, 19.5, 156, 312, 312),
    ("a100", 40, 1555, 8.0, 9.7, 19.5, 156, 312, 312),
    ("a30", 24, 933, 8.0, 5.2, 10.3, 82, 165, 165),
    ("a40", 48, 696, 8.6, 0, 37.4, 74.8, 149.7, 149.7),
    ("a10", 24, 600, 8.6, 0, 31.2, 62.5, 125, 125),
    ("a10g", 24, 600, 8.6, 0, 31.2, 35, 70, 70),
    ("l40s", 48, 864, 8.9, 0, 91.6, 183, 362, 362),
    ("l40", 48, 864, 8.9, 0, 90.5, 90.5, 181, 181),
    ("l4", 24, 300, 8.9, 0, 30.3, 60, 121, 121),
    ("rtx 6000 ada", 48, 960, 8.9, 0, 91.1, 182, 364, 364),
    ("rtx a6000", 48, 768, 8.6, 0, 38.7, 77.4, 154.8, 154.8),
    ("rtx 5090", 32, 1792, 12.0, 0, 104.8, 104.8, 209.5, 209.5),
    ("rtx 4090", 24, 1008, 8.9, 0, 82.6, 82.6, 165.2, 165.2),
    ("rtx 3090", 24, 936, 8.6, 0, 35.6, 35.6, 71, 71),
    ("v100 sxm2 32gb", 32, 900, 7.0, 7.8, 15.7, 0, 0, 125),
    ("v100 sxm2", 16, 900, 7.0, 7.8, 15.7, 0, 0, 125),
    ("v100 pcie 32gb", 32, 900, 7.0, 7.0, 14, 0, 0, 112),
    ("v100", 16, 900, 7.0, 7.0, 14, 0, 0, 112),
    ("p100", 12, 549, 6.0, 4.7, 9.3, 0, 0, 18.7),
    ("t4", 15, 320, 7.5, 0, 8.1, 0, 0, 65),
    ("mi300x", 192, 5300, 0, 81.7, 163.4, 653.7, 1307.4, 1307.4),
)
_COLUMNS = (
    (Speed.gpu_memory, 2**30),
    (Speed.gpu_bandwidth, 1),
    (Speed.gpu_capability, 1),
    (Speed.gpu_fp64, 1000),
    (Speed.gpu_fp32, 1000),
    (Speed.gpu_tf32, 1000),
    (Speed.gpu_bf16, 1000),
    (Speed.gpu_fp16, 1000),
)


@cache
def published(gpu_name: str) -> tuple[SpeedFigure, ...]:
    """The figures of a GPU of this name; none of a name that is not known.

    >>> [str(figure) for figure in published("NVIDIA A100-SXM4-80GB")][1:3]
    ['2,039 GB/s by the catalogue, not measured', '8.0 by the catalogue, not measured']
    >>> published("a100") == published("NVIDIA A100-PCIE-40GB"), published("Voodoo 2")
    (True, ())
    >>> published("NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    ()
    """
    words = set(_WORD.findall(gpu_name.lower()))
    if words & _PARTS:
        return ()
    for name, *values in _ROWS:
        if words.issuperset(name.split()):
            return tuple(
                SpeedFigure(speed, value * factor, Origin.catalogue)
                for (speed, factor), value in zip(_COLUMNS, values, strict=True)
                if value
            )
    return ()


def known_gpus() -> tuple[str, ...]:
    """The names that rows are found by."""
    return tuple(row[0] for row in _ROWS)
