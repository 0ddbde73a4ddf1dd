"""Makes the processes of the chaos: each a fork of this one, which has imported the house already.

Lines of JSON come in: what to be (`up`, `client`, `jobs`), its arguments, the folder, and the file for what
it says. The number of the process goes out.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

IMPORTED = (
    "fourfold.cli.main",
    "fourfold.cli.up",
    "fourfold.wiring",
    "fourfold.server.app",
    "fourfold.server.listening",
    "fourfold.server.pages",
    "fourfold.server.up",
    "fourfold.catalog.database",
    "fourfold.catalog.migrations",
    "fourfold.resources.flows.api",
    "fourfold.resources.flows.calls",
    "fourfold.resources.flows.service",
    "fourfold.foundation.storage.service",
    "fourfold.foundation.compute.service",
    "fourfold.mlplatform.features.service",
    "fourfold.mlplatform.hosting.service",
    "fourfold.mlplatform.models.service",
    "fourfold.adapters.local_engine",
    "fourfold.adapters.local_blobs",
    "fourfold.adapters.delta",
    "sqlalchemy.dialects.sqlite",
    "alembic.command",
    "uvicorn",
)


def up() -> None:
    from fourfold.cli.main import main
    from fourfold.foundation.compute.serving import keeper

    keeper.LEASE_S, keeper.LOOK_S = 0.5, 0.05  # else the next one waits a quarter of a minute for the lease
    sys.argv = ["fourfold", "up", "--port", "0", "--no-gateway", "--quiet"]
    main()


def client(key: str, number: str) -> None:
    """Start a run, or find the one of this key; become the owner where there is none; tell the result."""
    sys.path.insert(0, str(Path.cwd()))
    flows = importlib.import_module("flows")
    print("result", flows.chaos.run(run=key, number=int(number), key=key, show=False), flush=True)


def jobs(prefix: str, count: str) -> None:
    """Submit jobs to an engine of this process's own, and wait for all of them."""
    from fourfold.adapters.local_engine import LocalEngine
    from fourfold.core.compute import Unit
    from fourfold.core.ports.engine import Launch

    folder, script = Path.cwd() / ".fourfold" / "jobs" / "plain", str(Path.cwd() / "job.py")
    engine = LocalEngine(folder, unit=Unit("local", cores=2, memory_bytes=8 << 30))
    engine.reap(())
    keys = [f"{prefix}/{number}" for number in range(int(count))]
    for key in keys:
        engine.submit(Launch(key, (sys.executable, "-I", "-S", script, key), cwd=str(Path.cwd())))
        print("accepted", key, flush=True)
    for key in keys:
        engine.wait([key], 60)
    engine.close()
    print("done", flush=True)


ROLES: dict[str, Callable[..., None]] = {"up": up, "client": client, "jobs": jobs}


def become(asked: dict[str, str | list[str]]) -> None:
    """In the new process: be what was asked for."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said = os.open(str(asked["said"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(str(asked["folder"]))
        ROLES[str(asked["role"])](*asked["arguments"])
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # As an interpreter ends: what was registered with atexit lets the owner's lock go.
        import atexit

        atexit._run_exitfuncs()
        os._exit(status)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the ended are nobody's zombies
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
