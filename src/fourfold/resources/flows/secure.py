"""What makes a connection between machines safe: TLS as a filter of bytes, and the proof of a token.

The same on both ends, and standard library only. Bytes go in and come out; nothing here touches a socket,
so that the owner's one thread and a worker's threads can use it alike.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path

BEAT_S = 5.0
"""So often each end says that it is there."""
QUIET_S = 20.0
"""Who has not been heard of for so long is taken for gone, though the connection looks open."""
_READ_BYTES = 1 << 16


class Secure:
    """One end of an encrypted connection. Not thread-safe."""

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=is_server)
        self.is_ready = False
        """Whether both ends have shaken hands."""

    def begin(self) -> bytes:
        """What to send first."""
        self._shake()
        return self._out.read()

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the network: what they say, and what to send at once. Raises `ssl.SSLError`."""
        self._in.write(data)
        if not self.is_ready:
            self._shake()
        read = bytearray()
        while self.is_ready:
            try:
                piece = self._tls.read(_READ_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break
            if not piece:
                break
            read += piece
        return bytes(read), self._out.read()

    def wrap(self, data: bytes) -> bytes:
        """What to send so that the other end reads `data`."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._out.read()

    def peer_certificate(self) -> bytes:
        """The certificate that the other end has shown."""
        return self._tls.getpeercert(binary_form=True) or b""

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_ready = True


def server_context(certificate: Path) -> ssl.SSLContext:
    """For the owner: shows its certificate, and asks for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    return context


def client_context() -> ssl.SSLContext:
    """For a worker. No authority stands behind the certificate: its fingerprint is compared instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def token_of(secret: bytes, worker: str) -> str:
    """A worker's token: the owner's secret makes it again after a restart, so nobody has to keep it."""
    return hmac.new(secret, f"token {worker}".encode(), hashlib.sha256).hexdigest()


def proof(token: str, *, nonce: str, worker: str, life: str, fingerprint: str) -> str:
    """Shows that its maker has the token, without showing the token.

    It holds for one challenge, one process and one certificate: heard on the way, it opens nothing else.
    """
    told = "\n".join(("worker", nonce, worker, life, fingerprint))
    return hmac.new(token.encode(), told.encode(), hashlib.sha256).hexdigest()
