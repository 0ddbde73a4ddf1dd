"""From an address to an engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cli import SlurmCommands
from fourfold.adapters.slurm.cluster import Cluster
from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.adapters.slurm.rest import SlurmRest


def open_cluster(address: SlurmAddress, environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster at an address; nothing is asked of it yet."""
    environ = os.environ if environ is None else environ
    return SlurmRest(address, environ) if address.url else SlurmCommands(address, environ)


def open_slurm(address: str, *, home: Path, use: str, price_usd_per_hour: float, cwd: Path) -> SlurmEngine:
    """The engine at an address for one use of the project whose folder is `home`.

    Its jobs' files are in that folder, or below the one that the address names, apart from those of other
    projects there.
    """
    parsed = SlurmAddress.parse(address)
    ours = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return SlurmEngine(
        Path(parsed.folder) / ours / use if parsed.folder else home / "jobs" / use,
        cluster=open_cluster(parsed),
        python=parsed.python,
        partition=parsed.partition,
        most_output_bytes=parsed.most_output_bytes,
        price_usd_per_hour=price_usd_per_hour,
        cwd=cwd,
    )
