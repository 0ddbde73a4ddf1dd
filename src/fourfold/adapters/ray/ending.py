"""Ends by force, after their grace, the jobs that were asked to stop.

Ray's own stop has one grace for all, and a second word of ours does not reach the job. But each keeper
notices when a file of it is read, and reading files of nodes is what Ray's state API is for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fourfold.adapters.ray.reading import ENDED
from fourfold.core.errors import FourfoldError

AGAIN_S = 0.3
TRIES = 100
"""Then the keeper's own grace ends the job."""


class Ending:
    """Knows which stopped jobs' graces end when; one thread, which lives only while there are any."""

    def __init__(
        self, job: Callable[[str], Mapping[str, Any] | None], knock: Callable[[str, str], None]
    ) -> None:
        """`job` asks for a job by its id, `knock` reads the file on the job's node."""
        self._job = job
        self._knock = knock
        self._due: dict[str, tuple[float, int]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def after(self, id_: str, grace_s: float) -> None:
        """End a job in so many seconds; of two graces the shorter counts."""
        at = time.monotonic() + grace_s
        with self._changed:
            known, _ = self._due.get(id_, (at, 0))
            self._due[id_] = (min(known, at), 0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ray-ending", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Leave what is still to be ended to the keepers' own grace."""
        with self._changed:
            self._due.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due:
                    self._thread = None
                    return
                id_, (at, tries) = min(self._due.items(), key=lambda item: item[1])
                left = at - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
            has_ended = False
            with contextlib.suppress(FourfoldError):  # a cluster that is away is asked again
                has_ended = self._force(id_)
            with self._changed:
                if has_ended or tries + 1 >= TRIES:
                    self._due.pop(id_, None)
                elif id_ in self._due:
                    self._due[id_] = (time.monotonic() + AGAIN_S, tries + 1)

    def _force(self, id_: str) -> bool:
        job = self._job(id_)
        if job is None or job["status"] in ENDED:
            return True
        if node_id := str(job.get("driver_node_id") or ""):
            self._knock(id_, node_id)
        return False
