"""Where an object store is, parsed from its address, and what it tells about an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.times import Instant

SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage."""

Key = NewType("Key", str)
"""An object's name below the store's prefix: segments joined by `/`."""

_OPTIONS: dict[str, tuple[str, ...]] = {
    "s3": ("endpoint", "patience_s", "region", "style", "writers"),
    "gs": ("endpoint", "patience_s", "writers"),
    "az": ("account", "endpoint", "patience_s", "writers"),
}


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """A bucket (or container) and a prefix in it.

    >>> ObjectAddress.parse("s3://lake/team/ml?endpoint=http://127.0.0.1:9000&writers=one")
    <ObjectAddress s3://lake/team/ml at http://127.0.0.1:9000>
    >>> ObjectAddress.parse("s3://lake?regoin=x")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: the address 's3://lake?regoin=x' has an unknown option 'regoin'
      did you mean 'region'?
      options: endpoint, patience_s, region, style, writers
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str = ""
    """Where the store's API is, when it is not the vendor's own."""
    region: str = ""
    account: str = ""
    """Azure's storage account."""
    has_virtual_host: bool = False
    """Whether the bucket is a part of the host's name rather than of the path (`style=virtual`)."""
    has_many_writers: bool = True
    """Whether several processes may write at once; `writers=one` promises that they never do."""
    patience_s: float = 60.0
    """How long a request is tried again before the store counts as unavailable."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def __repr__(self) -> str:
        return f"<ObjectAddress {self}{f' at {self.endpoint}' if self.endpoint else ''}>"

    @classmethod
    def parse(cls, address: str) -> ObjectAddress:
        """Check an address such as `s3://bucket/prefix?region=eu-west-1`."""
        place, _, query = address.partition("?")
        scheme, _, path = place.partition("://")
        bucket, _, prefix = path.partition("/")
        if scheme not in SCHEMES:
            raise Refused(
                f"'{address}' is not the address of an object store",
                ways_on=["accepted: " + ", ".join(f"{each}://bucket/prefix" for each in SCHEMES)],
            )
        if not bucket or "@" in bucket:
            raise Refused(
                f"an address of {scheme}:// names a bucket and nothing else before the first '/'",
                ways_on=[
                    f"write {scheme}://bucket/prefix",
                    "credentials come from the environment, never from the address",
                ],
            )
        segments = [each for each in prefix.split("/") if each]
        if any(each in {".", ".."} for each in segments):
            raise Refused(f"the address '{address}' has a prefix with '.' or '..' in it")
        options = dict(each.partition("=")[::2] for each in query.split("&") if each)
        known = _OPTIONS[scheme]
        for option in options:
            if option not in known:
                raise Refused(
                    f"the address '{address}' has an unknown option '{option}'",
                    ways_on=did_you_mean(option, known, what="options"),
                )
        return cls(
            scheme=scheme,
            bucket=bucket,
            prefix="/".join(segments),
            endpoint=_endpoint(address, options.get("endpoint", "")),
            region=options.get("region", ""),
            account=options.get("account", ""),
            has_virtual_host=_choice(address, options, "style", ("path", "virtual")) == "virtual",
            has_many_writers=_choice(address, options, "writers", ("many", "one")) == "many",
            patience_s=_seconds(address, options.get("patience_s", "60")),
        )


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a listing tells about an object."""

    key: Key
    object_bytes: int
    modified: Instant
    """By the store's clock, often in whole seconds."""
    tag: str = ""
    """What changes when the bytes do."""


def _endpoint(address: str, endpoint: str) -> str:
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise Refused(f"the endpoint in '{address}' does not begin with http:// or https://")
    return endpoint.rstrip("/")


def _choice(address: str, options: dict[str, str], name: str, choices: tuple[str, ...]) -> str:
    chosen = options.get(name, choices[0])
    if chosen not in choices:
        raise Refused(f"'{name}={chosen}' in '{address}' is none of {', '.join(choices)}")
    return chosen


def _seconds(address: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 280:  # a request is signed once for all its tries, and signatures expire
        raise Refused(f"'patience_s={text}' in '{address}' is not a number of seconds from 0 to 280")
    return seconds
