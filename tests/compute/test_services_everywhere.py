"""Services on this machine, in containers, on Slurm and on Ray: kept by `fourfold up`, whoever is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.compute.conftest import RayCluster
from tests.compute.container_image import PYTHON, built_image, container_address, podman
from tests.compute.slurm_cluster import SlurmCluster

from fourfold.core.serving import ServiceInfo, ServicePhase, ServiceState
from fourfold.foundation.compute.serving.tables import ServiceTables
from fourfold.wiring.places import read_settings
from fourfold.wiring.project import Project

pytestmark = pytest.mark.slow

WITHIN_S = 240.0

SERVER = """
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        said = f"{sys.argv[1]} {os.environ.get('WORD', '')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass

if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("serving", flush=True)
HTTPServer((os.environ["FOURFOLD_HOST"], int(os.environ["FOURFOLD_PORT"])), Handler).serve_forever()
"""


FLOW = """
import fourfold as ff

@ff.step(cpu=1)
def double(n):
    return 2 * n

@ff.flow
def study(n: int = 21):
    return double(n).result()

if __name__ == "__main__":
    print(study.run(show=False))
"""


class House:
    """A project whose pool `lab` has some engine, and the `fourfold up` that looks after it."""

    def __init__(self, folder: Path, engine: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        (folder / "fourfold.toml").write_text(
            '[pools.local]\nengine = "local://"\n'
            f'[pools.lab]\nengine = "{engine}"\nprice_usd_per_hour = 3.6\n'
        )
        self.home = folder / ".fourfold"
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")},
            **environment,
            "PATH": os.pathsep.join([environment.get("PATH", ""), os.environ["PATH"]]).strip(os.pathsep),
        }
        for name in ("PATH", *environment):
            os.environ[name] = self.environment[name]
        self.project = Project(self.home, read_settings(self.home, {}))
        self.python = PYTHON if engine.startswith("podman") else sys.executable
        self.token = f"house-{os.getpid()}-{id(self)}"
        self.owner: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        command = [sys.executable, "-c", "from fourfold.cli.main import main; main()"]
        self.owner = subprocess.Popen(
            [*command, "up", "--port", "0", "--no-gateway", "--quiet"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        assert self.owner.stdout is not None
        assert self.owner.stdout.readline()

    def down(self, number: int) -> None:
        """End `fourfold up`, by a word or by force."""
        assert self.owner is not None
        assert self.owner.stdout is not None
        self.owner.send_signal(number)
        self.owner.wait(WITHIN_S)
        self.owner.stdout.close()
        self.owner = None

    def start(self, name: str = "web", *, env: Mapping[str, str] | None = None, **words: object) -> None:
        argv = [self.python, "-I", "-S", "-c", SERVER, self.token]
        asks = {"pool": "lab", "probe": "http", "cpu": "0.5", "ready_within_s": WITHIN_S, **words}
        self.project.compute.start_service(name, argv, env=dict(env or {}), **asks)  # type: ignore[arg-type]

    def service(self, name: str = "web") -> ServiceInfo:
        return self.project.compute.service(name)

    def state(self, name: str = "web") -> ServiceState:
        return self.service(name).state

    def keeper(self) -> str:
        """Who looks after the service, or did until it died."""
        kept = ServiceTables(self.project.database).get("web")
        assert kept is not None
        return kept.keeper

    def until(self, phase: ServicePhase, generation: int, name: str = "web") -> ServiceState:
        def holds() -> bool:
            state = self.state(name)
            return (state.phase, state.generation, state.fault) == (phase, generation, "")

        until(holds, lambda: f"{name} {phase} in start {generation}: {self.state(name)}")
        return self.state(name)

    def says(self, name: str = "web") -> str:
        """What it answers over HTTP at its address."""
        with urlopen(f"http://{self.state(name).address}/", timeout=30) as answer:
            return str(answer.read().decode())

    def processes(self) -> list[int]:
        """The processes of services of this house on this machine, which all nodes are: their commands."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(os.path.basename(self.python).encode()) and self.token.encode() in words:
                    found.append(int(path.parent.name))
        return sorted(found)

    def close(self) -> None:
        for service in self.project.compute.services():
            with suppress(Exception):
                self.project.compute.stop_service(service.spec.name)
        if self.owner is None:
            self.up()
        open_still = [each for each in self.project.compute.services() if each.state.has_process]
        with suppress(AssertionError):
            until(lambda: not any(self.state(each.spec.name).has_process for each in open_still), lambda: "")
        self.down(signal.SIGTERM)
        self.project.close()


def until(holds: Callable[[], object], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what()}"
        time.sleep(0.1)  # another process looks after services: there is no event to await


@contextmanager
def house(folder: Path, engine: str, environment: Mapping[str, str] | None = None) -> Iterator[House]:
    kept = dict(os.environ)
    made = House(folder, engine, environment or {})
    try:
        made.up()
        yield made
    finally:
        made.close()
        os.environ.clear()
        os.environ.update(kept)


def test_services_of_this_machine_end_with_their_owner_and_start_anew(tmp_path: Path) -> None:
    with house(tmp_path, "local://") as made:
        _is_kept_and_started_again(made)
        made.down(signal.SIGKILL)
        until(lambda: not made.processes(), lambda: f"nothing is left: {made.processes()}")
        made.up()
        made.until(ServicePhase.ready, 3)
        assert made.state().failures_in_row == 1, "the end of its keeper is no failure of its own"
        _ends_although_it_is_stubborn(made, 4)


def test_services_in_containers_outlive_their_owner(tmp_path: Path) -> None:
    built_image()
    with house(tmp_path, container_address()) as made:
        try:
            _is_kept_and_started_again(made)
            _is_adopted(made, 2)
            _outlives_a_polite_end(made, 2)
            _ends_although_it_is_stubborn(made, 3)
        finally:
            ours = [path.name for path in (made.home / "jobs").glob("services.lab/fourfold-*")]
            made.project.close()
            podman("rm", "--force", "--time", "0", "--ignore", *ours)


