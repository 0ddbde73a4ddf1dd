"""From a file and a name to the flow that is written there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fourfold.core.errors import NotFound, Refused, did_you_mean

if TYPE_CHECKING:
    from fourfold.resources.flows.api import Flow


def load(file: str, name: str = "") -> Flow:
    """The flow of this name in the file (the only one there, without a name); `file` may be a module."""
    from fourfold.resources.flows.api import Flow

    module = _import_file(Path(file)) if file.endswith(".py") else _import_module(file)
    flows = {
        value.name: value
        for value in vars(module).values()
        if isinstance(value, Flow) and value.function.__module__ == module.__name__
    }
    if name:
        if name not in flows:
            raise NotFound(
                f"{file} has no flow '{name}'", ways_on=did_you_mean(name, flows, what="its flows")
            )
        return flows[name]
    if not flows:
        raise NotFound(
            f"{file} holds no flow", ways_on=["write one: a function under @fourfold.flow at the file's top"]
        )
    if len(flows) > 1:
        raise Refused(f"{file} holds {len(flows)} flows", ways_on=["name one: " + ", ".join(sorted(flows))])
    return next(iter(flows.values()))


def _import_file(path: Path) -> ModuleType:
    """Import a file under the name that other processes know it by: within its package, if it has one."""
    path = path.resolve()
    if not path.is_file():
        near = sorted(str(each.name) for each in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise NotFound(
            f"there is no file {path}", ways_on=did_you_mean(path.name, near, what="Python files there")
        )
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _prepend(folder)
    name = ".".join(parts)
    if len(parts) > 1:
        return _run_import(name)
    from fourfold.resources.flows.bundle import script_name

    name = script_name(path)
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _in_user_code(error, path.name) from error
    return module


def _import_module(name: str) -> ModuleType:
    _prepend(Path.cwd())
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise NotFound(
            f"'{name}' is neither a Python file nor a module",
            ways_on=["write flow.py, or package.module"],
        )
    return _run_import(name)


def _run_import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _in_user_code(error, name) from error


def _in_user_code(error: BaseException, where: str) -> BaseException:
    """An error of the flow's own file, told with its line; what already speaks for itself passes."""
    from fourfold.core.errors import FourfoldError

    if isinstance(error, FourfoldError) or not isinstance(error, Exception):
        return error
    import traceback

    if isinstance(error, SyntaxError):
        at = f"{Path(error.filename or where).name}, line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else where
    return Refused(
        f"{where} cannot be imported: {type(error).__name__}: {error} ({at})",
        ways_on=["see the whole trace: fourfold --debug flow ..."],
    )


def _prepend(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
