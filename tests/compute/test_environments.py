"""An environment is named by what it holds; a Python that has it is found or built, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.environment import Package, canonical_marker, identify
from fourfold.core.errors import Corrupted, FourfoldError, NotFound, Refused
from fourfold.foundation.compute import installers
from fourfold.foundation.compute.built import Built
from fourfold.foundation.compute.environments import (
    Environments,
    current_environment,
    differences,
    identify_lock,
    lock_for,
)
from fourfold.foundation.compute.installed import installed, read_installed
from fourfold.foundation.compute.locks import evaluate, marker_names, parse_lock, write_lock
from fourfold.foundation.compute.pythons import this_platform, this_python

LOCK = """\
numpy==2.4.6 ; python_version >= "3.11" \\
    --hash=sha256:bb \\
    --hash=sha256:aa
click==8.5.1 \\
    --hash=sha256:cc
"""
SAME = """\
# made on another day, by another tool
--index-url https://example.org/simple
--extra-index-url=https://example.org/more
-f ./wheels
Click==8.5.1 --hash=sha256:cc   # via something
numpy == 2.4.6 ; python_version>='3.11' --hash=sha256:aa \\
  --hash=sha256:bb
    # via
    #   more
"""


def test_comments_order_addresses_and_spelling_do_not_change_an_identity() -> None:
    assert identify_lock(LOCK) == identify_lock(SAME)
    assert identify_lock(LOCK.replace("\n", "\r\n")) == identify_lock(LOCK)


@pytest.mark.parametrize(
    "change", [("2.4.6", "2.4.7"), ("sha256:aa", "sha256:ab"), ('"3.11"', '"3.12"'), ("click", "clack")]
)
def test_a_version_a_hash_a_marker_or_a_name_changes_it(change: tuple[str, str]) -> None:
    assert identify_lock(LOCK.replace(*change)).identity != identify_lock(LOCK).identity


def test_the_python_and_the_platform_change_it() -> None:
    packages = parse_lock(LOCK)
    found = {
        identify(python=python, platform=platform, packages=packages).identity
        for python in ("cpython-3.11", "cpython-3.12")
        for platform in ("linux-x86_64", "linux-aarch64")
    }
    assert len(found) == 4


NAMES = st.text("abyz0189", min_size=1, max_size=8).map(lambda name: f"n{name}")
PACKAGES = st.builds(
    Package,
    NAMES,
    st.sampled_from(["1.0", "1.10", "2.0rc1", "1!3.0+local"]),
    st.sets(st.sampled_from([f"sha256:{digit * 8}" for digit in "0af"])).map(
        lambda hashes: tuple(sorted(hashes))
    ),
    st.sampled_from(["", "python_version < '3.12'", "sys_platform == 'win32' and os_name == 'nt'"]),
)


@given(st.lists(PACKAGES, unique_by=lambda package: package.name), st.randoms(use_true_random=False))
def test_what_is_written_is_read_back_in_any_order(packages: list[Package], chance) -> None:  # type: ignore[no-untyped-def]
    one = identify(python="p", platform="q", packages=packages)
    chance.shuffle(packages)
    again = parse_lock(write_lock(tuple(packages), note="a note\nof two lines"))
    assert identify(python="p", platform="q", packages=again) == one
    assert canonical_marker(canonical_marker("a  <'b'")) == canonical_marker("a<'b'")


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2",
        "numpy",
        "-e .",
        "-r other.txt",
        "numpy==2.*",
        "git+https://example.org/x.git",
        "x @ file:///x",
    ],
)
def test_what_is_not_pinned_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(Refused, match="lock line 2 does not pin") as refused:
        parse_lock(f"click==8.5.1\n{line}\n")
    assert "uv pip compile" in str(refused.value)


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("python_version >= '3.9'", True),
        ("python_version < '3.10'", False),
        ("python_full_version == '3.11.*'", True),
        ("python_full_version != '3.11.*'", False),
        ("python_full_version < '3.11.0a1'", False),
        ("python_version ~= '3.10'", True),
        ("sys_platform == 'win32' or (os_name == 'posix' and extra == '')", True),
        ("platform_machine in 'x86_64 AMD64'", True),
        ("platform_machine not in 'x86_64 AMD64'", False),
        ("'linux' in sys_platform", True),
    ],
)
def test_markers_are_judged_for_this_python(marker: str, holds: bool) -> None:
    names = {
        **marker_names(),
        "python_version": "3.11",
        "python_full_version": "3.11.7",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
    }
    assert evaluate(marker, names) is holds


@pytest.mark.parametrize(
    "marker", ["python_version >", "colour == 'red'", "(os_name == 'posix'", "os_name ? 'x'"]
)
def test_a_marker_that_cannot_be_read_is_refused(marker: str) -> None:
    with pytest.raises(Refused, match="marker"):
        evaluate(marker, marker_names())


def test_markers_agree_with_the_reference_implementation() -> None:
    markers = pytest.importorskip("packaging.markers")
    lock = Path(__file__).parents[2] / "locks" / "dev.txt"
    found = {package.marker for package in parse_lock(lock.read_text()) if package.marker}
    assert found
    for marker in found:
        assert evaluate(marker, marker_names()) is markers.Marker(marker).evaluate()


def test_the_running_interpreter_serves_where_it_has_the_very_packages(tmp_path: Path) -> None:
    here = Environments(tmp_path / ".fourfold")
    captured = here.present()
    assert captured.origin == "captured"
    assert captured.environment == current_environment() == identify_lock(captured.lock)
    assert differences(captured.environment) == ()
    assert here.python_for(captured.environment) == Path(sys.executable)
    click = installed()["click"].package
    assert differences(identify_lock(f"click=={click.version}\n")) == ()
    assert differences(identify_lock("click==0.0.1\nnosuch==1.0\n")) == (
        f"click is {click.version}, not 0.0.1",
        "nosuch 1.0 is not installed",
    )
    assert differences(identify_lock("nosuch==1.0 ; sys_platform == 'win32'\n")) == ()
    other = identify(python="cpython-2.7", platform=this_platform(), packages=())
    assert "cpython-2.7" in differences(other)[0]


def test_the_projects_lock_is_the_one_set_else_found_else_captured(tmp_path: Path) -> None:
    home = tmp_path / ".fourfold"
    (tmp_path / "requirements.txt").write_text("numpy>=2\n")
    assert Environments(home).present().origin == "captured"  # a loose list is no lock
    (tmp_path / "requirements.txt").write_text("click==8.5.1\n")
    assert Environments(home).present().origin == "captured"  # nor is one without hashes
    (tmp_path / "requirements.txt").write_text("click==8.5.1 --hash=sha256:aa\n")
    found = Environments(home)
    assert found.present().origin == "requirements"
    changed = "click==8.5.0 --hash=sha256:aa\n"
    (tmp_path / "requirements.txt").write_text(changed)
    assert found.present().environment == identify_lock(changed)  # it is read again when it changes
    (tmp_path / "my.lock").write_text(LOCK)
    assert Environments(home, lock="my.lock").present().origin == "lock"
    with pytest.raises(NotFound, match=r"environment\.lock"):
        Environments(home, lock="nowhere.lock").present()
    (tmp_path / "my.lock").write_text("numpy>=2\n")
    with pytest.raises(Refused, match=r"my\.lock line 1"):
        Environments(home, lock="my.lock").present()
    (tmp_path / "my.lock").write_text("click==8.5.1 --hash=sha256:aa\nnumpy==2.4.6\nscipy==1.17.0\n")
    with pytest.raises(Refused, match=r"my\.lock has no hash for numpy==2\.4\.6 and 1 more") as refused:
        Environments(home, lock="my.lock").present()
    assert "--generate-hashes" in str(refused.value)


def test_the_packages_of_modules_are_found_with_what_they_require() -> None:
    environment, lock = lock_for(["sklearn.linear_model", "json"])
    names = {package.name for package in environment.packages}
    assert {"scikit-learn", "numpy", "scipy", "joblib", "threadpoolctl"} <= names
    assert not {"pytest", "fourfold", "json"} & names
    assert identify_lock(lock) == environment
    assert all(package.hashes for package in environment.packages)
    assert lock_for([])[0].packages == ()
    with pytest.raises(NotFound, match="no installed package provides the module 'sklaern'") as missing:
        lock_for(["sklaern"])
    assert "did you mean 'sklearn'" in str(missing.value)


def test_hashes_come_from_the_projects_lock_where_it_pins_the_same_version() -> None:
    version = installed()["msgspec"].package.version
    within = identify_lock(f"msgspec=={version} --hash=sha256:dd\n")
    assert lock_for(["msgspec"], within=within)[0].packages[0].hashes == ("sha256:dd",)
    older = identify_lock("msgspec==0.0.1 --hash=sha256:dd\n")
    assert lock_for(["msgspec"], within=older)[0].packages[0].hashes[0].startswith("record-sha256:")


def test_the_projects_own_modules_need_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_code_here.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert lock_for(["my_own_code_here"])[0].packages == ()


def test_who_installed_a_package_does_not_change_its_hash(tmp_path: Path) -> None:
    def install(name: str, *extra: str, code: str = "aa") -> str:
        folder = tmp_path / name / "thing-1.0.dist-info"
        folder.mkdir(parents=True)
        record = [f"thing/__init__.py,sha256={code},1", "thing.libs/x.so,sha256=cc,3", *extra]
        (folder / "RECORD").write_text("\n".join(record) + "\n")
        found = read_installed([str(tmp_path / name)])["thing"]
        assert found.modules == {"thing"}
        return found.package.hashes[0]

    pip = (
        "../../bin/thing,sha256=zz,9",
        "thing/__pycache__/__init__.cpython-311.pyc,,",
        "thing-1.0.dist-info/INSTALLER,sha256=pp,4",
    )
    assert install("uv", "thing-1.0.dist-info/INSTALLER,sha256=uu,2") == install("pip", *pip)
    assert install("other", code="bb") != install("third")


def small() -> tuple[Package, ...]:
    return lock_for(["click"])[0].packages


@pytest.mark.slow
def test_an_environment_is_built_once_whoever_asks(tmp_path: Path) -> None:
    environment = identify(python=this_python(), platform=this_platform(), packages=small())
    rooms = [Environments(tmp_path / ".fourfold") for _ in range(3)]
    pythons: list[Path] = []
    threads = [threading.Thread(target=lambda r=room: pythons.append(r.build(environment))) for room in rooms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pythons)) == 1
    assert len(pythons) == 3
    script = "import click, fourfold, importlib.util as u; print(click.__file__, u.find_spec('pytest'))"
    done = subprocess.run([pythons[0], "-c", script], capture_output=True, text=True, check=True, cwd="/")
    assert environment.identity in done.stdout
    assert done.stdout.strip().endswith("None")  # nothing else came along
    left = [name for name in os.listdir(tmp_path / ".fourfold" / "envs") if not name.endswith(".lock")]
    assert left == [environment.identity]


@pytest.mark.slow
def test_a_lock_that_cannot_be_built_names_the_package_and_leaves_nothing(tmp_path: Path) -> None:
    here = Environments(tmp_path / ".fourfold")
    version = installed()["click"].package.version
    for lock in (f"click==0.0.99 --hash=sha256:{'0' * 64}\n", f"click=={version} --hash=sha256:{'0' * 64}\n"):
        with pytest.raises(FourfoldError, match=r"click==[\d.]+ cannot be installed"):
            here.build(identify_lock(lock))
    assert all(name.endswith(".lock") for name in os.listdir(tmp_path / ".fourfold" / "envs"))


def test_a_build_that_is_not_what_was_captured_is_refused(tmp_path: Path) -> None:
    version = installed()["click"].package.version
    with pytest.raises(Corrupted, match=r"click .* has other files"):
        Environments(tmp_path / ".fourfold").build(
            identify_lock(f"click=={version} --hash=record-sha256:{'0' * 64}\n")
        )


def test_what_an_interrupted_build_left_is_removed(tmp_path: Path) -> None:
    environment = identify(python=this_python(), platform=this_platform(), packages=())
    envs = tmp_path / ".fourfold" / "envs"
    (envs / f".{environment.identity}-stale" / "bin").mkdir(parents=True)
    (envs / environment.identity / "bin").mkdir(parents=True)  # without its mark it is not whole
    python = Environments(tmp_path / ".fourfold").build(environment)
    assert python.exists()
    assert {name for name in os.listdir(envs) if not name.endswith(".lock")} == {environment.identity}


@pytest.mark.parametrize(
    "forged",
    [
        {"identity": "../../victim"},
        {"identity": "env-" + "0" * 32},
        {"python": "/tmp/evil"},
        {"packages": (Package("left-pad", "1.0\n--index-url=https://evil.example", ("sha256:aa",)),)},
        {"packages": (Package("left-pad", "1.0", ("sha256:aa --find-links=/tmp",)),)},
    ],
)
def test_an_environment_that_is_not_what_it_says_builds_and_touches_nothing(
    tmp_path: Path, forged: dict[str, Any]
) -> None:
    honest = identify(
        python=this_python(), platform=this_platform(), packages=[Package("a", "1", ("sha256:b",))]
    )
    if "identity" not in forged:  # the names fit, but the contents are no lock
        named = identify(**{"python": this_python(), "platform": this_platform(), "packages": (), **forged})
        forged = {**forged, "identity": named.identity, "packages": named.packages}
    (tmp_path / ".fourfold").mkdir()
    with pytest.raises(Corrupted, match="not what its packages make"):
        Environments(tmp_path / ".fourfold").build(replace(honest, **forged))
    assert [path.name for path in tmp_path.rglob("*")] == [".fourfold"]


def test_what_has_no_hash_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has no hash for click==0\.0\.99"):
        Environments(tmp_path / ".fourfold").build(identify_lock("click==0.0.99\n"))
    assert not (tmp_path / ".fourfold").exists()


KILLED_BUILDER = """
import sys, time
from pathlib import Path
from fourfold.foundation.compute import built, environments
environment = environments.identify_lock(sys.argv[2])
def verify(*_):
    print("installed", flush=True)
    time.sleep(600)
