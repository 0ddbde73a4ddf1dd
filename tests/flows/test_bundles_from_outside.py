"""A bundle may come from anybody who holds an editor's token: what is none is refused, and leaves nothing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from fourfold.core.errors import FourfoldError, Refused, TooMuch
from fourfold.resources.flows import bundle


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def broken() -> bytes:
    whole = bytearray(zipped(**{"a.py": b"x = 1\n" * 100}))
    whole[40] ^= 0xFF  # within the packed bytes of a.py
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"no zip", Refused, "cannot be read"),
        (broken(), Refused, "cannot be read"),
        (zipped(**{"../out.py": b""}), Refused, "leads out"),
        (zipped(**{"/tmp/out.py": b""}), Refused, "leads out"),
        (zipped(**{"large.py": bytes(bundle.MOST_UNPACKED_BYTES + 1)}), TooMuch, "may be"),
    ],
    ids=["not a zip", "damaged", "upwards", "absolute", "a bomb"],
)
def test_what_is_no_bundle_is_refused_and_leaves_nothing(
    data: bytes, kind: type[FourfoldError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        bundle.unpack(data, tmp_path / "code", bundle.bundle_digest(data))
    assert list((tmp_path / "code").iterdir()) == []
    assert not (tmp_path / "out.py").exists()


def test_a_bundle_is_unpacked_once(tmp_path: Path) -> None:
    data = zipped(**{"a/b.py": b"x = 1\n"})
    folder = bundle.unpack(data, tmp_path / "code", bundle.bundle_digest(data))
    assert (folder / "a" / "b.py").read_bytes() == b"x = 1\n"
    assert bundle.unpack(data, tmp_path / "code", bundle.bundle_digest(data)) == folder
