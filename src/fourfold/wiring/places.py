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


def settings_text(home: Path) -> str:
    """The settings file of the project whose folder is `home`; nothing where there is none."""
    path = home.parent / SETTINGS_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_settings(home: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of the project whose folder is `home`."""
    given: dict[str, object] = {}
    try:
        given = tomllib.loads(settings_text(home))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{home.parent / SETTINGS_FILE} is not TOML: {error}") from error
    return Settings.parse(given, environ)


def refuse_unseen(settings: Settings, environ: Mapping[str, str], part: str) -> None:
    """On a machine that does not see the project's folder, refuse a part that lies in it.

    What is opened there would be another, empty one.
    """
    scheme, _, rest = getattr(settings, part).partition("://")
    is_here = scheme not in ("", "sqlite", "file", "lmdb") or (rest.startswith("/") and Path(rest).is_dir())
    if environ.get("FOURFOLD_AFAR") and not is_here:
        raise Refused(
            f"this machine does not see the project's folder, and its {part} lies there",
            ways_on=[
                f"set '{part}' to what both machines reach (postgresql://…, s3://…, a shared folder)",
                "or give the step small values (64 KiB) and let it return such: these travel without it",
            ],
        )


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
