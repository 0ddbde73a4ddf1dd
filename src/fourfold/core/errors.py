"""What can go wrong, in words a user can act on.

An error says what happened, to which thing, and what to do next. It keeps the facts as attributes, and
says whether trying again could help: `transient` (yes, later), `permanent` (no, change something) or
`ours` (a defect of Fourfold). A user's mistake never ends in a traceback: the doors print `str(error)`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar


class Remedy(StrEnum):
    """Whether trying again could help."""

    transient = "transient"
    permanent = "permanent"
    ours = "ours"


class FourfoldError(Exception):
    """The root of all errors that Fourfold raises on purpose.

    `facts` are plain values (they travel over HTTP as JSON); `ways_on` are sentences or commands.

    >>> error = NotFound("table 'flihgts' does not exist", ways_on=["did you mean 'flights'?"], name="x")
    >>> print(error)
    table 'flihgts' does not exist
      did you mean 'flights'?
    >>> error.facts
    {'name': 'x'}
    """

    code: ClassVar[str] = "error"
    remedy: ClassVar[Remedy] = Remedy.permanent
    status: ClassVar[int] = 400
    """The HTTP status that doors answer with."""

    def __init__(self, message: str, *, ways_on: Iterable[str] = (), **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.ways_on = tuple(ways_on)
        self.facts = facts

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.ways_on])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.ways_on, self.facts)


class Refused(FourfoldError):
    """Bad input, refused at the door; nothing was changed."""

    code = "refused"
    status = 422


class NotFound(FourfoldError):
    """The thing named does not exist."""

    code = "not_found"
    status = 404


class Conflict(FourfoldError):
    """Somebody else changed the thing first (compare-and-swap failed), or a fence is stale."""

    code = "conflict"
    remedy = Remedy.transient
    status = 409


class Denied(FourfoldError):
    """Who asks may not do this (or nobody asked: no or wrong token)."""

    code = "denied"
    status = 403


class Unauthenticated(Denied):
    """No token, or a wrong one."""

    code = "unauthenticated"
    status = 401


class Unavailable(FourfoldError):
    """A part that is needed does not answer now."""

    code = "unavailable"
    remedy = Remedy.transient
    status = 503


class TimedOut(FourfoldError):
    """The time allowed ran out."""

    code = "timed_out"
    remedy = Remedy.transient
    status = 504


class TooMuch(FourfoldError):
    """A stated bound was reached: a queue is full, a payload too large, a quota used up."""

    code = "too_much"
    remedy = Remedy.transient
    status = 429


class OutOfSpace(FourfoldError):
    """The disk or the quota of the store is full; what was there before is unharmed."""

    code = "out_of_space"
    remedy = Remedy.transient
    status = 507


class Corrupted(FourfoldError):
    """Stored bytes are not what was stored; the thing was not used."""

    code = "corrupted"
    status = 500


class Missing(FourfoldError):
    """An optional library or program is not installed; the message holds the exact install command."""

    code = "missing"
    status = 501


class Defect(FourfoldError):
    """A defect of Fourfold itself; worth a report."""

    code = "defect"
    remedy = Remedy.ours
    status = 500


def _rebuild(
    kind: type[FourfoldError], message: str, ways_on: tuple[str, ...], facts: dict[str, object]
) -> FourfoldError:
    return kind(message, ways_on=ways_on, **facts)


def _kinds(root: type[FourfoldError]) -> Iterable[type[FourfoldError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


def from_code(code: str, message: str, ways_on: Iterable[str], facts: dict[str, object]) -> FourfoldError:
    """Rebuild an error that travelled as data.

    >>> from_code("not_found", "no table 'x'", [], {})
    NotFound("no table 'x'")
    """
    by_code = {kind.code: kind for kind in _kinds(FourfoldError)}
    return by_code.get(code, FourfoldError)(message, ways_on=ways_on, **facts)


def did_you_mean(name: str, known: Iterable[str], *, what: str = "known") -> tuple[str, ...]:
    """Ways on for a name that was not found: the nearest match, and a bounded list of what exists.

    >>> did_you_mean("flihgts", ["flights", "weather"], what="tables")
    ("did you mean 'flights'?", 'tables: flights, weather')
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return (*(f"did you mean '{match}'?" for match in near), f"{what}: {shown or '(none)'}")
