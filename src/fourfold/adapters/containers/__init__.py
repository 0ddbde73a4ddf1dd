"""`podman://`: each job in a container of this machine, by podman's command line."""

from fourfold.adapters.containers.engine import ContainerEngine
from fourfold.adapters.containers.settings import ContainerSettings

__all__ = ["ContainerEngine", "ContainerSettings"]
