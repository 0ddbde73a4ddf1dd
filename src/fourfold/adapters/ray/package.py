"""The files that nodes need, as one package that Ray keeps by the digest of its content."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from functools import cache
from pathlib import Path

from fourfold.adapters.ray.api import RayApi
from fourfold.core import trace

HERE = Path(__file__).parent
FILES = {
    "fourfold/adapters/ray/output.py": HERE / "output.py",
    "fourfold/adapters/ray/processes.py": HERE / "processes.py",
    "fourfold/core/trace.py": Path(trace.__file__),
    "gang.py": HERE / "gang.py",
    "keeper.py": HERE / "keeper.py",
}
PINNED_FOR_S = 120.0
"""Ray forgets a package that no job uses ten minutes after somebody asked for it; we ask in time."""


class Package:
    """Our files on one cluster: there before a job asks for them."""

    def __init__(self, api: RayApi) -> None:
        self._api = api
        self._asked_at: float | None = None
        self._lock = threading.Lock()

    def uri(self) -> str:
        """The package's name for Ray, after having made sure that the cluster has it."""
        name, data = _made()
        with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at > PINNED_FOR_S:
                if not self._api.has_package(name):
                    self._api.put_package(name, data)
                self._asked_at = now
        return f"gcs://{name}"

    def forget(self) -> None:
        """Ask again before the next job: the cluster may be another one by now."""
        with self._lock:
            self._asked_at = None


@cache
def _made() -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in FILES.items():
            entry = zipfile.ZipInfo(name)  # of 1980, so that equal files make equal packages
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    return f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip", data
