"""`python -m fourfold.sim --seed 7`: what happened in one simulation. `--seeds 0:1000`: many, in silence."""

from __future__ import annotations

import argparse
import sys

from fourfold.sim.simulation import Simulation
from fourfold.sim.world import Violation


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fourfold.sim", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="simulate one seed and print its history")
    which.add_argument("--seeds", type=_range, metavar="FIRST:END", help="simulate many, print what fails")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        return _one(chosen.seed)
    failed = [seed for seed in chosen.seeds if not _holds(seed)]
    _say(f"{len(chosen.seeds) - len(failed)} of {len(chosen.seeds)} seeds hold")
    return 1 if failed else 0


def _one(seed: int) -> int:
    simulation = Simulation(seed)
    try:
        report = simulation.run()
    except Violation as violation:
        _say(*simulation.world.trace, f"seed {seed}: {violation}")
        return 1
    except Exception:  # a fault of the loop: its traceback tells where, the history how it came there
        _say(*simulation.world.trace)
        raise
    _say(*simulation.world.trace, str(report))
    return 0


def _holds(seed: int) -> bool:
    try:
        Simulation(seed).run()
    except Exception as fault:  # a fault of the loop as much as a violation
        _say(
            f"seed {seed}: {type(fault).__name__}: {fault}", f"  again: python -m fourfold.sim --seed {seed}"
        )
        return False
    return True


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
