"""What a pool's address says of its containers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from fourfold.core.errors import Refused, did_you_mean

EXAMPLE = "podman://?image=localhost/ours:1&project=rw"
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,500}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How containers are made; what is not said is closed.

    >>> ContainerSettings.parse("podman://?image=localhost/ours:1&project=ro").project
    'ro'
    >>> ContainerSettings.parse("podman://?project=yes")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: project in the address 'podman://?project=yes' is 'yes'
      it takes none, ro, rw
    """

    image: str = ""
    """For launches that name none."""
    project: Literal["none", "ro", "rw"] = "none"
    """Whether the project's folder is seen inside, under the same path."""
    mounts: tuple[tuple[str, bool], ...] = ()
    """More folders of this machine, under the same paths; whether they may be written."""
    network: str = "none"
    """podman's word for the network of jobs that do not listen."""
    pull: Literal["never", "missing"] = "never"
    runtime: str = ""
    """The OCI runtime; empty: podman's own choice."""
    cgroup_manager: str = ""
    most_processes: int = 1024
    most_files: int = 1024
    most_output_bytes: int = 256 << 20
    """A job that prints more is ended."""
    ended_kept_s: float = 7 * 86400.0
    """How long podman and we keep what ended."""
    timeout_s: float = 30.0
    """The longest that podman is waited for; for a pull, twenty times as long."""

    @classmethod
    def parse(cls, address: str) -> ContainerSettings:
        """Read `podman://?name=value&mount=/data&mount=/scratch:rw`."""
        parts = urlsplit(address)
        if parts.scheme != "podman" or parts.netloc or parts.path not in ("", "/"):
            raise Refused(f"'{address}' is not the address of containers", ways_on=[f"write {EXAMPLE}"])
        asked: dict[str, object] = {}
        mounts = []
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            where = f"{name} in the address '{address}' is '{text}'"
            if name == "mount":
                path, _, mode = text.partition(":")
                if not path.startswith("/") or "," in path or mode not in ("", "ro", "rw"):
                    raise Refused(where, ways_on=["it takes a whole path without commas, or with :ro or :rw"])
                mounts.append((path, mode == "rw"))
            elif name in _CHOICES:
                if text not in _CHOICES[name]:
                    raise Refused(where, ways_on=[f"it takes {', '.join(_CHOICES[name])}"])
                asked[name] = text
            elif name in _NUMBERS:
                asked[name] = _number(text, _NUMBERS[name], where)
            elif name in _WORDS:
                if not _WORDS[name].fullmatch(text):
                    raise Refused(where, ways_on=["it is a name, without spaces"])
                asked[name] = text
            else:
                known = ("mount", *_CHOICES, *_NUMBERS, *_WORDS)
                raise Refused(
                    f"'{name}' is not known in the address '{address}'", ways_on=did_you_mean(name, known)
                )
        return cls(mounts=tuple(mounts), **asked)  # type: ignore[arg-type]


_CHOICES = {
    "project": ("none", "ro", "rw"),
    "pull": ("never", "missing"),
    "cgroup_manager": ("cgroupfs", "systemd"),
}
_NUMBERS: dict[str, type] = {
    "most_processes": int,
    "most_files": int,
    "most_output_bytes": int,
    "ended_kept_s": float,
    "timeout_s": float,
}
_WORDS = {"image": _IMAGE, "network": re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*"), "runtime": _WORD}


def check_image(image: str, who: str) -> None:
    """Refuse what podman might take for an option, or cannot be an image."""
    if not _IMAGE.fullmatch(image):
        raise Refused(f"{who} names the image '{image[:200]}', which is no image", ways_on=["write name:tag"])


def _number(text: str, kind: type, where: str) -> object:
    try:
        value = cast("float", kind(text))
    except ValueError as error:
        raise Refused(where, ways_on=["it takes a number"]) from error
    if not 0 < value < float("inf"):
        raise Refused(where, ways_on=["it is above 0"])
    return value
