"""Reads what people ask for when they start a service, or says why it cannot be one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fourfold.core import requests
from fourfold.core.errors import Refused
from fourfold.core.serving import Probe, ProbeKind, ServiceSpec

DAY_S = 86_400.0

_PATH = re.compile(r"/[!-~]{0,2000}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def asked(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "",
    pool: str = "",
    image: str = "",
    cpu: str = "1",
    memory: str = "0",
    gpu: str = "0",
    arch: str = "",
    max_price: str = "",
    probe: str = "tcp",
    path: str = "/",
    ready_within_s: float = 60.0,
    drain_s: float = 10.0,
) -> ServiceSpec:
    """A service from the words that it is asked with.

    >>> asked("web", ["serve"], memory="2GiB", gpu="a100:2").resources.gpu_name
    'a100'
    """
    spec = ServiceSpec(
        name,
        tuple(argv),
        env=dict(env or {}),
        cwd=cwd,
        image=image,
        pool=pool,
        resources=requests.read(
            {"cpu": cpu, "memory": memory, "gpu": gpu, "arch": arch, "max_price": max_price},
            who=f"service '{name[:80]}'",
        ),
        probe=Probe(_probe_kind(probe), path, ready_within_s=ready_within_s),
        drain_s=drain_s,
    )
    _check(spec)
    return spec


def _check(spec: ServiceSpec) -> None:
    """Refuse what cannot be a service."""
    name = spec.name
    if _NAME.fullmatch(name) is None:
        raise Refused(
            f"{name[:80]!r} is no name for a service",
            ways_on=["take small letters, digits, - and _, at most 63, a letter or digit first"],
        )
    if not spec.argv or not spec.argv[0]:
        raise Refused(
            f"service '{name}' has no command",
            ways_on=[f"fourfold service start {name} -- python -m http.server"],
        )
    if _PATH.fullmatch(spec.probe.path) is None:
        raise Refused(
            f"{spec.probe.path[:80]!r} is no path to ask for",
            ways_on=["begin it with /, and write what is not a letter, digit or sign as %20"],
        )
    for what, seconds, most in (
        ("become ready within", spec.probe.ready_within_s, DAY_S),
        ("be drained for", spec.drain_s, DAY_S),
    ):
        if not 0 <= seconds <= most:
            raise Refused(f"service '{name}' cannot {what} {seconds:g} s", ways_on=["take up to a day"])


def _probe_kind(probe: str) -> ProbeKind:
    """Read how a service is asked."""
    try:
        return ProbeKind(probe)
    except ValueError:
        words = ", ".join(ProbeKind)
        raise Refused(f"{probe[:40]!r} is no way to ask a service", ways_on=[f"take {words}"]) from None
