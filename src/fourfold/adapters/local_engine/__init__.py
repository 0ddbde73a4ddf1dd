"""Runs jobs as processes of this machine: `local://`."""

from fourfold.adapters.local_engine.engine import LocalEngine as LocalEngine

__all__ = ["LocalEngine"]
