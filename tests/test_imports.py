"""Starting is a feature: what may not be imported before it is needed.

Checked by the list of modules, not by time: a list says the same on every machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "alembic",
    "blake3",
    "datasketches",
    "deltalake",
    "duckdb",
    "httptools",
    "httpx",
    "jsonschema",
    "lmdb",
    "matplotlib",
    "msgspec",
    "nbconvert",
    "numpy",
    "obstore",
    "pandas",
    "papermill",
    "pyarrow",
    "pyiceberg",
    "pyfastcdc",
    "skops",
    "sklearn",
    "sqlalchemy",
    "sqlglot",
    "starlette",
    "uvicorn",
    "uvloop",
}
SLOW_STANDARD = {
    "asyncio",
    "concurrent.futures",
    "difflib",
    "email",
    "http.client",
    "logging",
    "multiprocessing",
    "pathlib",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "unittest",
    "urllib.request",
    "xml",
}


def imported_by(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `code`, beyond those it starts with."""
    # -S leaves out .pth files, whose imports belong to the installation and not to us.
    script = (
        f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; before = set(sys.modules)\n"
        f"{code}\n"
        "import json; print('\\n' + json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HELP = "from fourfold.cli.main import run; assert run(['--help']) == 0"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        pytest.param("import fourfold", HEAVY | SLOW_STANDARD, id="import fourfold"),
        pytest.param(HELP, HEAVY | SLOW_STANDARD | {"shutil"}, id="fourfold --help"),
        pytest.param(
            "from fourfold.cli.main import run; run(['flow', '--help'])",
            HEAVY | {"asyncio"},
            id="flow --help",
        ),
        pytest.param(
            "from fourfold.cli.main import run; run(['version'])",
            HEAVY | SLOW_STANDARD,
            id="fourfold version",
        ),
        pytest.param("import fourfold.core.routes", HEAVY | SLOW_STANDARD, id="core.routes"),
        pytest.param(
            "import fourfold.adapters.remote",
            HEAVY - {"msgspec"} | {"asyncio", "multiprocessing", "sqlite3"},
            id="the remote client",
        ),
    ],
)
def test_starting_imports_nothing_heavy(code: str, forbidden: set[str]) -> None:
    found = sorted(forbidden & imported_by(code))
    assert not found, f"{code!r} imports {', '.join(found)}"


def test_help_imports_click_and_no_noun() -> None:
    found = imported_by(HELP)
    ours = {name for name in found if name.startswith("fourfold")}
    assert "click" in found
    core = {"fourfold.core", "fourfold.core.context", "fourfold.core.package"}
    assert ours <= {"fourfold", "fourfold.cli", "fourfold.cli.main"} | core


def test_the_types_of_every_route_are_found_without_pyarrow() -> None:
    """What a protocol imports for type checkers only is known by name where it travels."""
    code = (
        "from fourfold.core.services import all_routes\n"
        "shapes = {route.name: route.shape for route in all_routes()}\n"
        "assert shapes['features.training_set'].result_form == 'table'\n"
        "assert shapes['storage.scan'].result_form == 'batches'\n"
        "assert shapes['features.push'].body.name == 'events'\n"
    )
    assert "pyarrow" not in imported_by(code)
