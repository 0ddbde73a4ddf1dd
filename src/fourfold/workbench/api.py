"""What people write: `ff.notebook("report.ipynb", day="2013-06-01")`, in a step or anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core import context

if TYPE_CHECKING:
    from fourfold.core.workbench import NotebookRun


def notebook(
    path: str | Path,
    /,
    *,
    cell_timeout_s: float = 600.0,
    timeout_s: float = 3600.0,
    name: str = "",
    **parameters: object,
) -> NotebookRun:
    """Execute a notebook with these parameters, and keep it and its page.

    `path` is looked for from where we stand, then beside the file that calls, then in the project's folder.
    Inside a step, what the notebook's cells read and write counts as the step's. Raises `NotebookFailed`,
    naming the cell, when one fails; the notebook as far as it came is kept then too.

    ```python
    @ff.step
    def report(day: str) -> str:
        return ff.notebook("report.ipynb", day=day).html_digest
    ```
    """
    caller = sys._getframe(1).f_globals.get("__file__")  # noqa: SLF001 - the only way to know the caller's file
    found = _find(Path(path), None if caller is None else Path(caller).parent)
    return context.services().workbench.run_notebook(
        str(found), parameters, name=name, cell_timeout_s=cell_timeout_s, timeout_s=timeout_s
    )


def _find(path: Path, beside: Path | None) -> Path:
    if path.is_absolute():
        return path
    for folder in (Path.cwd(), beside):
        if folder is not None and (folder / path).is_file():
            return folder / path
    return path
