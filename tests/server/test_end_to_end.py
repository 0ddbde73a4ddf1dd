"""A real `fourfold up`, used from other processes, stopped, and killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PATIENCE_S = 90
RUN = [sys.executable, "-c", "from fourfold.cli.main import main; main()"]

FLOW = """\
import time
from pathlib import Path

import fourfold as ff
import pyarrow as pa


@ff.step
def note(folder: str, name: str) -> str:
    with open(Path(folder) / "done", "a") as file:
        file.write(name + "\\n")
    return name


@ff.step
def gate(folder: str, name: str) -> str:
    Path(folder, "at the gate").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.02)
    return name


@ff.step
def keep(names: list) -> int:
    return ff.table("names").append(pa.table({"name": names})).rows


@ff.flow
def gated(folder: str) -> int:
    first = note(folder, "first")
    second = gate(folder, first)
    third = note(folder, "after the gate") if second.result() else None
    return keep([first, second, third]).result()
"""

TRAIN = """\
import json
import sys

import fourfold as ff
import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression


def featurize(rows):
    return np.column_stack([rows["distance"].to_numpy(), rows["hour"].to_numpy()]).astype(float)


class Threshold:
    def __init__(self):
        self.limit = 0.0

    def fit(self, features, late):
        self.limit = float(features[:, 0].mean())
        return self

    def predict(self, features):
        return features[:, 0] > self.limit


def main():
    chance = np.random.default_rng(1)
    rows = pa.table({"distance": chance.integers(100, 2500, 200), "hour": chance.integers(0, 24, 200)})
    late = rows["distance"].to_numpy() > 1200
    learned = ff.table("learned").append(rows.append_column("late", pa.array(late)))
    versions = []
    for model in (LogisticRegression(max_iter=500), Threshold()):
        with ff.run("late", params={"kind": type(model).__name__}, data=[learned], seed=1) as run:
            model.fit(featurize(rows), late)
            for step in range(3):
                run.log(loss=1 / (step + 1), step=step)
            run.log(accuracy=float((model.predict(featurize(rows)) == late).mean()))
            run.log_file(__file__)
            versions.append(run.save(
                model, name="delays", featurize=featurize, example=rows.slice(0, 5),
                card="Late? Owner: ada.", tags={"team": "gates"},
            ))
    ff.model("delays").promote(versions[-1], "champion", why="it is ours")
    asked = [{"distance": 2400, "hour": 3}, {"distance": 101, "hour": 3}]
    answers = ff.model("delays@champion").load().predict(pa.Table.from_pylist(asked))
    with ff.deploy("delays@champion", name="delays") as endpoint:
        live = endpoint.predict(asked)
        endpoint.feedback(live[0], late=True)
        served = endpoint.served().num_rows
    scored = ff.predict_table("delays@champion", "learned", out="scored")
    print(json.dumps({
        "versions": [str(version) for version in versions],
        "loaded": answers["prediction"].to_pylist(),
        "live": [each.outputs["prediction"] for each in live],
        "served": served,
        "scored": scored.row_count,
    }))


if __name__ == "__main__":
    try:
        main()
    except ff.FourfoldError as error:
        sys.exit(str(error))
