"""A write path, as these tests see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from fourfold import wiring

Verb: TypeAlias = Callable[[Any], object]
"""What is done with an open project; where a case needs none, with the folder around it."""
Told: TypeAlias = dict[str, Any]
"""What a project, and what lies beside it, tell of themselves: name of a part to what is in it."""


def nothing(_: object) -> None:
    """Nothing more than what the base has."""


def at_work(project: wiring.Project) -> None:
    """As a process that has opened the project before."""
    project.storage.describe("t")


def no_more(_: object) -> Told:
    """Nothing more than what every project tells."""
    return {}


@dataclass(frozen=True)
class Case:
    """Do `verb` in a project that `prepare` has made ready, and die, or find the disk full, at each step.

    Whatever comes: the project then tells what it told before, or what it tells when nothing happened. Doing
    it again gives what it gives undisturbed, and no file is left that would not be there otherwise.
    """

    covers: tuple[str, ...]
    """The methods, as `storage.append`, that this cuts."""
    verb: Verb
    prepare: Verb = nothing
    warm: Verb = at_work
    """What the process itself does before, as one at work has."""
    between: Callable[[Told, Told, Told], bool] | None = None
    """Whether a state that is neither before nor after is allowed: of what was before, found, and after."""
    more: Callable[[wiring.Project], Told] = no_more
    """What it tells besides."""
    unsaid: tuple[str, ...] = ()
    """Parts that a version stands without: what was found of it, where a process died before it was kept."""
    is_anything: bool = False
    """Whether it is done bit by bit, each of which may be done alone."""
    only_reads: bool = False
    """Whether the project tells the same afterwards."""
    also_says: tuple[str, ...] = ()
    """Errors besides `OutOfSpace` by which a foreign library may tell that a disk is full."""
    leaves_files: bool = False
    """Whether files that a dead process wrote elsewhere are for others to sweep."""
    told_blobs: bool = False
    """Whether what it is about is which blobs there are, though no row cites them."""
    needs_project: bool = True
    """Else the verb gets the folder, and opens what it needs."""
