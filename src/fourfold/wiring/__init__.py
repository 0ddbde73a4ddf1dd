"""The only chooser of adapters: a project's addresses in, its open services out.

A project is a folder, `.fourfold`, found from `FOURFOLD_HOME`, else from the nearest parent folder that
holds a `.fourfold` or a `fourfold.toml`, else made here on first use. With `FOURFOLD_URL` set, the same
services come from a server over HTTP instead.

Each part is opened when it is first asked for: a step that reads a table loads no feature store.
"""

from fourfold.wiring.afar import RemoteProject, open_services
from fourfold.wiring.archives import new_archive, open_archive, restore
from fourfold.wiring.places import FOLDER, SETTINGS_FILE, find_home, read_settings
from fourfold.wiring.project import Project, open_project

__all__ = [
    "FOLDER",
    "SETTINGS_FILE",
    "Project",
    "RemoteProject",
    "find_home",
    "new_archive",
    "open_archive",
    "open_project",
    "open_services",
    "read_settings",
    "restore",
]
