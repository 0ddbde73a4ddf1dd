"""A project that is used as a person uses it: by commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fourfold import wiring
from fourfold.cli.main import run

PATIENCE_S = 90
FOURFOLD = [sys.executable, "-c", "from fourfold.cli.main import main; main()"]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Project:
    """A folder with a project in it."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / ".fourfold"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
        return {**kept, "FOURFOLD_HOME": str(self.home)}

    def command(self, *arguments: str) -> Ran:
        """Carry out a command line in this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(self.folder)
            patch.setenv("FOURFOLD_HOME", str(self.home))
            code = run(list(arguments))
        told = [stream.buffer.getvalue().decode() for stream in (out, err)]
        assert "Traceback" not in told[1], told[1]
        return Ran(code, *told)

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command line in a process of its own, which does not outlive the block."""
        process = subprocess.Popen(
            [*FOURFOLD, *arguments],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)

    def refused(self, *arguments: str) -> str:
        """What a command that must be refused says."""
        done = self.command(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert "met a defect" not in done.stderr, done.stderr
        assert "error: " in done.stderr
        return done.stderr

    def done(self, *arguments: str) -> str:
        """What a command that must succeed prints."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.done(*arguments, "-o", "json"))

    @contextmanager
    def opened(self) -> Iterator[wiring.Project]:
        with closing(wiring.Project(self.home, wiring.read_settings(self.home, {}))) as project:
            yield project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project."""
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)
