"""What begins on a machine that has nothing of ours: it fetches Fourfold from the owner, and starts it.

It is sent as text with the launch (`python3 -I -c TEXT`): one file, standard library only, in words that old
interpreters read too, so that these say what they lack. It speaks with the owner as a worker does (`far.py`):
TLS, with the certificate that the launch names, and a proof of the worker's token. Whoever shows another
certificate hears nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import random
import secrets
import socket
import ssl
import struct
import sys
import tempfile
import time
import zipfile

TYPE_CHECKING = False  # `typing` is not imported for it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROTOCOL = 1
LEAST_PYTHON = (3, 11)
QUIET_S = 20.0
MOST_PAUSE_S = 5.0
_LENGTHS = struct.Struct(">II")
_FULL = 28  # errno.ENOSPC


class GivenUp(Exception):
    """The owner wants nothing of this worker any more, or was not heard of for too long."""


class Line:
    """A connection to the owner of a worker that has not begun. Blocking; not thread-safe."""

    def __init__(self, environ: dict[str, str]) -> None:
        host, _, port = environ["FOURFOLD_CONTROL"][len("tls://") :].rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._worker = environ["FOURFOLD_WORKER_NAME"]
        self._token = environ["FOURFOLD_WORKER_TOKEN"]
        self._certificate = environ["FOURFOLD_OWNER_CERTIFICATE"]
        self._life = secrets.token_hex(8)
        self._tls: ssl.SSLSocket | None = None
        self.away_s = float(environ["FOURFOLD_WORKER_AWAY_S"])

    def open(self) -> None:
        """Connect, and show who this is."""
        self.close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # no authority stands behind it: its fingerprint is compared
        context.verify_mode = ssl.CERT_NONE
        tls = context.wrap_socket(socket.create_connection(self._address, timeout=QUIET_S))
        self._tls = tls
        shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
        if not secrets.compare_digest(shown, self._certificate):
            raise OSError("who answers there is not the owner: its certificate is another one")
        challenge, _ = self.receive()
        told = ("worker", challenge["nonce"], self._worker, self._life, self._certificate)
        proof = hmac.new(self._token.encode(), "\n".join(told).encode(), hashlib.sha256).hexdigest()
        self.send(
            {
                "type": "hello",
                "role": "starter",
                "worker": self._worker,
                "life": self._life,
                "protocol": PROTOCOL,
                "proof": proof,
            }
        )

    def send(self, header: dict[str, Any]) -> None:
        if self._tls is None:
            raise OSError("there is no connection")
        head = json.dumps(header, separators=(",", ":")).encode()
        self._tls.sendall(_LENGTHS.pack(4 + len(head), len(head)) + head)

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        """The next frame. Raises `GivenUp` when it tells that this worker must end."""
        size, head_size = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        body = self._exactly(size - 4)
        header = json.loads(body[:head_size])
        parts, at = [], head_size
        for length in header.get("parts", ()):
            parts.append(body[at : at + length])
            at += length
        if header["type"] == "refused" and header.get("is_stale"):
            raise GivenUp(f"the owner refused it: {header['reason']}")
        return header, parts

    def ask(self, header: dict[str, Any], wanted: str) -> tuple[dict[str, Any], list[bytes]]:
        """The answer to a question; asked again on another connection until it comes, for `away_s`."""
        pause_s, heard_at = 0.1, time.monotonic()
        while True:
            try:
                if self._tls is None:
                    self.open()
                self.send(header)
                while True:
                    answer, parts = self.receive()
                    heard_at = time.monotonic()
                    if answer["type"] == wanted:
                        return answer, parts
            except (OSError, ValueError, KeyError, struct.error) as error:
                why = error
            self.close()
            silent_s = time.monotonic() - heard_at
            if silent_s > self.away_s:
                raise GivenUp(f"the owner was not heard of for {silent_s:.0f} s ({why})")
            time.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - so that many do not come at once
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def close(self) -> None:
        if self._tls is not None:
            self._tls.close()
        self._tls = None

    def _exactly(self, size: int) -> bytes:
        assert self._tls is not None
        got = bytearray()
        while len(got) < size:
            piece = self._tls.recv(min(size - len(got), 1 << 18))
            if not piece:
                raise OSError("the connection was closed")
            got += piece
        return bytes(got)


def say(text: str) -> None:
    """A line for the log."""
    sys.stdout.write(f"fourfold: {text}\n")
    sys.stdout.flush()


def cache_folder(environ: dict[str, str]) -> str:
    """Where this machine keeps what it was sent, or built; a folder of this user's own."""
    base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    wanted = environ.get("FOURFOLD_CACHE") or os.path.join(base, "fourfold")
    try:
        os.makedirs(wanted, mode=0o700, exist_ok=True)
        if os.access(wanted, os.W_OK):
            return wanted
    except OSError:
        if environ.get("FOURFOLD_CACHE"):
            raise
    # A home that is not there, or cannot be written to.
    wanted = os.path.join(tempfile.gettempdir(), f"fourfold-{os.getuid()}")
    os.makedirs(wanted, mode=0o700, exist_ok=True)
    about = os.lstat(wanted)
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"{wanted} belongs to somebody else: name a folder, [pools.NAME] cache")
    return wanted