built._verify = verify
environments.Environments(Path(sys.argv[1])).build(environment)
"""


@pytest.mark.slow
def test_a_builder_killed_just_before_the_end_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    home = tmp_path / ".fourfold"
    lock = write_lock(small())
    environment = identify_lock(lock)
    builder = subprocess.Popen(
        [sys.executable, "-c", KILLED_BUILDER, str(home), lock], stdout=subprocess.PIPE, text=True
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "installed\n"
    builder.kill()
    builder.communicate()
    left = {name for name in os.listdir(home / "envs") if not name.endswith(".lock")}
    assert environment.identity not in left
    assert len(left) == 1
    python = Environments(home).build(environment)
    subprocess.run([python, "-c", "import click"], check=True, cwd="/")
    assert {name for name in os.listdir(home / "envs") if not name.endswith(".lock")} == {
        environment.identity
    }


ORPHANING_BUILDER = """
import sys, uv
from pathlib import Path
from fourfold.foundation.compute import environments
uv.find_uv_bin = lambda: sys.argv[2]
environments.Environments(Path(sys.argv[1])).build(environments.identify_lock(""))
"""


def test_the_next_builder_waits_for_the_installer_of_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, told, gate, fake = (tmp_path / name for name in (".fourfold", "told", "gate", "uv"))
    os.mkfifo(told)
    os.mkfifo(gate)
    fake.write_text(f"#!/bin/sh\necho started > {told}\nread word < {gate}\n")
    fake.chmod(0o755)
    builder = subprocess.Popen([sys.executable, "-c", ORPHANING_BUILDER, str(home), str(fake)])
    assert told.read_text() == "started\n"
    builder.kill()
    builder.wait()
    began = threading.Event()
    monkeypatch.setattr(Built, "_build", lambda *_: began.set())
    thread = threading.Thread(target=Environments(home).build, args=[identify_lock("")])
    thread.start()
    assert not began.wait(0.1)
    gate.write_text("end\n")
    assert began.wait(20)
    thread.join()


def test_an_environment_of_another_platform_is_refused(tmp_path: Path) -> None:
    other = identify(python=this_python(), platform="plan9-mips", packages=())
    with pytest.raises(Refused, match="plan9-mips"):
        Environments(tmp_path / ".fourfold").build(other)


def test_a_builder_that_fails_in_the_offline_try_asks_the_network(tmp_path: Path) -> None:
    tries: list[bool] = []

    def run(command: list[str], packages: object) -> None:
        tries.append("--offline" in command)
        raise FourfoldError("not in the cache") if "--offline" in command else Refused("no network either")

    with pytest.raises(Refused, match="no network either"):
        installers.Uv("uv", run).fill(tmp_path, tmp_path / "requirements.txt", (), is_hashed=True)
    assert tries == [True, False]


@pytest.mark.slow
def test_environments_beyond_the_bound_are_removed_but_never_one_in_use(tmp_path: Path) -> None:
    built = Built(tmp_path, links=None)
    made = [
        identify(python=this_python(), platform=this_platform(), packages=lock_for([name])[0].packages)
        for name in ("click", "msgspec", "iniconfig")
    ]
    held = [built.hold(each.identity) for each in made]
    for nth, each in enumerate(made):
        built.build(each)
        os.utime(tmp_path / f"{each.identity}.used", (nth, nth))
    assert built.prune(1) == (), "all are in use"
    os.close(held[0])
    os.close(held[1])
    assert built.prune(1 << 40) == ()
    one = json.loads((tmp_path / made[2].identity / "environment.json").read_text())["bytes"]
    assert built.prune(one) == (made[0].identity, made[1].identity), "used longest ago first"
    os.close(held[2])
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {made[2].identity}
    subprocess.run([built.build(made[2]), "-c", "import iniconfig"], check=True, cwd="/")
    assert built.build(made[0]).exists(), "what was removed is built again"
