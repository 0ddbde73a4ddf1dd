"""Runs jobs on a Slurm cluster: through its commands on this machine, or through its REST door."""

from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.adapters.slurm.opening import open_cluster, open_slurm

__all__ = ["SlurmAddress", "SlurmEngine", "open_cluster", "open_slurm"]
