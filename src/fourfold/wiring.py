"""The only chooser of adapters: a project's addresses in, its open services out.

A project is a folder, `.fourfold`, found from `FOURFOLD_HOME`, else from the nearest parent folder that
holds a `.fourfold` or a `fourfold.toml`, else made here on first use. With `FOURFOLD_URL` set, the same
services come from a server over HTTP instead.
"""

from __future__ import annotations

import os
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import Refused
from fourfold.core.settings import Settings

if TYPE_CHECKING:
    from fourfold.core.services import Services

FOLDER = ".fourfold"


def find_home(environ: Mapping[str, str], here: Path) -> Path:
    """The project's folder for a process that runs `here`."""
    if named := environ.get("FOURFOLD_HOME"):
        return Path(named).resolve()
    for folder in (here, *here.parents):
        if (folder / FOLDER).is_dir() or (folder / "fourfold.toml").is_file():
            return folder / FOLDER
    return here / FOLDER


def read_settings(home: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of the project whose folder is `home`."""
    path = home.parent / "fourfold.toml"
    given: dict[str, object] = {}
    if path.is_file():
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Refused(f"{path} is not TOML: {error}") from error
    return Settings.parse(given, environ)
