"""A flow's code as one pinned thing: the project's modules that it imports, and their digest.

The modules are found by reading their import statements, without running anything. A project's root is
the folder from which the flow's module was imported; what lies elsewhere (installed packages, Fourfold
itself) belongs to the environment. A run is pinned to its bundle: editing files does not change it.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from fourfold.core.errors import Corrupted, Refused, TooMuch

MOST_BYTES = 64 * 1024 * 1024
MOST_UNPACKED_BYTES = 4 * MOST_BYTES
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: equal code gives equal bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module lives: its importable name, its file, and the folder it is imported from."""

    module: str
    file: Path
    root: Path


def place_of(module: ModuleType) -> Place:
    """Where a module lives. The module run as a script is known by its file's name."""
    name, file = module.__name__, getattr(module, "__file__", None)
    if not file or not Path(file).is_file():
        raise Refused(
            f"the flow is defined in {name!r}, which is not a file (a notebook or a console?)",
            ways_on=["put the flow and its steps in a .py file and import it from there"],
        )
    path = Path(file).resolve()
    spec = getattr(module, "__spec__", None)
    if name == "__main__" and spec is not None and spec.name != "__main__":
        name = spec.name
    elif name == "__main__":
        return Place(script_name(path), path, path.parent)
    depth = len(name.split(".")) - (0 if path.stem == "__init__" else 1)
    root = path.parent
    for _ in range(depth):
        root = root.parent
    return Place(name, path, root)


def script_name(path: Path) -> str:
    """The name under which a script is imported."""
    stem = path.stem
    return (
        stem
        if stem.isidentifier() and stem not in sys.stdlib_module_names
        else f"script_{stem.encode().hex()}"
    )


def closure(place: Place) -> dict[str, Path]:
    """The project's modules that this one imports, directly or not, itself included: name to file."""
    found: dict[str, Path] = {}
    waiting = [(place.module, place.file)]
    while waiting:
        name, file = waiting.pop()
        if name in found:
            continue
        found[name] = file
        stat = file.stat()
        imports = _imports(str(file), name, file.stem == "__init__", stat.st_mtime_ns, stat.st_size)
        for wanted in (*imports, name):
            waiting += [
                (prefix, at)
                for prefix in _prefixes(wanted)
                if prefix not in found and (at := _find(place.root, prefix)) is not None
            ]
    return dict(sorted(found.items()))


def digest(files: dict[str, Path]) -> str:
    """The digest of these modules: names and contents."""
    total = hashlib.blake2b(digest_size=32)
    for name, file in files.items():
        data = file.read_bytes()
        total.update(f"{name}\0{file.stem == '__init__'}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def pack(files: dict[str, Path]) -> bytes:
    """The modules as a zip; equal modules give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, file in files.items():
            inside = name.replace(".", "/") + ("/__init__.py" if file.stem == "__init__" else ".py")
            bundle.writestr(zipfile.ZipInfo(inside, _EPOCH), file.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    if len(data) > MOST_BYTES:
        raise TooMuch(f"the flow's code is {len(data)} bytes; a bundle holds at most {MOST_BYTES}")
    return data


def bundle_digest(data: bytes) -> str:
    """The identity of a bundle: the folder it is unpacked in."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def unpack(data: bytes, into: Path, wanted: str) -> Path:
    """Unpack a bundle into `into/<digest>`, once; the folder."""
    folder = into / wanted
    if folder.is_dir():
        return folder
    if bundle_digest(data) != wanted:
        raise Corrupted(f"the code bundle {wanted} does not hold what it should", digest=wanted)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".unpacking-") as name:
        made = Path(name) / "code"
        made.mkdir()
        _extract(data, made)
        _sync(made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # another process was faster, or it is a real error
                raise
    _sync_one(into)
    return folder


def _extract(data: bytes, folder: Path) -> None:
    """Write out what a bundle holds; refused when it is no bundle, leads out or is too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            if (unpacked := sum(info.file_size for info in bundle.infolist())) > MOST_UNPACKED_BYTES:
                raise TooMuch(f"the flow's code is {unpacked} bytes; it may be {MOST_UNPACKED_BYTES}")
            for info in bundle.infolist():
                if not (folder / info.filename).resolve().is_relative_to(folder.resolve()):
                    raise Refused(f"the code bundle holds a path that leads out: {info.filename}")
            bundle.extractall(folder)  # which reads no more of a file than was told of it
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
        raise Refused(
            f"the code bundle cannot be read: {error}", ways_on=["submit the flow with `fourfold flow run`"]
        ) from error


def _sync(folder: Path) -> None:
    """Put a folder on disk, files first: the name that it gets next stands for the whole of it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_one(Path(place, name))
        _sync_one(Path(place))


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _find(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def _prefixes(name: str) -> Iterator[str]:
    pieces = name.split(".")
    for end in range(1, len(pieces) + 1):
        yield ".".join(pieces[:end])


@lru_cache(maxsize=4096)
def _imports(file: str, name: str, is_package: bool, _mtime_ns: int, _size: int) -> tuple[str, ...]:
    """Every name that a file's import statements may mean, absolute."""
    try:
        tree = ast.parse(Path(file).read_bytes(), filename=file)
    except SyntaxError:
        return ()  # it fails when it is imported, with Python's own words
    package = name.split(".") if is_package else name.split(".")[:-1]
    wanted: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module:
                wanted.append(module)
            wanted += [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
    return tuple(dict.fromkeys(wanted))
