"""The house as a whole: which library may be used where, and what the core may not do."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import grimp
import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "fourfold"

HOMES: dict[str, str] = {
    # what a library may be imported by, as a pattern over module names
    "sqlalchemy": r"fourfold\.catalog(\..*)?|fourfold\..*\.tables",
    "alembic": r"fourfold\.catalog(\..*)?",
    "deltalake": r"fourfold\.adapters\..*",
    "obstore": r"fourfold\.adapters\..*",
    "datasketches": r"fourfold\.(foundation|mlplatform)\..*",
    "jsonschema": r"fourfold\.testing\.kubernetes\.schema",
    "lmdb": r"fourfold\.adapters\..*",
    "psycopg": r"fourfold\.adapters\..*",
    "pyiceberg": r"fourfold\.adapters\..*",
    "pyfastcdc": r"fourfold\.adapters\..*",
    "blake3": r"fourfold\.adapters\..*",
    "sqlglot": r"fourfold\.foundation\..*",
    "ray": r"fourfold\.adapters\.ray\.(data|gang)",
    "skops": r"fourfold\.adapters\..*",
    "papermill": r"fourfold\.adapters\..*",
    "nbconvert": r"fourfold\.adapters\..*",
    "nbclient": r"fourfold\.adapters\..*",
    "ipykernel": r"fourfold\.adapters\..*",
    "bleach": r"fourfold\.adapters\..*",
    "pygments": r"fourfold\.adapters\..*",
    "anyio": r"fourfold\.server(\..*)?",
    "uvicorn": r"fourfold\.(adapters\..*|server(\..*)?)",
    "starlette": r"fourfold\.(adapters\..*|server(\..*)?)",
    "yaml": r"fourfold\.adapters\.kubernetes\.access",
    "click": r"fourfold\.cli(\..*)?",
}
ANYWHERE = {"pyarrow", "numpy", "duckdb", "msgspec", "uv"}
"""Libraries that any room may compute with (and uv, the builder of environments)."""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fourfold", include_external_packages=True, exclude_type_checking_imports=True)


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_is_imported_only_at_home(library: str) -> None:
    assert library in graph().modules, f"nothing imports {library}: it needs no home"
    strays = [
        module
        for module in sorted(graph().find_modules_that_directly_import(library))
        if not re.fullmatch(HOMES[library], module)
    ]
    assert not strays


def test_every_library_has_a_home() -> None:
    import sys

    outside = {
        imported
        for module in graph().modules
        if module.startswith("fourfold")
        for imported in graph().find_modules_directly_imported_by(module)
        if not imported.startswith("fourfold")
    }
    assert outside - set(sys.stdlib_module_names) - set(HOMES) - ANYWHERE == set()


def test_the_core_never_reads_a_clock_or_a_file() -> None:
    strays = []
    for path in sorted((SOURCE / "core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name in {"open", "print", "input"} or name.endswith(
                (".now", ".utcnow", ".today", ".read_text")
            ):
                strays.append(f"{path.name}:{node.lineno} {name}")
    # `clock.now()` belongs to whoever holds a clock, and the core holds none.
    assert not strays


def test_every_room_says_its_purpose_in_one_line() -> None:
    for init in sorted(SOURCE.rglob("__init__.py")):
        docstring = ast.get_docstring(ast.parse(init.read_text()))
        assert docstring, init
        assert len(docstring.splitlines()[0]) <= 110, init


def test_every_room_has_a_page() -> None:
    pages = SOURCE.parent.parent / "docs" / "internals"
    rooms = [
        "backup",
        "catalog", "storage", "compute", "environments", "flows", "pools", "runner", "sim", "features",
        "models", "hosting", "workbench", "server", "cli", "advise", "house", "dependencies", "objects",
        "iceberg", "lineage", "datasets", "buffer", "slurm", "containers", "kubernetes",
    ]  # fmt: skip
    assert [room for room in rooms if not (pages / f"{room}.md").exists()] == []


def test_the_package_and_its_metadata_name_the_same_version() -> None:
    import tomllib

    from fourfold.core.package import VERSION

    metadata = tomllib.loads((SOURCE.parent.parent / "pyproject.toml").read_text())
    assert metadata["project"]["version"] == VERSION


@pytest.mark.parametrize("folder", ["src", "examples", "tests", "benchmarks", "tools"])
def test_no_file_is_too_long_to_read(folder: str) -> None:
    long = {
        str(path.relative_to(SOURCE.parent.parent)): lines
        for path in sorted((SOURCE.parent.parent / folder).rglob("*.py"))
        if (lines := len(path.read_text().splitlines())) > 600
    }
    assert not long


def test_no_file_names_a_registry_or_a_place_on_some_machine() -> None:
    import subprocess

    root = SOURCE.parent.parent
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    strange = re.compile(r"pythonhosted|pypi\.org/|registry\.npmjs|/home/(?!me/)\w+/|/root/|/work/\w+/")
    strays = [
        f"{name}: {found.group()}"
        for name in listed.stdout.split("\0")
        if name and name != "tests/test_house.py" and (root / name).is_file()
        for found in strange.finditer((root / name).read_text(errors="replace"))
    ]
    assert not strays
