"""What a pool's address says of a Kubernetes cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fourfold.core.errors import Refused, did_you_mean

EXAMPLE = "kubernetes://team-ml?context=lab&image=registry.example/ours:1"
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,500}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"(?:[A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,62}=[-A-Za-z0-9_.]{0,63}")


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Which cluster and namespace, and what every job of the pool says to it.

    >>> KubernetesSettings.parse("kubernetes://team-ml?context=lab&image=ours:1").namespace
    'team-ml'
    >>> KubernetesSettings.parse("kubernetes://?claim=data:/data:ro").claims
    (('data', '/data', True),)
    >>> KubernetesSettings.parse("kubernetes://?contxt=lab")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'contxt' is not known in the address 'kubernetes://?contxt=lab'
      did you mean 'context'?
      known: claim, context, ended_kept_s, gpu_resource, grace_s, image, kubeconfig, label, lost_after_s, \
most_output_bytes, mount, port, priority_class, pull_secret, run_as, service_account, shares_files, timeout_s
    """

    namespace: str = ""
    """Empty: that of the context, else `default`."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    kubeconfig: str = ""
    """A file; empty: as `kubectl` finds it, else the pod that we run in."""
    image: str = ""
    """For launches that name none."""
    labels: tuple[tuple[str, str], ...] = ()
    """Only nodes with these labels are units of the pool."""
    claims: tuple[tuple[str, str, bool], ...] = ()
    """Volumes by claim: name, path inside, whether it is read only."""
    mounts: tuple[tuple[str, bool], ...] = ()
    """Folders of the nodes, under the same path inside; whether they may be written."""
    shares_files: bool = False
    """Whether what is mounted shows jobs this machine's files under the same paths."""
    pull_secret: str = ""
    service_account: str = ""
    """Whose token the job finds; empty: none."""
    priority_class: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    run_as: int = 0
    """The user number inside; 0: the image's own."""
    port: int = 0
    """Where launches that listen do; 0: a number between 20000 and 29999, made of the key."""
    grace_s: float = 30.0
    """What a job gets between the polite word and the end when nobody says more."""
    lost_after_s: int = 60
    """So long may a node be away until its jobs are lost."""
    most_output_bytes: int = 256 << 20
    """So much of a job's output is kept here."""
    ended_kept_s: float = 7 * 86400.0
    """How long the cluster keeps what ended."""
    timeout_s: float = 15.0
    """The longest that an answer is waited for."""

    @classmethod
    def parse(cls, address: str) -> KubernetesSettings:
        """Read `kubernetes://NAMESPACE?name=value`; `label`, `claim` and `mount` may stand several times."""
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise Refused(
                "the address of the cluster holds a user or a secret, and addresses are shown",
                ways_on=["the kubeconfig holds who we are; name its context: " + EXAMPLE],
            )
        if parts.scheme != "kubernetes" or parts.path not in ("", "/"):
            raise Refused(f"'{address}' is not the address of a cluster", ways_on=[f"write {EXAMPLE}"])
        if parts.netloc and not _NAME.fullmatch(parts.netloc):
            raise Refused(f"'{parts.netloc}' is no namespace", ways_on=[f"write {EXAMPLE}"])
        asked: dict[str, Any] = {"namespace": parts.netloc}
        lists: dict[str, list[Any]] = {"label": [], "claim": [], "mount": []}
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            where = f"{name} in the address '{address}' is '{text}'"
            if name in lists:
                lists[name].append(_LISTED[name](text, where))
            elif name in _READ:
                asked[name] = _READ[name](text, where)
            else:
                known = (*lists, *_READ)
                raise Refused(
                    f"'{name}' is not known in the address '{address}'", ways_on=did_you_mean(name, known)
                )
        return cls(
            labels=tuple(lists["label"]), claims=tuple(lists["claim"]), mounts=tuple(lists["mount"]), **asked
        )


def check_image(image: str, who: str) -> None:
    """Refuse what cannot be an image."""
    if not _IMAGE.fullmatch(image):
        raise Refused(f"{who} names the image '{image[:200]}', which is no image", ways_on=["write name:tag"])


def _word(text: str, where: str) -> str:
    if not text or any(ord(sign) < 32 for sign in text):
        raise Refused(where, ways_on=["it takes a name"])
    return text


def _name(text: str, where: str) -> str:
    if not _NAME.fullmatch(text):
        raise Refused(where, ways_on=["it takes a name of Kubernetes: small letters, digits and dashes"])
    return text


def _image(text: str, where: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise Refused(where, ways_on=["it is an image, such as registry.example/ours:1"])
    return text


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise Refused(where, ways_on=["it takes a number"]) from error
    if not 0 < value < float("inf"):
        raise Refused(where, ways_on=["it is above 0"])
    return value


def _whole(text: str, where: str) -> int:
    value = _number(text, where)
    if value != int(value):
        raise Refused(where, ways_on=["it takes a whole number"])
    return int(value)


def _port(text: str, where: str) -> int:
    value = _whole(text, where)
    if not 1 <= value <= 65535:
        raise Refused(where, ways_on=["it is between 1 and 65535"])
    return value


def _yes(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise Refused(where, ways_on=["it takes 0 or 1"])
    return text == "1"


def _label(text: str, where: str) -> tuple[str, str]:
    if not _LABEL.fullmatch(text):
        raise Refused(where, ways_on=["it takes name=value, as labels of nodes are"])
    key, _, value = text.partition("=")
    return key, value


def _claim(text: str, where: str) -> tuple[str, str, bool]:
    name, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not _NAME.fullmatch(name) or not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise Refused(where, ways_on=["it takes name:/path, or with :ro"])
    return name, path, mode == "ro"


def _mount(text: str, where: str) -> tuple[str, bool]:
    path, _, mode = text.partition(":")
    if not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise Refused(where, ways_on=["it takes a whole path, or with :ro or :rw"])
    return path, mode == "rw"


_LISTED = {"label": _label, "claim": _claim, "mount": _mount}
_READ = {
    "context": _word,
    "kubeconfig": _word,
    "image": _image,
    "shares_files": _yes,
    "pull_secret": _name,
    "service_account": _name,
    "priority_class": _name,
    "gpu_resource": _word,
    "run_as": _whole,
    "port": _port,
    "grace_s": _number,
    "lost_after_s": _whole,
    "most_output_bytes": _whole,
    "ended_kept_s": _number,
    "timeout_s": _number,
}
