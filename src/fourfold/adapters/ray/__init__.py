"""`ray://`: jobs on a Ray cluster, over its Jobs API by HTTP. This process needs no `ray`."""

from fourfold.adapters.ray.engine import RayEngine
from fourfold.adapters.ray.settings import RaySettings

__all__ = ["RayEngine", "RaySettings"]
