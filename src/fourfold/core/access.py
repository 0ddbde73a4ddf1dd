"""Grants on tables: who may read, write and manage which, beyond what the project's roles say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from fourfold.core.errors import Refused
from fourfold.core.routes import Role
from fourfold.core.times import Instant

ROLE_PREFIX = "role:"
"""`role:editor` in a principal's place: all who have this role in the project, or a higher one."""


class Access(IntEnum):
    """What may be done with a table; each holds those below it."""

    read = 10
    """See its rows, and what is known of them."""
    write = 20
    """Add, change and remove rows; tag, branch, compact."""
    manage = 30
    """Drop and vacuum it, forget rows in it, and say who may do what."""


@dataclass(frozen=True, slots=True)
class TableGrant:
    """Who may do what with the tables of a name or pattern."""

    pattern: str
    """A table's name, or the beginning of one and a star: `raw.*`."""
    who: str
    """A principal, or a role: `ada`, `role:deployer`."""
    access: Access
    granted_by: str
    at: Instant


def check_pattern(pattern: str) -> str:
    """The pattern if it is one, else refused.

    >>> check_pattern("raw.*")
    'raw.*'
    >>> check_pattern("*raw")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: '*raw' names no tables
      write a table's name, or the beginning of names and a star: raw.flights, raw.*
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\*?|\*", pattern) is None:
        raise Refused(
            f"'{pattern[:140]}' names no tables",
            ways_on=["write a table's name, or the beginning of names and a star: raw.flights, raw.*"],
        )
    return pattern


def check_who(who: str) -> str:
    """The principal or role if it may be one, else refused."""
    role = who.removeprefix(ROLE_PREFIX)
    if role != who and role not in Role.__members__:
        raise Refused(f"'{role}' is no role", ways_on=["roles: " + ", ".join(Role.__members__)])
    if not who.strip() or len(who) > 256:
        raise Refused(
            "a grant needs a principal's name of 1 to 256 characters, or a role such as role:editor"
        )
    return who
