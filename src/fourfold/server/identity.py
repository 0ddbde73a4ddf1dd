"""Who is asking: the owner's token in a file, and tokens with roles in the catalog."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from fourfold.core.catalog import LOCAL, Identity
from fourfold.core.errors import Refused, Unauthenticated
from fourfold.core.routes import Role

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Verify = Callable[[str], Identity]
"""Finds who a token speaks for; raises `Unauthenticated` when it speaks for nobody."""

WAYS_TO_A_TOKEN = (
    "send 'Authorization: Bearer TOKEN'",
    "the owner's token is in .fourfold/token; 'fourfold token new NAME --role viewer' makes others",
)


class Bearers:
    """Tells who holds a token: the owner of the project's folder, or whom the catalog knows.

    The owner's token is compared in constant time, so that an answer's delay says nothing about it; the
    catalog looks others up by their hash.
    """

    def __init__(self, owner_token: str, verify: Verify | None = None) -> None:
        self._owner = _hash(owner_token)
        self._verify = verify

    def who(self, authorization: str) -> Identity | None:
        """Who sent this `Authorization` header; `None` without one; a wrong token is refused."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token:
            if secrets.compare_digest(_hash(token), self._owner):
                return Identity(LOCAL, Role.admin, "owner")
            if self._verify is not None:
                return self._verify(token)
        raise Unauthenticated("the token is not one of this project's", ways_on=WAYS_TO_A_TOKEN)


def check_binding(host: str, *, has_identity: bool) -> None:
    """Refuse to listen beyond this machine while the owner's token file is all the identity there is.

    >>> check_binding("127.0.0.1", has_identity=False)
    >>> check_binding("0.0.0.0", has_identity=False)
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: listening on 0.0.0.0 would open this project to the network without identity
      listen on 127.0.0.1 and reach it over SSH: ssh -L 4040:127.0.0.1:4040 HOST
      or give people tokens first: fourfold token new NAME --role viewer
    """
    if host in LOOPBACK or has_identity:
        return
    raise Refused(
        f"listening on {host} would open this project to the network without identity",
        ways_on=[
            "listen on 127.0.0.1 and reach it over SSH: ssh -L 4040:127.0.0.1:4040 HOST",
            "or give people tokens first: fourfold token new NAME --role viewer",
        ],
        host=host,
    )


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
