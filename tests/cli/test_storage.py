"""`fourfold storage`: what a person sees of upkeep."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.adapters.local_blobs import LocalBlobs

from .conftest import Fourfold

pytestmark = pytest.mark.slow


def test_garbage_is_young_first_and_a_grace_of_seconds_is_refused(fourfold: Fourfold, empty: Path) -> None:
    LocalBlobs(empty / ".fourfold" / "blobs").put(b"12345")
    for options in ((), ("--dry-run",)):
        done = fourfold("storage", "gc", *options, "-o", "json").json
        assert (done["removed_count"], done["young_count"], done["young_bytes"]) == (0, 1, 5)
    assert "1 blob, 5 B" in fourfold("storage", "gc").out
    refused = fourfold("storage", "gc", "--grace", "5s")
    assert refused.code == 1
    assert "too short" in refused.err


def test_a_check_ends_with_1_when_a_blob_is_bad(fourfold: Fourfold, empty: Path) -> None:
    assert fourfold("storage", "check").code == 0
    digest = LocalBlobs(empty / ".fourfold" / "blobs").put(b"right")
    (path,) = (empty / ".fourfold" / "blobs").glob("??/??/*")
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    bad = fourfold("storage", "check", "-o", "json")
    assert bad.code == 1
    assert [(each["digest"], each["fault"]) for each in bad.json] == [(digest, "corrupted")]
    assert digest in fourfold("storage", "quarantine").out
    again = fourfold("storage", "check")
    assert (again.code, again.out) == (0, "")
    assert "all is well" in again.err