"""


@dataclass
class Server:
    """A `fourfold up` in a folder."""

    folder: Path
    process: subprocess.Popen[str]
    url: str

    @property
    def home(self) -> Path:
        return self.folder / ".fourfold"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def there(
        self, here: Path, *arguments: str, token: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Carry out a command elsewhere, against this server."""
        environ = {
            **os.environ,
            "FOURFOLD_URL": self.url,
            "FOURFOLD_TOKEN": self.token if token is None else token,
            "FOURFOLD_HOME": "",
        }
        line = list(arguments) if arguments[0] == sys.executable else [*RUN, *arguments]
        done = subprocess.run(line, cwd=here, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
        assert "Traceback" not in done.stderr
        return done


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FOURFOLD_")}
    process = subprocess.Popen(
        [*RUN, "--project", str(folder), "up", "--port", "0", "--quiet"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        yield Server(folder, process, url)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stdout.close()
        process.stderr.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(home: Path) -> list[str]:
    """Processes whose command line or environment names a project."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in told:
            found.append(f"{folder.name} {told[:200].decode(errors='replace')}")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("served")) as server:
        yield server


def test_it_says_who_it_is_and_keeps_its_token_to_its_owner(server: Server) -> None:
    told = json.loads((server.home / "server.json").read_text())
    assert (told["pid"], told["url"]) == (server.process.pid, server.url)
    for name in ("token", "server.json"):
        assert stat.S_IMODE((server.home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    assert json.load(urllib.request.urlopen(f"{server.url}/health", timeout=PATIENCE_S)) == {"status": "ok"}
    assert urllib.request.urlopen(told["gateway_url"] + "/v2/health/live", timeout=PATIENCE_S).status == 200


def test_a_program_elsewhere_makes_tables_and_runs_flows_by_the_same_calls(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "go").touch()
    script = (
        "import fourfold as ff, pyarrow as pa\n"
        "made = ff.table('flights').append(pa.table({'n': [1, 2, 3]}))\n"
        "ff.table('flights').append(pa.table({'n': [4]}))\n"
        "print(made.version, ff.table('flights').read().num_rows)\n"
        "print(ff.table('flights').at(made.at).read().num_rows)\n"
        "import flow\n"
        f"print(flow.gated.run(show=True, folder={str(tmp_path)!r}))\n"
    )
    done = server.there(tmp_path, sys.executable, "-c", script)
    assert done.stdout.split() == ["0", "4", "3", "3"], done.stderr
    assert "✓ keep#0" in done.stderr
    assert not (tmp_path / ".fourfold").exists(), "a client of a server needs no folder"

    ran = server.there(tmp_path, "flow", "run", "flow.py", "-p", f"folder={tmp_path}")
    assert (ran.returncode, ran.stdout) == (0, "6\n"), ran.stderr
    assert "✓ keep#0" in ran.stderr
    tables = json.loads(server.there(tmp_path, "table", "ls", "-o", "json").stdout)
    assert {each["name"]: each["rows"] for each in tables} == {"flights": 4, "names": 6}
    newest, _ = json.loads(server.there(tmp_path, "flow", "ls", "-o", "json").stdout)
    shown = server.there(tmp_path, "flow", "show", newest["id"]).stdout
    assert "note#1" in shown
    assert server.there(tmp_path, "table", "query", "select count(*) as n from names").stdout.split() == [
        "n",
        "6",
    ]
    drawn = server.there(tmp_path, "lineage", "table:names").stdout
    assert f"step:{newest['id']}/keep#0" in drawn
    refused = server.there(tmp_path, "table", "show", "flihgts")
    assert (refused.returncode, refused.stderr.splitlines()[1].strip()) == (1, "did you mean 'flights'?")
    doctor = json.loads(server.there(tmp_path, "doctor", "-o", "json").stdout)
    assert {"what": "server", "is_well": True, "found": server.url, "way_on": ""} in doctor


def test_a_model_is_trained_served_and_stopped_by_a_client_that_has_only_address_and_token(
    tmp_path: Path,
) -> None:
    code, empty = tmp_path / "code", tmp_path / "empty"
    code.mkdir()
    empty.mkdir()
    (code / "train.py").write_text(TRAIN)
    with running(tmp_path / "project") as server:
        done = server.there(empty, sys.executable, str(code / "train.py"))
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["versions"] == ["delays/1", "delays/2"]
        assert told["loaded"] == told["live"] == [True, False]
        assert told["served"] == 2
        assert told["scored"] == 200
        assert list(empty.iterdir()) == [], "a client of a server needs no folder"

        runs = json.loads(server.there(empty, "run", "ls", "-o", "json").stdout)
        for run in runs:
            assert run["code"]["entry"] == "train"
            assert run["metrics"]["accuracy"] > 0.6
            assert run["host"]["pid"] != server.process.pid
            kept = server.there(empty, "env", "show", run["environment"], "--lock").stdout
            assert "scikit-learn==" in kept
        drawn = server.there(empty, "lineage", "model:delays@2").stdout
        assert "table:learned@0" in drawn
        assert (
            json.loads(server.there(empty, "endpoint", "ls", "-o", "json").stdout)[0]["health"] == "stopped"
        )

        viewer = server.there(empty, "token", "new", "watcher", "--role", "viewer").stdout.strip()
        refused = server.there(empty, sys.executable, str(code / "train.py"), token=viewer)
        assert refused.returncode == 1
        assert "has the role viewer here, and this needs editor" in refused.stderr
        assert len(json.loads(server.there(empty, "run", "ls", "-o", "json").stdout)) == len(runs)


def test_a_wrong_token_is_refused_in_words(server: Server, tmp_path: Path) -> None:
    for arguments in (["table", "ls"], ["flow", "ls"], ["audit"]):
        done = server.there(tmp_path, *arguments, token="ff_wrong")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: the token is not one of this project's")
    done = server.there(tmp_path, "table", "ls", token="")
    assert "FOURFOLD_TOKEN is not set" in done.stderr


def test_a_viewers_token_reads_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    made = server.there(tmp_path, "token", "new", "reader", "--role", "viewer")
    token = made.stdout.strip()
    assert server.there(tmp_path, "table", "ls", token=token).returncode == 0
    done = server.there(tmp_path, "token", "new", "friend", token=token)
    assert done.returncode == 1
    assert "has the role viewer here, and this needs admin" in done.stderr


def test_a_second_server_and_a_taken_port_are_refused_in_words(server: Server, tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FOURFOLD_")}

    def up(folder: Path, port: str) -> str:
        line = [*RUN, "--project", str(folder), "up", "--port", port]
        done = subprocess.run(
            line, cwd=folder, env=environ, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
        return done.stderr

    second = up(server.folder, "0")
    assert f"this project is up already: process {server.process.pid} serves it at {server.url}" in second
    port = server.url.rpartition(":")[2]
    taken = up(tmp_path, port)
    assert f"port {port} of 127.0.0.1 is in use, by process {server.process.pid} (" in taken
    assert "fourfold up --port 0" in taken
    assert urllib.request.urlopen(f"{server.url}/health", timeout=PATIENCE_S).status == 200


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_and_leaves_no_process(tmp_path: Path, order: signal.Signals) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    with running(tmp_path / "project") as server:
        run = server.there(tmp_path, "flow", "run", "flow.py", "-p", f"folder={tmp_path}", "--detach").stdout
        until((tmp_path / "at the gate").exists)
        began = time.monotonic()
        server.process.send_signal(order)
        assert server.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 20
        assert not (server.home / "server.json").exists()
        until(lambda: not processes_of(server.home))
    (tmp_path / "go").touch()
    with running(tmp_path / "project") as server:
        assert server.there(tmp_path, "flow", "watch", run.strip()).returncode == 0
    assert (tmp_path / "done").read_text() == "first\nafter the gate\n"


def test_a_server_that_is_killed_in_mid_run_goes_on_with_it_when_started_again(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    with running(tmp_path / "project") as server:
        run = server.there(tmp_path, "flow", "run", "flow.py", "-p", f"folder={tmp_path}", "--detach").stdout
        until((tmp_path / "at the gate").exists)
        server.process.kill()
        server.process.wait(PATIENCE_S)
        late = server.there(tmp_path, "flow", "show", run.strip())
        assert late.returncode == 1
        assert "does not answer" in late.stderr
        assert "fourfold up" in late.stderr
    (tmp_path / "go").touch()
    with running(tmp_path / "project") as server:
        watched = server.there(tmp_path, "flow", "watch", run.strip())
        assert watched.returncode == 0, watched.stderr
        graph = json.loads(server.there(tmp_path, "flow", "show", run.strip(), "-o", "json").stdout)
        rows = json.loads(server.there(tmp_path, "table", "ls", "-o", "json").stdout)[0]["rows"]
    assert (tmp_path / "done").read_text() == "first\nafter the gate\n", "a step that had ended ran again"
    assert rows == 3
    assert graph["run"]["state"] == "succeeded"
    until(lambda: not processes_of(tmp_path / "project"))
