"""The package itself: its version, and the folder that a Python must search to find it."""

from __future__ import annotations

VERSION = "0.1.0"

FOLDER = __file__.rsplit("/", 3)[0]
"""For processes that are started with another interpreter or a clean environment. A text, because `pathlib`
would be a third of what importing the package costs."""
