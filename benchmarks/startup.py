"""What starting costs: `import fourfold` over a bare Python, `fourfold --help` beside `import click`.

    python benchmarks/startup.py [--quick] [--json]

Each round starts every command once, in turn, so that all meet the same machine; a figure is the least of its
rounds, because noise only adds. Times are of the processor (user and system), so that neighbours on the
machine count less. Byte code is kept between starts, as an installed package keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass

ROUNDS, QUICK_ROUNDS = 40, 12
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import fourfold": [sys.executable, "-c", "import fourfold"],
    "import click": [sys.executable, "-c", "import click"],
    "fourfold --help": [sys.executable, "-c", "from fourfold.cli.main import main; main()", "--help"],
}
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass
class Row:
    """One claim, in seconds; `ratio` is ours / peer. What is aimed at is the figure named by `measure`."""

    claim: str
    ours: float
    peer: float
    ratio: float
    measure: str
    aim: float
    held: bool


def started(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRON)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(rounds: int) -> list[Row]:
    for command in COMMANDS.values():
        started(command)  # byte code and file cache
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            taken[name].append(started(command))
    least = {name: min(times) for name, times in taken.items()}
    bare, ours = least["bare"], least["import fourfold"]
    click, help_ = least["import click"], least["fourfold --help"]
    return [
        Row(
            "import fourfold, over a bare Python",
            ours,
            bare,
            ours / bare,
            "ours - peer",
            0.150,
            ours - bare <= 0.150,
        ),
        Row(
            "fourfold --help, beside import click",
            help_,
            click,
            help_ / click,
            "ratio",
            1.3,
            help_ / click <= 1.3,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, not {ROUNDS}")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = measure(QUICK_ROUNDS if options.quick else ROUNDS)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            print(
                f"{'held  ' if row.held else 'MISSED'} {row.claim}: {row.ours * 1e3:.0f} ms, "
                f"peer {row.peer * 1e3:.0f} ms, {(row.ours - row.peer) * 1e3:+.0f} ms, ratio {row.ratio:.2f} "
                f"(aim: {row.measure} ≤ {row.aim:g})"
            )
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
