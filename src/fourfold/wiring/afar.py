"""A project behind a server: the same services, over HTTP, and what of them the caller's process does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fourfold.core.errors import Refused
from fourfold.core.services import PROTOCOLS, Services
from fourfold.wiring.places import find_home, read_settings
from fourfold.wiring.project import open_project

if TYPE_CHECKING:
    from fourfold.core.services.compute import Compute as ComputeProtocol
    from fourfold.core.services.files import Files as FilesProtocol
    from fourfold.core.services.models import Models as ModelsProtocol
    from fourfold.core.services.storage import Storage as StorageProtocol
    from fourfold.foundation.storage.folders.saving import Folders
    from fourfold.foundation.storage.folders.ways import Afar


class RemoteProject:
    """The services of a project that lives behind a server. Fulfils `core.services.Services`."""

    def __init__(self, url: str, token: str) -> None:
        from fourfold.adapters.remote import Remote

        self._remote = Remote(url, token)
        here: dict[str, Callable[[Any], object]] = {
            "storage": self._blobs,
            "files": self._folders,
            "compute": self._environment,
            "models": self._reader,
        }
        for name, protocol in PROTOCOLS.items():
            setattr(self, name, self._remote.service(name, protocol, here=here.get(name)))

    def __repr__(self) -> str:
        return f"<RemoteProject at {self._remote.url}>"

    def close(self) -> None:
        """Let go of open connections."""
        self._remote.close()

    # What a service does in the process that calls, over the routes of the server.

    def _blobs(self, storage: StorageProtocol) -> Afar:
        return self._afar(storage, cast(Services, self).files)

    def _folders(self, files: FilesProtocol) -> Folders:
        from fourfold.adapters.blake3_digests import Blake3Digests
        from fourfold.adapters.fastcdc_chunks import FastCdcChunks
        from fourfold.foundation.storage.folders.saving import Folders

        way = self._afar(cast(Services, self).storage, files)
        return Folders(files, way, Blake3Digests(), chunker=FastCdcChunks)

    @staticmethod
    def _afar(storage: StorageProtocol, files: FilesProtocol) -> Afar:
        from fourfold.adapters.blake3_digests import Blake3Digests
        from fourfold.foundation.storage.folders.ways import Afar

        return Afar(storage, files, Blake3Digests())

    @staticmethod
    def _environment(compute: ComputeProtocol) -> object:
        from fourfold.foundation.compute.environments import Environments
        from fourfold.foundation.compute.present import PresentEnvironment

        home = find_home(os.environ, Path.cwd())
        lock = read_settings(home, os.environ).environment.lock
        return PresentEnvironment(
            Environments(home, project=home.parent, lock=lock), compute.remember_environment
        )

    def _reader(self, models: ModelsProtocol) -> object:
        from fourfold.mlplatform.models.reading import Reader

        return Reader(models, cast(Services, self).storage.get_blob)


def open_services() -> Services:
    """The services of the present project: a server's when `FOURFOLD_URL` is set, else the folder's."""
    url = os.environ.get("FOURFOLD_URL", "")
    if not url:
        return open_project()
    token = os.environ.get("FOURFOLD_TOKEN", "")
    if not token:
        raise Refused(
            f"FOURFOLD_URL names the server at {url}, and FOURFOLD_TOKEN is not set",
            ways_on=["set it to the owner's token (`fourfold token owner` beside the server) or your own"],
        )
    return _open_remote(url, token)


@functools.cache
def _open_remote(url: str, token: str) -> Services:
    return cast(Services, RemoteProject(url, token))
