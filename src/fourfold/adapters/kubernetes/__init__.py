"""`kubernetes://`: jobs and services on a cluster, over its API."""

from fourfold.adapters.kubernetes.engine import KubernetesEngine
from fourfold.adapters.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesEngine", "KubernetesSettings"]
