"""How a notebook is executed: a command that an engine starts, and what it leaves in a folder.

The service writes `request.json` (a `NotebookRequest`) and `source.ipynb` into a fresh folder, starts the
command, and reads `outcome.json` (a `NotebookOutcome`), `executed.ipynb` and `page.html` when it has ended.
The executed notebook is written after each cell, so what was done is there even when the process was killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fourfold.core.workbench import CellFailure


@dataclass(frozen=True, slots=True)
class NotebookRequest:
    """What is executed, and how."""

    title: str
    cwd: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    cell_timeout_s: float = 600.0
    ambient: Mapping[str, object] | None = None
    """Who executes (a `context.Executing` as plain data, and `write_key`): for what cells read and write."""


@dataclass(frozen=True, slots=True)
class NotebookOutcome:
    """How it went; `failure` is empty when every cell ran."""

    failure: CellFailure | None = None


class NotebookRunner(Protocol):
    """Knows the command that executes notebooks."""

    def command(self, folder: Path) -> tuple[str, ...]:
        """The command for a prepared folder. It ends with 0 also when a cell failed.

        Raises `Missing`, with what to install, when its libraries are not there.
        """
        ...

    def environment(self, folder: Path) -> Mapping[str, str]:
        """What the command's environment has to hold."""
        ...

    def page(self, notebook: bytes, *, title: str) -> bytes:
        """The page of an executed notebook, for one whose process ended before it wrote its own."""
        ...
