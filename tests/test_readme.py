"""The README's examples are run as a stranger would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def _example(number: int) -> str:
    return str(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[number])


def _run(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_flow_runs_as_a_script_and_by_the_command(tmp_path: Path) -> None:
    assert len(_example(0).strip().splitlines()) <= 12
    (tmp_path / "squares.py").write_text(_example(0))
    assert _run(tmp_path, sys.executable, "squares.py").strip() == "30"
    command = str(Path(sys.executable).with_name("fourfold"))
    assert "55" in _run(tmp_path, command, "flow", "run", "squares.py", "-p", "n=6")
    assert _run(tmp_path, command, "flow", "ls", "-o", "jsonl").count("succeeded") == 2


@pytest.mark.slow
def test_data_becomes_a_model_that_answers(tmp_path: Path) -> None:
    (tmp_path / "delays.py").write_text(_example(1))
    assert "late" in _run(tmp_path, sys.executable, "delays.py")
