"""The running Python, as environments name it."""

from __future__ import annotations

import sys
import sysconfig


def this_python() -> str:
    """The running interpreter's implementation and minor version, such as `cpython-3.11`."""
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def this_platform() -> str:
    """The running system and machine, such as `linux-x86_64`."""
    return sysconfig.get_platform()
