"""The package itself: its version, and the folder that a Python must search to find it."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"

FOLDER = Path(__file__).resolve().parents[2]
"""For processes that are started with another interpreter or a clean environment."""
