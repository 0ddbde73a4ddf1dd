"""Real engines for the tests of compute."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.compute.peers import peer_python, unavailable
from tests.compute.slurm_cluster import SlurmCluster, slurm_cluster

NODES = Path(__file__).with_name("ray_nodes.py")


@dataclass(frozen=True)
class RayCluster:
    """A cluster of three nodes; its token is in the file that its address names."""

    address: str
    token: str
    control: str
    python: str

    def ask(self, words: str) -> str:
        """Send a line to `ray_nodes.py`."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self.control)
            line.sendall(words.encode() + b"\n")
            return line.makefile().read()


@contextmanager
def ray_cluster_running() -> Iterator[RayCluster]:
    python = peer_python("ray")
    folder = Path(tempfile.mkdtemp(prefix="ff-ray-", dir="/tmp"))  # short, for its sockets
    token = secrets.token_hex(16)
    (folder / "token").write_text(token)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("FOURFOLD_", "RAY_"))},
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dead node is noticed in about ten seconds; sooner, live ones of a busy machine were lost too.
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "10",
    }
    command = [python, str(NODES), str(folder / "control"), str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            unavailable(f"no Ray cluster: {(folder / 'log').read_text()[-2000:]}")
        address = f"ray://127.0.0.1:{port}?timeout_s=60&shares_files=1&token_file={folder / 'token'}"
        yield RayCluster(address, token, str(folder / "control"), python)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One cluster for all workers of a test run: the first starts it, and ends it after the last."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    told = shared / "ray.json"
    with (shared / "ray.lock").open("w") as starting, (shared / "ray.used").open("w") as used:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if told.exists():
            fcntl.flock(used, fcntl.LOCK_SH)
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield RayCluster(**json.loads(told.read_text()))
            return
        with ray_cluster_running() as cluster:
            told.write_text(json.dumps(cluster.__dict__))
            fcntl.flock(used, fcntl.LOCK_SH)
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield cluster
            fcntl.flock(starting, fcntl.LOCK_EX)
            told.unlink()  # who comes now starts another
            fcntl.flock(starting, fcntl.LOCK_UN)
            fcntl.flock(used, fcntl.LOCK_EX)


@pytest.fixture
def own_ray_cluster() -> Iterator[RayCluster]:
    """A cluster for one test that breaks it: others' jobs would notice."""
    with ray_cluster_running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real Slurm cluster, one for all tests of a process; who breaks a part of it mends it."""
    with slurm_cluster() as cluster:
        yield cluster
