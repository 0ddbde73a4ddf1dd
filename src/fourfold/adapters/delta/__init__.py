"""Tables in Delta format on a local disk."""

from fourfold.adapters.delta.store import DeltaTables

__all__ = ["DeltaTables"]
