"""Notebooks that were run with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fourfold.core.errors import FourfoldError
from fourfold.core.jobs import Usage
from fourfold.core.times import Instant


class NotebookFailed(FourfoldError):
    """A cell of a notebook failed; the executed notebook is kept (`facts["notebook_run"]`)."""

    code = "notebook_failed"
    status = 422


class NotebookState(StrEnum):
    succeeded = "succeeded"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class NotebookParameter:
    """One assignment of a notebook's `parameters` cell."""

    name: str
    default: str
    """As written."""
    kind: str = ""
    """The annotation or the type of the default: `int`, `float`, `str`, `bool`, or empty if unknown."""
    help: str = ""


@dataclass(frozen=True, slots=True)
class CellFailure:
    """The cell that ended a notebook: its number as people count (from 1), its source, its error."""

    cell_number: int
    source: str
    error: str
    """The exception's name, such as `ZeroDivisionError`; `CellTimeout`; `KernelDied`."""
    message: str
    traceback: str = ""
    """Plain text, without colours."""


@dataclass(frozen=True, slots=True)
class NotebookRun:
    """A notebook executed once. The executed notebook and its page are blobs, also when it failed."""

    id: str
    name: str
    path: str
    source_digest: str
    """Blob of the notebook as it was before."""
    notebook_digest: str
    """Blob of the executed notebook (`.ipynb`)."""
    html_digest: str
    """Blob of the page: one file, without scripts and without anything fetched from elsewhere."""
    state: NotebookState
    started_at: Instant
    ended_at: Instant
    parameters: Mapping[str, object] = field(default_factory=dict)
    environment: str = ""
    flow_run: str = ""
    usage: Usage = Usage()
    failure: CellFailure | None = None
