"""The address of a cluster: `slurm://?partition=gpu`, `slurm+rest://host:6820?user=alice`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fourfold.core.errors import Refused, did_you_mean

EXAMPLE = "slurm://?partition=gpu&account=ml or slurm+rest://host:6820?user=alice"


@dataclass(frozen=True, slots=True)
class SlurmAddress:
    """How a cluster is reached, and what every job of the pool says to it.

    >>> SlurmAddress.parse("slurm://?partition=gpu&qos=high").partition
    'gpu'
    >>> SlurmAddress.parse("slurm+rest://head:6820?user=alice").url
    'http://head:6820'
    >>> SlurmAddress.parse("slurm://?partion=gpu")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: address 'slurm://?partion=gpu' has an option that is not known: 'partion'
      did you mean 'partition'?
      options: account, constraint, folder, most_output_bytes, partition, python, qos, ...
    """

    url: str = ""
    """Of slurmrestd; empty: the commands on this machine."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    folder: str = ""
    """Where the jobs' files are: a folder that this machine and all nodes see under the same path."""
    python: str = ""
    """The Python on the nodes (3.9 or newer) that watches each job; empty: the path of ours."""
    user: str = ""
    """Whom the token is of."""
    token_env: str = "SLURM_JWT"  # noqa: S105 - the name of a variable
    token_file: str = ""
    timeout_s: float = 10.0
    """The longest that one word with the cluster may take."""
    most_output_bytes: int = 256 << 20
    """A job that prints more is ended."""

    @classmethod
    def parse(cls, address: str) -> SlurmAddress:
        """Read and check an address; a token in it is refused, because addresses are shown."""
        parts = urlsplit(address)
        scheme = parts.scheme
        if scheme not in ("slurm", "slurm+rest", "slurm+https"):
            raise Refused(f"address '{address}' is not one of Slurm", ways_on=[f"write {EXAMPLE}"])
        if parts.password is not None:
            raise Refused(
                "the address of the cluster holds a secret, and addresses are shown",
                ways_on=["put the token in SLURM_JWT, or name a file: token_file=/path"],
            )
        values: dict[str, Any] = {"user": parts.username} if parts.username else {}
        values |= cls._options(address, parts.query)
        place = parts.netloc.rpartition("@")[2]
        if scheme == "slurm":
            if place or parts.path.strip("/"):
                raise Refused(
                    f"address '{address}' names a place, and the commands of Slurm know their own",
                    ways_on=[f"write {EXAMPLE}"],
                )
        else:
            try:
                port = parts.port
            except ValueError:
                port = None
            if not parts.hostname or port is None:
                raise Refused(f"address '{address}' lacks a host and port", ways_on=[f"write {EXAMPLE}"])
            values["url"] = f"{'https' if scheme == 'slurm+https' else 'http'}://{place}"
        return cls(**values)

    @classmethod
    def _options(cls, address: str, query: str) -> dict[str, Any]:
        known = sorted(each.name for each in fields(cls) if each.name != "url")
        values: dict[str, Any] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in known:
                raise Refused(
                    f"address '{address}' has an option that is not known: '{name}'",
                    ways_on=did_you_mean(name, known, what="options"),
                )
            if any(ord(sign) < 32 for sign in value):
                raise Refused(f"option '{name}' of the cluster's address holds a line break")
            values[name] = value
        if "timeout_s" in values:
            try:
                values["timeout_s"] = float(values["timeout_s"])
            except ValueError:
                values["timeout_s"] = 0.0
            if not 0 < values["timeout_s"] <= 300:
                raise Refused("option 'timeout_s' of the cluster's address is not between 0 and 300 seconds")
        if "most_output_bytes" in values:
            text = values["most_output_bytes"]
            values["most_output_bytes"] = int(text) if text.isdecimal() else 0
            if values["most_output_bytes"] < 4096:
                raise Refused("option 'most_output_bytes' of the cluster's address is no number from 4096 on")
        return values
