"""The smoke test: load a version's folder in a process of its own and run its example again.

`python -m fourfold.mlplatform.models.replay FOLDER` prints the outcome as JSON. The version's code is its
creator's; whoever asks whether it may be promoted does not run it in his own process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fourfold.core import package, wire
from fourfold.core.errors import FourfoldError
from fourfold.core.models import LoadPolicy, Replay

POLICY_ENV = "FOURFOLD_LOAD_POLICY"
TIMEOUT_S = 120.0
_SETTINGS = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")


def replay_apart(folder: Path, policy: LoadPolicy, *, timeout_s: float = TIMEOUT_S) -> Replay:
    """Replay in another process, which gets a small clean environment and at most `timeout_s`."""
    env = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    env[POLICY_ENV] = wire.encode(policy).decode()
    env["PYTHONPATH"] = os.fspath(package.FOLDER)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fourfold.mlplatform.models.replay", os.fspath(folder)],
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=env,
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return Replay(False, f"the stored example did not answer within {timeout_s:g} s")
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return Replay(False, f"replaying ended with status {done.returncode}: {said[-1] if said else ''}")
    return wire.decode(lines[-1], Replay, what="replay")


def main(arguments: list[str]) -> int:
    """Load, and say how the example came out."""
    from fourfold.mlplatform.models.loading import load_folder

    told = os.environ.get(POLICY_ENV, "")
    policy = wire.decode(told, LoadPolicy, what="load policy") if told else LoadPolicy()
    try:
        outcome = load_folder(Path(arguments[0]), policy=policy).replay
    except FourfoldError as error:
        outcome = Replay(False, str(error))
    except Exception as error:  # a stranger's module may raise anything while it is imported
        outcome = Replay(False, f"{type(error).__name__}: {str(error)[:500]}")
    # On a line of its own: the model's code may have printed too.
    sys.stdout.write("\n" + wire.encode(outcome).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
