"""Expecting an error, for kits: they run under any test runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fourfold.core.errors import FourfoldError


@contextmanager
def raising(kind: type[FourfoldError], *, naming: str = "") -> Iterator[None]:
    """The block must raise `kind`, and the error's text must hold `naming`.

    >>> from fourfold.core.errors import NotFound
    >>> with raising(NotFound, naming="flights"):
    ...     raise NotFound("no table 'flights'")
    """
    try:
        yield
    except kind as error:
        raised = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    assert naming in str(raised), f"the error does not name {naming!r}: {raised}"
