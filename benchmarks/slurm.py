"""What the Slurm engine adds to Slurm, on a cluster of this machine that the script starts and ends.

    .venv/bin/python benchmarks/slurm.py [--quick] [--json]

The peer is what a careful script would do: `sbatch`, then `squeue` every 20 ms (`sbatch --wait` looks every
two seconds). Ours and the peer take turns; each figure is the median, and the ratio is ours / peer. The exit
status is 1 when a claim did not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.compute.slurm_cluster import SlurmCluster, opened, slurm_cluster

from fourfold.adapters.slurm import SlurmEngine
from fourfold.core.ports.engine import Launch

LOOK_S = 0.02
SCHEDULER_S = 0.5
"""Each job finds Slurm's scheduler rested: what the one before it left is done with."""


@dataclass(frozen=True)
class Row:
    """One claim; `ratio` is ours / peer."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    ratio: float
    aim: str
    held: bool


def row(claim: str, ours: list[float], peer: list[float], *, times: float) -> Row:
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return Row(claim, mine, theirs, None, mine / theirs, f"<= {times:g}x the peer", mine <= times * theirs)


def one_by_one(cluster: SlurmCluster, engine: SlurmEngine, rounds: int) -> list[Row]:
    """A job that does nothing, from submission to its known end; ours and the peer's by turns."""
    ours: tuple[list[float], list[float]] = ([], [])
    peer: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        time.sleep(SCHEDULER_S)
        began = time.perf_counter()
        engine.submit(Launch(f"job/{index}", ("/bin/true",)))
        ours[0].append((time.perf_counter() - began) * 1e3)
        engine.wait([f"job/{index}"], 60)
        ours[1].append((time.perf_counter() - began) * 1e3)
        time.sleep(SCHEDULER_S)
        began = time.perf_counter()
        job_id = cluster.run(
            "sbatch", "--parsable", "--mem=1000", "--output=/dev/null", "--wrap=/bin/true"
        ).strip()
        peer[0].append((time.perf_counter() - began) * 1e3)
        while cluster.run(
            "squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T"
        ).strip() not in (
            "COMPLETED",
            "FAILED",
        ):
            time.sleep(LOOK_S)
        peer[1].append((time.perf_counter() - began) * 1e3)
    return [
        row("a submission, ms (peer: sbatch)", ours[0], peer[0], times=2),
        row("a job from submission to its known end, ms (peer: sbatch, squeue)", ours[1], peer[1], times=1.1),
    ]


def many(cluster: SlurmCluster, engine: SlurmEngine, count: int, rounds: int) -> Row:
    """The state of many jobs that wait."""
    cluster.run("scontrol", "update", "partitionname=batch", "state=down")
    keys = [f"many/{index}" for index in range(count)]
    for key in keys:
        engine.submit(Launch(key, ("/bin/true",)))
    ours, peer = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        assert len(engine.status(keys)) == count
        ours.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        cluster.run("squeue", "--noheader", "--states=all", "--format=%A|%T")
        peer.append((time.perf_counter() - began) * 1e3)
    cluster.run("scancel", "--user", cluster.user)
    cluster.run("scontrol", "update", "partitionname=batch", "state=up")
    return row(f"the state of {count} jobs, ms (peer: one squeue)", ours, peer, times=20)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: about half a minute")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-slurm-") as name,
        slurm_cluster() as cluster,
        closing(opened(cluster, Path(name) / "jobs")) as engine,
    ):
        rows = one_by_one(cluster, engine, 8 if given.quick else 40)
        rows.append(many(cluster, engine, 200 if given.quick else 1000, 5 if given.quick else 20))
    if given.json:
        print(json.dumps([asdict(each) for each in rows], indent=1))
    else:
        for each in rows:
            held = "held" if each.held else "NOT HELD"
            print(
                f"{each.claim}\n    ours {each.ours:.4g}, peer {each.peer:.4g}, ratio {each.ratio:.2f}; ",
                end="",
            )
            print(f"aim {each.aim}: {held}")
    return 0 if all(each.held for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
