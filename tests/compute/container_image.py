"""An image for tests, made without any network: a static busybox, and this machine's Python by mounts."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from tests.compute.peers import unavailable

IMAGE = "localhost/fourfold-test:1"
CONTAINERFILE = """
FROM scratch
COPY busybox /bin/busybox
"""
RUNTIME = {"runtime": "runc", "cgroup_manager": "cgroupfs"}
PYTHON = os.path.realpath(sys.executable)


def container_address(**more: object) -> str:
    """The address of a pool that sees this machine's Python."""
    mounts = [("mount", path) for path in sorted({"/usr", "/lib", "/lib64", sys.base_prefix})]
    return "podman://?" + urlencode([*{"image": IMAGE, **RUNTIME, **more}.items(), *mounts])


def podman(*words: str) -> subprocess.CompletedProcess[str]:
    """podman as the tests' pools call it."""
    command = ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def built_image() -> str:
    """The image, built where it is not there yet; skips on a machine without podman, fails in CI."""
    for tool in ("podman", "buildah", "runc", "catatonit"):
        if not shutil.which(tool):
            unavailable(f"{tool} is not installed (apt-get install podman buildah runc catatonit)")
    if os.geteuid() != 0:
        unavailable("containers are tested as root only")
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        unavailable("busybox is not installed (apt-get install busybox-static)")
    with (Path(tempfile.gettempdir()) / "fourfold-test-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if podman("image", "exists", IMAGE).returncode == 0:
            return IMAGE
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(busybox, folder)
            (Path(folder) / "Containerfile").write_text(CONTAINERFILE)
            build = ["buildah", "bud", "--isolation", "chroot", "-t", IMAGE, folder]
            done = subprocess.run(build, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        unavailable(f"no image could be built: {done.stderr.strip()[-500:]}")
    return IMAGE
