"""A small Kubernetes for tests: an API server that checks each body, and nodes that really run commands."""

from fourfold.testing.kubernetes.cluster import FakeCluster as FakeCluster
from fourfold.testing.kubernetes.cluster import Node as Node
from fourfold.testing.kubernetes.faults import Fault as Fault
from fourfold.testing.kubernetes.schema import Schemas as Schemas

__all__ = ["FakeCluster", "Fault", "Node", "Schemas"]