def fetched(into: str, digest: str, fetch: Callable[[], bytes]) -> str:
    """The folder of a zip with this digest, fetched and unpacked unless it is there. Whole or not at all."""
    folder = os.path.join(into, digest)
    if os.path.isdir(folder):
        os.utime(folder)
        return folder
    os.makedirs(into, mode=0o700, exist_ok=True)
    data = fetch()
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError("what came is not what was asked for: its digest is another one")
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=into) as new:
        made = os.path.join(new, "made")
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            packed.extractall(made)
        os.sync()  # hundreds of small files at once; its name stands for the whole of it
        with contextlib.suppress(OSError):  # another was faster
            os.rename(made, folder)
    if not os.path.isdir(folder):
        raise OSError(f"{folder} could not be made")
    return folder


def fetch_application(line: Line, digest: str) -> bytes:
    """Fourfold itself, from the owner."""
    say("fetching Fourfold from the owner")
    answer, parts = line.ask({"type": "application", "digest": digest}, "application")
    if not parts:
        raise GivenUp(f"the owner has another Fourfold by now: {answer.get('reason', '')}")
    return parts[0]


def tell_unready(line: Line, message: str, code: str, *, is_permanent: bool) -> None:
    """Tell the owner that its attempt cannot be carried out here, and why; returns when it knows."""
    say(message)
    word = {"type": "unready", "message": message, "code": code, "is_permanent": is_permanent}
    line.ask(word, "heard")


def main() -> None:
    environ = dict(os.environ)
    line = Line(environ)
    try:
        if sys.version_info < LEAST_PYTHON:
            least = ".".join(map(str, LEAST_PYTHON))
            told = f"Fourfold needs Python {least}, and {sys.executable} is {sys.version.split()[0]}"
            told += "\n  name another: [pools.NAME] python"
            tell_unready(line, told, "Refused", is_permanent=True)
            sys.exit(1)
        digest = environ["FOURFOLD_RUNNER"]
        try:
            into = os.path.join(cache_folder(environ), "runner")
            folder = fetched(into, digest, lambda: fetch_application(line, digest))
        except OSError as error:
            is_full = error.errno == _FULL
            told = f"{error}\n  Fourfold could not be unpacked on {socket.gethostname()}"
            tell_unready(line, told, "OutOfSpace" if is_full else "Unavailable", is_permanent=False)
            sys.exit(1)
    except GivenUp as error:
        sys.exit(str(error))
    line.close()
    os.execve(sys.executable, [sys.executable, "-I", folder], environ)  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