def test_services_on_slurm_outlive_their_owner_and_their_controller(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with house(tmp_path, "slurm://", slurm.environment) as made:
        _is_kept_and_started_again(made)
        slurm.let_it_save()  # a controller that dies before forgets the job, and Slurm ends it
        slurm.kill("slurmctld")
        try:
            until(lambda: "pool 'lab' cannot be used now" in made.state().fault, lambda: str(made.state()))
            assert made.state().phase is ServicePhase.ready
            assert made.says().startswith(made.token)
        finally:
            slurm.start("slurmctld")
        made.until(ServicePhase.ready, 2)
        _is_adopted(made, 2)
        _ends_although_it_is_stubborn(made, 3)


def test_services_on_ray_outlive_their_owner(ray_cluster: RayCluster, tmp_path: Path) -> None:
    with house(tmp_path, ray_cluster.address) as made:
        _is_kept_and_started_again(made)
        _is_adopted(made, 2)
        _ends_although_it_is_stubborn(made, 3)


def test_steps_wait_for_what_a_service_holds_and_run_when_it_has_ended(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(FLOW)
    with house(tmp_path, "local://") as made:
        made.start(pool="local", cpu=f"{made.project.unit.cores - 0.5:g}")
        made.until(ServicePhase.ready, 1)
        study = subprocess.Popen(
            [sys.executable, "study.py"],
            cwd=tmp_path,
            env=made.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

        def why() -> str:
            runs = made.project.flows.list()
            return "\n".join(each.reason for run in runs for each in made.project.flows.why(run.id))

        until(lambda: "service web holds" in why(), why)
        made.project.compute.stop_service("web")
        out, _ = study.communicate(timeout=WITHIN_S)
        assert out.strip() == "42"


def test_a_port_that_something_else_took_costs_a_start_and_no_more(tmp_path: Path) -> None:
    waits = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
    with house(tmp_path, "local://") as made:
        argv = [sys.executable, "-I", "-S", "-c", waits + SERVER, made.token]
        made.project.compute.start_service("web", argv, pool="lab", probe="http", cwd=str(tmp_path))
        until(lambda: made.state().address, lambda: str(made.state()))
        host, _, port = made.state().address.rpartition(":")
        with socket.create_server((host, int(port))):
            (tmp_path / "go").touch()
            made.until(ServicePhase.ready, 2)
        assert made.state().address != f"{host}:{port}"
        assert made.says().startswith(made.token)
        assert made.state().starts[0].end == "exit status 1"
        assert "Address already in use" in made.project.compute.service_logs("web", generation=1).text


def _is_kept_and_started_again(made: House) -> None:
    """Started on its pool, reached at its address, and started again when it was killed."""
    made.start(env={"WORD": "one"})
    made.project.compute.start_service("broken", ["/no/such"], pool="lab", cpu="0.5")
    state = made.until(ServicePhase.ready, 1)
    assert state.unit.partition("/")[0] == "lab"
    assert made.says() == f"{made.token} one"
    log = made.project.compute.service_logs("web")
    assert (log.text.strip(), log.generation, log.is_end) == ("serving", 1, False)
    (first,) = made.processes()
    os.kill(first, signal.SIGKILL)
    made.until(ServicePhase.ready, 2)
    assert made.says() == f"{made.token} one"
    (second,) = made.processes()
    assert second != first
    until(lambda: made.state("broken").failures_in_row, lambda: str(made.state("broken")))
    assert "/no/such" in made.state("broken").starts[0].end
    made.project.compute.stop_service("broken")
    (account,) = [job.account for job in made.project.compute.jobs() if job.report.key == "service/web/1"]
    assert account.price_usd_per_hour == 3.6
    assert account.cost_nanousd > 0
    one, two = made.state().starts
    assert "SIGKILL" in one.end or "ended from outside" in one.end or "137" in one.end, one
    assert two.why == f"started again after: {one.end}"


def _is_adopted(made: House, generation: int) -> None:
    """It goes on while nobody owns the project, and the next owner has it: same process, same start."""
    processes, address, keeper = made.processes(), made.state().address, made.keeper()
    made.down(signal.SIGKILL)
    assert made.says().startswith(made.token), "it serves although nobody looks after it"
    made.up()
    until(lambda: made.keeper() not in ("", keeper), lambda: f"another keeper than {keeper}")
    state = made.until(ServicePhase.ready, generation)
    assert (made.processes(), state.address) == (processes, address)


def _outlives_a_polite_end(made: House, generation: int) -> None:
    processes, address = made.processes(), made.state().address
    made.down(signal.SIGTERM)
    assert made.keeper() == "", "one that ends politely lets its services go at once"
    assert made.says().startswith(made.token)
    made.up()
    until(made.keeper, lambda: "a keeper")
    state = made.until(ServicePhase.ready, generation)
    assert (made.processes(), state.address) == (processes, address)


def _ends_although_it_is_stubborn(made: House, generation: int) -> None:
    """A changed service is drained and started anew; one that heeds no word is ended by force."""
    made.start(env={"WORD": "two", "STUBBORN": "1"}, drain_s=1.0)
    made.until(ServicePhase.ready, generation)
    assert made.says() == f"{made.token} two"
    assert made.state().starts[-1].why == "it was changed"
    host, _, port = made.state().address.rpartition(":")
    made.project.compute.stop_service("web")
    made.until(ServicePhase.stopped, generation)
    assert made.processes() == []
    with pytest.raises(OSError), socket.create_connection((host, int(port)), 10):
        pass
