"""A certificate that the owner makes for itself, so that workers elsewhere know whom they talk to.

Python's `ssl` speaks TLS but makes no certificates, and a library for that one moment would be another
dependency with native code. What is needed is small: a key on the curve P-256, and the X.509 envelope
around it. Nobody trusts the envelope: a worker compares the certificate's fingerprint, which it was given
at its launch, and TLS itself proves that the owner has the key. The arithmetic takes no equal time for all
keys, which nobody can watch: it runs once, before anything listens.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import ssl
from pathlib import Path

_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_POINT = tuple[int, int] | None

_EC_KEY, _P256 = "1.2.840.10045.2.1", "1.2.840.10045.3.1.7"
_SIGNED_BY_ECDSA, _COMMON_NAME = "1.2.840.10045.4.3.2", "2.5.4.3"
_NAME = "fourfold"


def identity(folder: Path) -> tuple[Path, str]:
    """The owner's certificate with its key, made when it is not there yet: the file, and its fingerprint."""
    path = folder / "owner.pem"
    if not path.exists():
        _keep(path, make())
    pem = path.read_text()
    begin = pem.index("-----BEGIN CERTIFICATE-----")
    return path, fingerprint(ssl.PEM_cert_to_DER_cert(pem[begin:].strip()))


def secret(folder: Path) -> bytes:
    """What workers' tokens are made from, made when it is not there yet."""
    path = folder / "secret"
    if not path.exists():
        _keep(path, secrets.token_hex(32))
    return path.read_bytes()


def _keep(path: Path, text: str) -> None:
    """Put a file in its place whole, for its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def fingerprint(certificate: bytes) -> str:
    """What a worker compares."""
    return hashlib.sha256(certificate).hexdigest()


def make() -> str:
    """A fresh key and the certificate that it signs itself, as PEM."""
    key = secrets.randbelow(_N - 1) + 1
    public = _times(key, _G)
    assert public is not None
    point = b"\x04" + _bytes(public[0]) + _bytes(public[1])
    name = _sequence(_tag(0x31, _sequence(_oid(_COMMON_NAME), _tag(0x0C, _NAME.encode()))))
    told = _sequence(
        _tag(0xA0, _integer(2)),  # version 3
        _integer(secrets.randbits(120) | 1),
        _sequence(_oid(_SIGNED_BY_ECDSA)),
        name,
        _sequence(_tag(0x17, b"200101000000Z"), _tag(0x17, b"491231235959Z")),
        name,
        _sequence(_sequence(_oid(_EC_KEY), _oid(_P256)), _bits(point)),
    )
    r, s = _sign(key, told)
    certificate = _sequence(
        told, _sequence(_oid(_SIGNED_BY_ECDSA)), _bits(_sequence(_integer(r), _integer(s)))
    )
    private = _sequence(
        _integer(1), _tag(0x04, _bytes(key)), _tag(0xA0, _oid(_P256)), _tag(0xA1, _bits(point))
    )
    return _pem("EC PRIVATE KEY", private) + _pem("CERTIFICATE", certificate)


# The curve


def _sign(key: int, message: bytes) -> tuple[int, int]:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        nonce = secrets.randbelow(_N - 1) + 1
        point = _times(nonce, _G)
        assert point is not None
        r = point[0] % _N
        s = pow(nonce, -1, _N) * (digest + r * key) % _N
        if r and s:
            return r, s


def _times(factor: int, point: _POINT) -> _POINT:
    total: _POINT = None
    while factor:
        if factor & 1:
            total = _plus(total, point)
        point = _plus(point, point)
        factor >>= 1
    return total


def _plus(a: _POINT, b: _POINT) -> _POINT:
    if a is None or b is None:
        return b if a is None else a
    (x1, y1), (x2, y2) = a, b
    if x1 == x2 and (y1 + y2) % _P == 0:
        return None
    rise, run = (3 * x1 * x1 - 3, 2 * y1) if a == b else (y2 - y1, x2 - x1)
    slope = rise * pow(run, -1, _P) % _P
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _bytes(number: int) -> bytes:
    return number.to_bytes(32, "big")


# The envelope (DER)


def _tag(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _tag(0x30, b"".join(parts))


def _integer(number: int) -> bytes:
    return _tag(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _tag(0x03, b"\0" + content)


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytes((40 * first + second,))
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        out += bytes(reversed(groups))
    return _tag(0x06, out)


def _pem(what: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {what}-----", *lines, f"-----END {what}-----", ""])
