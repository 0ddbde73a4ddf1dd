"""S3, Google Cloud Storage and Azure Blob Storage, through `obstore`."""

from fourfold.adapters.object_store.arrow import filesystem
from fourfold.adapters.object_store.store import ObstoreObjects

__all__ = ["ObstoreObjects", "filesystem"]
