"""Numbers as people read them."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """
    >>> count(336776), count(12)
    ('336,776', '12')
    """
    return f"{value:,.0f}"


def share(value: float) -> str:
    """
    >>> share(0.1573), share(0.00042)
    ('15.7 %', '0.04 %')
    """
    return f"{value * 100:.2f} %" if 0 < abs(value) < 0.01 else f"{value * 100:.1f} %"


def seconds(value: float) -> str:
    """
    >>> seconds(0.0042), seconds(3.21), seconds(75.4)
    ('4 ms', '3.2 s', '1 min 15 s')
    """
    if value < 0.95:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def memory(value: float) -> str:
    """
    >>> memory(734003200)
    '700 MiB'
    """
    return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"


def dollars(value: float) -> str:
    """
    >>> dollars(0.00213), dollars(0.0000063), dollars(0), dollars(1.5)
    ('$0.0021', '$0.0000063', '$0', '$1.50')
    """
    if value == 0:
        return "$0"
    if value >= 0.1:
        return f"${value:.2f}"
    places = 1 - math.floor(math.log10(value))
    return f"${value:.{places}f}"


def difference(value: float) -> str:
    """
    >>> difference(0.0), difference(3.552e-15)
    ('0', '3.6e-15')
    """
    return "0" if value == 0 else f"{value:.1e}"
