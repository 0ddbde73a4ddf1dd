"""A real Slurm cluster on this machine, of the packages that are installed, in a folder that goes away.

One controller, three nodes, accounting in MariaDB, the REST door, each daemon in the foreground on a port of
its own; no systemd, no cgroups, no root beyond what the packages' own files need. Nothing is installed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cluster import Cluster
from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.adapters.slurm.opening import open_cluster

NEEDED = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "slurmrestd": "slurmrestd",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
"""Each program, and Debian's package of it; slurm-wlm-jwt-plugin and slurm-wlm-mysql-plugin come as well."""
NODES = ("n1", "n2", "n3")
GPU_NODE = "n3"
READY_WITHIN_S = 60.0
SYSTEM_PATH = f"{os.defpath}:/usr/sbin:/sbin:/usr/local/sbin"


class SlurmCluster:
    """The daemons, each by its name, and what tests do to them."""

    def __init__(self, folder: Path, *, node_mib: int = 2000) -> None:
        self.folder = folder
        self.node_mib = node_mib
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.rest_port = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[list[str], Mapping[str, str]]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of Slurm need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": SYSTEM_PATH}

    def run(self, *command: str, timeout_s: float = 60.0) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def token(self) -> str:
        """A token of our user for the REST door."""
        return self.run("scontrol", "token", "lifespan=3600").strip().partition("=")[2]

    # What is done to it.

    def signal(self, daemon: str, number: signal.Signals) -> None:
        self._processes[daemon].send_signal(number)

    def kill(self, daemon: str) -> None:
        self._processes[daemon].kill()
        self._processes[daemon].wait()

    def let_it_save(self) -> None:
        """Wait until the controller has written all that it knows: some seconds after a change it does."""
        began = time.time()
        self.run("sbatch", "--output=/dev/null", "--time=1", "--wrap=true")  # a change, whatever came before
        deadline = time.monotonic() + READY_WITHIN_S
        while (self.folder / "state" / "job_state").stat().st_mtime <= began:
            assert time.monotonic() < deadline, "the controller did not save its state"
            time.sleep(0.1)

    def start(self, daemon: str) -> None:
        """Start it anew, as it was."""
        command, environment = self._commands[daemon]
        self._spawn(daemon, command, environment)

    def processes_of(self, node: str) -> dict[str, list[int]]:
        """The processes of a node by what they are: its daemon, those that hold its jobs, and our keepers."""
        found: dict[str, list[int]] = {"slurmd": [self._processes[node].pid], "slurmstepd": [], "keeper": []}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                if any(b"/keeper-" in word for word in words):
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    here = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode() in environment
                    if here and f"SLURMD_NODENAME={node}".encode() in environment:
                        found["keeper"].append(int(entry.name))
                        found["slurmstepd"].append(parent_of(int(entry.name)))
        return found

    def states(self) -> dict[str, str]:
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split()[:2] for line in lines)

    def wait_until_up(self) -> None:
        eventually(self._answers, within_s=READY_WITHIN_S)

    def hurried(self) -> bool:
        """Let what waits for its hour start now; whether anything is in the queue."""
        queue = self.run("squeue", "--noheader", "--format=%A %T").splitlines()
        for line in queue:
            if line.endswith("PENDING"):
                with contextlib.suppress(AssertionError):  # it has just started
                    self.run("scontrol", "update", f"jobid={line.split()[0]}", "starttime=now")
        return bool(queue)

    def wait_until_idle(self) -> None:
        eventually(lambda: set(self.states().values()) == {"idle"}, within_s=READY_WITHIN_S)

    # Starting and ending.

    def open(self) -> None:
        for name in ("state", "spool", "db", "logs"):
            (self.folder / name).mkdir()
        ports = iter(free_ports(7))
        self._start_munge()
        self._start_accounting(next(ports), next(ports))
        controller_port, self.rest_port = next(ports), next(ports)
        self._configure(controller_port, [next(ports) for _ in NODES])
        self._daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        eventually(self._answers, within_s=READY_WITHIN_S)
        for node in NODES:
            self._daemon(node, ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")])
        self._daemon(
            "slurmrestd",
            ["slurmrestd", "-a", "rest_auth/jwt", f"127.0.0.1:{self.rest_port}"],
            {"SLURMRESTD_SECURITY": "disable_user_check", "SLURM_JWT": "daemon"},
        )
        self.wait_until_idle()
        eventually(lambda: can_connect(self.rest_port), within_s=READY_WITHIN_S)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.run("scancel", "--user", self.user, timeout_s=10)
            eventually(lambda: not self.run("squeue", "--noheader", timeout_s=10).strip(), within_s=20)
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # How.

    def _daemon(self, name: str, command: list[str], more: Mapping[str, str] | None = None) -> None:
        self._commands[name] = (command, {**self.environment, **(more or {})})
        self.start(name)

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        with (self.folder / "logs" / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the tests: we end them in order
            )

    def _answers(self) -> bool:
        done = subprocess.run(
            ["scontrol", "ping"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return " is UP" in done.stdout

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        where = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "seed")}
        options = [f"--{name}-file={where[name]}" for name in ("pid", "seed")]
        self._daemon(
            "munged",
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={where['socket']}",
             *options, f"--log-file={self.folder / 'logs' / 'munged.log'}", "--num-threads=2"],
        )  # fmt: skip
        eventually(where["socket"].exists)

    def _start_accounting(self, database_port: int, port: int) -> None:
        data, password = self.folder / "db", secrets.token_hex(8)
        first = self.folder / "first.sql"
        first.write_text(
            "CREATE DATABASE slurm_acct;\n"  # one statement a line
            f"CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';\n"
        )
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
             "--auth-root-authentication-method=normal", f"--user={self.user}"],
            env={"PATH": SYSTEM_PATH}, check=True, capture_output=True,
        )  # fmt: skip
        self._daemon(
            "mariadbd",
            ["mariadbd", "--no-defaults", f"--user={self.user}", f"--datadir={data}",
             "--bind-address=127.0.0.1", f"--port={database_port}", f"--socket={self.folder / 'db.socket'}",
             f"--init-file={first}", f"--pid-file={self.folder / 'db.pid'}", "--innodb-buffer-pool-size=16M",
             "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"],
        )  # fmt: skip
        eventually(lambda: can_connect(database_port))
        key = self.folder / "jwt.key"
        key.write_bytes(secrets.token_bytes(32))
        key.chmod(0o600)
        settings = self.folder / "slurmdbd.conf"
        settings.write_text(f"""\
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={key}
SlurmUser={self.user}
PidFile={self.folder}/slurmdbd.pid
LogFile={self.folder}/logs/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
CommitDelay=1
""")
        settings.chmod(0o600)
        self._daemon("slurmdbd", ["slurmdbd", "-D"])
        self._accounting_port = port
        eventually(lambda: can_connect(port), within_s=READY_WITHIN_S)

    def _configure(self, controller_port: int, node_ports: list[int]) -> None:
        host = socket.gethostname().partition(".")[0]
        folder = self.folder
        (folder / "gpu0").write_text("")  # a plain file stands for the device
        (folder / "gres.conf").write_text(f"NodeName={GPU_NODE} Name=gpu Type=toy File={folder}/gpu0\n")
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
            f"RealMemory={self.node_mib}" + (" Gres=gpu:toy:1" if name == GPU_NODE else "")
            for name, port in zip(NODES, node_ports, strict=True)
        )
        (folder / "slurm.conf").write_text(f"""\
ClusterName=fourfold
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={self.user}
SlurmdUser={self.user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/jwt.key
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/logs/slurmctld.log
SlurmdLogFile={folder}/logs/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
KillWait=5
UnkillableStepTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self._accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=1 OverSubscribe=NO
PartitionName=urgent Nodes=ALL MaxTime=1-00:00:00 PriorityTier=10 OverSubscribe=NO
""")


