"""What is installed beside this interpreter, read in one quick pass over the packages' own lists of files.

A package's RECORD names each of its files with a hash. From it we take the hash of the package as
installed, and the modules that it provides. Lines that the installer adds (scripts, byte code, who
installed it) are left out, so that pip and uv give the same hash for the same wheel.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fourfold.core.environment import Package, canonical_name
from fourfold.core.errors import NotFound, did_you_mean
from fourfold.foundation.compute.locks import OURSELVES, RECORD_HASH, evaluate, marker_names

NOT_MODULES = (".dist-info", ".data", ".libs", ".pth")


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed package."""

    package: Package
    modules: frozenset[str]
    """Top-level names that it lets one import."""
    folder: Path
    """Its `.dist-info`."""


@cache
def installed() -> dict[str, Installed]:
    """Every installed package by name; what comes first on `sys.path` wins. Read once per process."""
    return read_installed(tuple(sys.path))


def read_installed(path: Iterable[str]) -> dict[str, Installed]:
    """The packages installed in these folders."""
    found: dict[str, Installed] = {}
    for entry in path:
        try:
            names = sorted(name for name in os.listdir(entry or ".") if name.endswith(".dist-info"))
        except OSError:
            continue
        for name in names:
            spelt, _, version = name.removesuffix(".dist-info").rpartition("-")
            key = canonical_name(spelt)
            if spelt and key not in found:
                folder = Path(entry, name)
                digest, modules = _read_record(folder, name)
                hashes = () if digest is None else (RECORD_HASH + digest,)
                found[key] = Installed(Package(key, version, hashes), modules, folder)
    return found


def closure(modules: Iterable[str]) -> tuple[Installed, ...]:
    """The packages that provide these modules, and all that they require, sorted by name.

    A module of the standard library needs none, nor does the project's own code (a file that no package
    lists); a module that is nowhere is refused.
    """
    here = installed()
    providers: dict[str, str] = {}
    for name, each in sorted(here.items()):
        for module in each.modules:
            providers.setdefault(module, name)
    queue: list[tuple[str, str]] = []
    for module in modules:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top == "__main__":
            continue
        if top != OURSELVES and top not in providers:
            if _is_own_code(top):
                continue
            raise NotFound(
                f"no installed package provides the module '{top}'",
                ways_on=[*did_you_mean(top, providers)[:-1], "install it, or leave the module out"],
                module=top,
            )
        queue.append((OURSELVES if top == OURSELVES else providers[top], ""))
    seen: set[tuple[str, str]] = set()
    names = marker_names()
    for name, extra in queue:  # grows as we go
        if (name, extra) in seen or name not in here:
            continue
        seen.add((name, extra))
        for wanted, extras, marker in _requirements(here[name].folder):
            if not marker or evaluate(marker, {**names, "extra": extra}):
                queue += [(wanted, each) for each in ("", *extras)]
    return tuple(here[name] for name in sorted({name for name, _ in seen}))


def _is_own_code(module: str) -> bool:
    """Whether it can be imported although no package lists it; looking does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return module in sys.modules


_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?")


def _requirements(folder: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """(name, extras, marker) of each `Requires-Dist` of a package."""
    found = []
    for line in (folder / "METADATA").read_text(encoding="utf-8", errors="replace").splitlines():
        if not line:
            break  # the headers are over
        if line.startswith("Requires-Dist:"):
            requirement, _, marker = line.removeprefix("Requires-Dist:").partition(";")
            match = _REQUIREMENT.match(requirement.strip())
            if match is not None:
                extras = tuple(sorted(part.strip() for part in (match[2] or "").split(",") if part.strip()))
                found.append((canonical_name(match[1]), extras, marker.strip()))
    return found


def _read_record(folder: Path, dist_info: str) -> tuple[str | None, frozenset[str]]:
    """The hash of a package's files, and its top-level modules."""
    try:
        with open(folder / "RECORD", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None, frozenset()
    added = (b"../", b"/", b'"', dist_info.encode())
    kept = [line for line in lines if b".pyc," not in line and not line.startswith(added)]
    tops = {line.replace(b",", b"/", 1).partition(b"/")[0].decode(errors="replace") for line in kept}
    modules = {top.partition(".")[0] for top in tops if not top.endswith(NOT_MODULES)}
    digest = hashlib.sha256(b"\n".join(sorted(kept))).hexdigest()
    return digest, frozenset(modules - {"__pycache__", ""})
