"""Imported by `late_flights`: kept with its models because an import statement names it."""

from __future__ import annotations

from typing import Any

import numpy as np


def hour_of(clock: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Hours of times written as 1730."""
    hours: np.ndarray[Any, Any] = (clock // 100).astype(float)
    return hours