def opened(cluster: SlurmCluster, folder: Path, address: str = "slurm://") -> SlurmEngine:
    """An engine on the cluster, as a project would open it."""
    parsed = SlurmAddress.parse(address)
    return SlurmEngine(
        folder,
        cluster=reached(cluster, address),
        partition=parsed.partition,
        most_output_bytes=parsed.most_output_bytes,
        cwd=folder.parent,
    )


def reached(cluster: SlurmCluster, address: str = "slurm://") -> Cluster:
    """The cluster through the engine's seam."""
    environ = {**cluster.environment, "SLURM_JWT": cluster.token(), "USER": cluster.user}
    return open_cluster(SlurmAddress.parse(address), environ)


@contextmanager
def slurm_cluster(*, node_mib: int = 2000) -> Iterator[SlurmCluster]:
    """A cluster whose nodes are idle; gone afterwards. Skips where Slurm is not installed."""
    missing = sorted(
        {package for name, package in NEEDED.items() if not shutil.which(name, path=SYSTEM_PATH)}
    )
    if missing:
        reason = f"Slurm is not installed: apt-get install {' '.join(missing)} slurm-wlm-jwt-plugin"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder, node_mib=node_mib)
    try:
        cluster.open()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def eventually(claim: Callable[[], object], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)  # other processes do what they do: there is no event to await


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
