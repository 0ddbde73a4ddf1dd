"""The workbench as a service: notebooks run with parameters, and the gallery of what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fourfold.core.routes import Role, route
from fourfold.core.workbench import NotebookParameter, NotebookRun


class Workbench(Protocol):
    """The workbench room."""

    @route("POST /notebook-runs", needs=Role.editor)
    def run_notebook(
        self,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        name: str = "",
        cell_timeout_s: float = 600.0,
        timeout_s: float = 3600.0,
    ) -> NotebookRun:
        """Execute a notebook of the project in a process of its own, with these parameters.

        `path` is relative to the project's folder and stays inside it. A parameter that the notebook
        does not have, or of another type than its default, is refused before anything starts. When a
        cell fails, the executed notebook is kept all the same, and `NotebookFailed` names the cell.
        """
        ...

    @route("GET /notebook-parameters", needs=Role.viewer)
    def notebook_parameters(self, path: str) -> tuple[NotebookParameter, ...]:
        """The parameters of a notebook, with their defaults."""
        ...

    @route("GET /notebook-runs", needs=Role.viewer)
    def notebook_runs(self, name: str | None = None, *, limit: int = 100) -> tuple[NotebookRun, ...]:
        """Notebooks that were run, newest first."""
        ...

    @route("GET /notebook-runs/{id}", needs=Role.viewer)
    def notebook_run(self, id: str) -> NotebookRun:  # noqa: A002 - the word of the address
        """One run of a notebook."""
        ...

    @route("GET /notebook-runs/{id}/html", needs=Role.viewer)
    def notebook_html(self, id: str) -> bytes:  # noqa: A002
        """The page of an executed notebook; it holds no script, and doors serve it sandboxed."""
        ...

    @route("GET /notebook-runs/{id}/notebook", needs=Role.viewer)
    def notebook_file(self, id: str) -> bytes:  # noqa: A002
        """The executed notebook (`.ipynb`)."""
        ...
