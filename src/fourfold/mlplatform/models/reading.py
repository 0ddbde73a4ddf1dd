"""Versions in their reader's hands: fetched, verified, and run in the reader's own process.

One code path beside the project and from afar. The store may be behind a server; it gives bytes, and never
loads a model for anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core import wire
from fourfold.core.models import LoadPolicy, Manifest, ModelVersion
from fourfold.core.ports.blobs import Digest
from fourfold.core.services.models import Models
from fourfold.mlplatform.models.versions import folder

if TYPE_CHECKING:
    from fourfold.mlplatform.models.loading import LoadedModel


class Reader:
    """Fulfils `load` and `materialize` of `core.services.models.Models` by the other methods."""

    def __init__(
        self, models: Models, get: Callable[[Digest], bytes], *, policy: LoadPolicy | None = None
    ) -> None:
        self._models = models
        self._get = get
        self._policy = policy or LoadPolicy()

    def load(self, ref: str) -> LoadedModel:
        from fourfold.mlplatform.models.loading import load_files

        version = self._models.resolve(ref)
        manifest = self._manifest(version)
        files = {
            file.path: folder.verified(file, folder.fetched(file, self._get), of=str(version))
            for file in manifest.files
        }
        return load_files(version, manifest, files, policy=self._policy)

    def materialize(self, version: ModelVersion, into: Path) -> Path:
        return folder.write(version, self._manifest(version), self._get, into)

    def _manifest(self, version: ModelVersion) -> Manifest:
        """The manifest that the version's own digest names, whoever handed it over."""
        manifest = self._models.manifest(version.name, version.number)
        folder.checked_manifest(wire.encode(manifest), version)
        return manifest
