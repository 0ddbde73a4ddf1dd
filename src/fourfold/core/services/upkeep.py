"""The upkeep of a project's blobs: what nobody cites is removed, what is damaged is found."""

from __future__ import annotations

from typing import Protocol

from fourfold.core.routes import Role, route
from fourfold.core.storage import Digest
from fourfold.core.upkeep import GRACE_S, BadBlob, Checked, Garbage


class Upkeep(Protocol):
    """Keeps the blob store lean and sound. Everything here may run while the project is in use, may be
    interrupted, and may be run again."""

    @route("POST /storage/gc", needs=Role.admin)
    def collect_garbage(
        self, *, grace_s: float = GRACE_S, is_dry_run: bool = False, timeout_s: float = 3600.0
    ) -> Garbage:
        """Remove blobs that nothing cites and that were last put more than `grace_s` ago.

        What is cited is found first, in one state of the catalog. `Corrupted` or `NotFound`, and nothing is
        removed, when a manifest that tells what is cited cannot be read.
        """
        ...

    @route("POST /storage/check", needs=Role.editor)
    def check(self, *, after: Digest | None = None, timeout_s: float = 10.0) -> Checked:
        """Read and verify the blobs that follow `after`, for about `timeout_s`; wrong ones are put aside."""
        ...

    @route("POST /storage/missing", needs=Role.editor)
    def missing(self, *, timeout_s: float = 600.0) -> tuple[BadBlob, ...]:
        """Blobs that are cited, and are not there."""
        ...

    @route("GET /storage/quarantine", needs=Role.viewer)
    def quarantine(self) -> tuple[BadBlob, ...]:
        """Blobs that were put aside because their bytes were wrong, and have not been healed since."""
        ...
