"""Functions kept as source: which modules of the project they need, and running them again from text.

`collect` finds a function's modules by reading import statements. `StoredSource` runs such modules under
a private name, so that two versions of one project live in one process, and neither sees the present
files. An import of a stored module finds the stored one; any other import is an ordinary one.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import linecache
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from types import ModuleType
from typing import Any

from fourfold.core.errors import Refused
from fourfold.resources.flows import bundle

SOURCE_BYTES = 32 * 2**20
"""The most source that a version keeps."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Collected:
    """Source of the project: relative path to text, and what it imports from elsewhere."""

    files: Mapping[str, bytes]
    imports: frozenset[str]
    """Top-level names of everything imported that is not among the files."""


def entry_point(function: Callable[..., Any], *, what: str) -> tuple[str, ModuleType]:
    """`module:name` of a function that can be found again by its name, else refused with advice."""
    plain = inspect.unwrap(function)
    name = getattr(plain, "__qualname__", "")
    module = sys.modules.get(getattr(plain, "__module__", "") or "")
    ways_on = [f"write {what} as a function of a module: def {what}(...): ... in a .py file of the project"]
    if not inspect.isfunction(plain):
        raise Refused(f"{what} is a {type(function).__name__}, not a function", ways_on=ways_on)
    if name == "<lambda>":
        raise Refused(f"{what} is a lambda: it has no name to find it by", ways_on=ways_on)
    if "<locals>" in name:
        raise Refused(f"{what} '{name}' is defined inside another function", ways_on=ways_on)
    if module is None or not getattr(module, "__file__", None):
        raise Refused(f"{what} '{name}' has no source file (a notebook or a console?)", ways_on=ways_on)
    try:
        place = bundle.place_of(module)
    except Refused as error:
        raise Refused(f"{what} '{name}' has no source file", ways_on=ways_on) from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or inspect.unwrap(found) is not plain:
        raise Refused(
            f"{what} '{name}' is not what module '{module.__name__}' calls '{name}'", ways_on=ways_on
        )
    return f"{place.module}:{name}", module


def collect(modules: Iterable[ModuleType]) -> Collected:
    """The source of these modules and of all modules of the project that they import."""
    files: dict[str, bytes] = {}
    imports: set[str] = set()
    names: set[str] = set()
    for module in modules:
        place = bundle.place_of(module)
        if module.__name__ == "__main__":
            _refuse_script(place.file.read_bytes(), str(place.file))
        for name, file in bundle.closure(place).items():
            text = file.read_bytes()
            files[path_of(name, is_package=file.stem == "__init__")] = text
            imports |= _top_level_imports(text)
            names.add(name.partition(".")[0])
    if sum(map(len, files.values())) > SOURCE_BYTES:
        raise Refused(
            f"the modules that featurize and predict import are larger than {SOURCE_BYTES} bytes",
            ways_on=["keep data out of modules; load it from a table or put it into the model"],
        )
    return Collected(dict(sorted(files.items())), frozenset(imports - names))


def path_of(module: str, *, is_package: bool) -> str:
    """Where a module's text is kept.

    >>> path_of("flights.features", is_package=False)
    'flights/features.py'
    """
    return module.replace(".", "/") + ("/__init__.py" if is_package else ".py")


class StoredSource:
    """Modules from text, run on first use under a private name."""

    def __init__(self, files: Mapping[str, bytes], *, label: str) -> None:
        self._texts = {_module_of(path): (path, text) for path, text in files.items()}
        self._tops = {name.partition(".")[0] for name in self._texts}
        self._prefix = f"_fourfold_stored_{next(_numbers)}"
        self._label = label
        builtin = dict(vars(builtins))
        builtin["__import__"] = self._import
        self._builtins = builtin
        weakref.finalize(self, _forget, self._prefix)

    def imported(self, entry: str) -> Any:
        """The thing that `module:name` means in the stored source."""
        module, _, name = entry.partition(":")
        found: Any = self._module(module)
        for part in name.split("."):
            if not hasattr(found, part):
                raise Refused(f"the stored source of {self._label} has no '{entry}'")
            found = getattr(found, part)
        return found

    def _module(self, name: str) -> ModuleType:
        private = f"{self._prefix}.{name}"
        if (known := sys.modules.get(private)) is not None:
            return known
        parent_name, _, last = name.rpartition(".")
        parent = self._module(parent_name) if parent_name else None
        path, text = self._texts.get(name, ("", b""))
        is_package = path.endswith("/__init__.py") or not path
        if not path and not any(each.startswith(name + ".") for each in self._texts):
            raise ModuleNotFoundError(
                f"module '{name}' was not stored with {self._label}: only what import statements name is",
                name=name,
            )
        module = ModuleType(private)
        filename = f"<{self._label}>/{path}"
        module.__file__ = filename
        module.__package__ = private if is_package else private.rpartition(".")[0]
        module.__spec__ = ModuleSpec(private, None, is_package=is_package)
        if is_package:
            module.__path__ = []
        vars(module)["__builtins__"] = self._builtins
        sys.modules[private] = module
        try:
            # Tracebacks and inspect.getsource show the stored lines.
            lines = text.decode("utf-8", errors="replace").splitlines(keepends=True)
            linecache.cache[filename] = (len(text), None, lines, filename)
            exec(compile(text, filename, "exec", dont_inherit=True), vars(module))  # noqa: S102
        except BaseException:
            del sys.modules[private]
            raise
        if parent is not None:
            setattr(parent, last, module)
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002  (the interpreter's own names)
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: tuple[str, ...] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What an import statement in a stored module does."""
        if level:
            package = (globals or {}).get("__package__") or ""
            absolute = resolve_name("." * level + name, package)
            name = absolute.removeprefix(self._prefix).lstrip(".")
        elif name.partition(".")[0] not in self._tops:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self._module(name) if name else self._root()
        if not fromlist:
            return self._module(name.partition(".")[0])
        for each in fromlist:
            inside = f"{name}.{each}" if name else each
            if each != "*" and not hasattr(module, each) and self._is_stored(inside):
                self._module(inside)
        return module

    def _is_stored(self, name: str) -> bool:
        return name in self._texts or any(each.startswith(name + ".") for each in self._texts)

    def _root(self) -> ModuleType:
        raise ImportError("a relative import leads out of the stored source")


def _forget(prefix: str) -> None:
    for name in [name for name in sys.modules if name.startswith(prefix + ".")]:
        file = getattr(sys.modules.pop(name, None), "__file__", None)
        linecache.cache.pop(file or "", None)


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _top_level_imports(text: bytes) -> set[str]:
    found: set[str] = set()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _refuse_script(text: bytes, file: str) -> None:
    """A script that works when it is imported would work again at every load of the model."""
    for node in ast.parse(text, filename=file).body:
        acts = isinstance(node, ast.For | ast.While | ast.With) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
        )
        if acts:
            raise Refused(
                f"{file}:{node.lineno} does its work when the file is imported, and loading the model "
                "would do it again",
                ways_on=['put it under  if __name__ == "__main__":', "or move featurize to its own module"],
                file=file,
                line=node.lineno,
            )
