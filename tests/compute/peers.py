"""Environments of their own for what Fourfold speaks with but never imports, from `locks/` into `.peers`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def peer_python(name: str) -> str:
    """The interpreter of the environment that `locks/NAME.txt` describes, made on first use.

    Skips, with the reason, where it cannot be made; under `CI` it fails.
    """
    lock = ROOT / "locks" / f"{name}.txt"
    folder = ROOT / ".peers" / name
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp, python = folder / "made-from", folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == digest:
            return str(python)
        uv = ROOT / ".boot" / "bin" / "uv"
        program = str(uv) if uv.exists() else "uv"
        make = [program, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        fill = [
            program,
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--python",
            str(python),
            "-r",
            str(lock),
        ]
        for command in (make, fill):
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                unavailable(f"no environment for {name}: {error}")
            if done.returncode:
                unavailable(f"no environment for {name}: {done.stderr.strip()[-500:]}")
        stamp.write_text(digest)
    return str(python)


def unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
