"""Where a project is, and what its settings say."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from fourfold.core.errors import Refused
from fourfold.core.settings import Settings

FOLDER = ".fourfold"
SETTINGS_FILE = "fourfold.toml"


def find_home(environ: Mapping[str, str], here: Path) -> Path:
    """The project's folder for a process that runs `here`."""
    if named := environ.get("FOURFOLD_HOME"):
        return Path(named).resolve()
    for folder in (here, *here.parents):
        if (folder / FOLDER).is_dir() or (folder / SETTINGS_FILE).is_file():
            return folder / FOLDER
    return here / FOLDER


def read_settings(home: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of the project whose folder is `home`."""
    path = home.parent / SETTINGS_FILE
    given: dict[str, object] = {}
    if path.is_file():
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Refused(f"{path} is not TOML: {error}") from error
    return Settings.parse(given, environ)


def make_folder(home: Path) -> None:
    """The project's folder, for its owner only, out of the way of version control."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        ignore = home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as error:
        raise Refused(
            f"the project's folder {home} cannot be used: {error.strerror}",
            ways_on=["say where it may be with FOURFOLD_HOME, or free the path"],
        ) from error
