"""`fourfold table export`: a version goes to a place that the settings name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from fourfold import wiring

from .conftest import Fourfold


def test_a_version_is_exported_by_its_name(fourfold: Fourfold, empty: Path) -> None:
    (empty / "fourfold.toml").write_text('[exports]\nlake = "iceberg+sqlite:///lake.db"\n')
    storage = wiring.open_project().storage
    storage.append("flights", pa.table({"n": [1, 2]}))
    storage.append("flights", pa.table({"n": [3]}))
    told = fourfold("table", "export", "flights@v0", "--to", "lake").err
    assert "flights version 0 is version 0 in lake: 2 rows" in told
    assert (
        "version 1 is version 1 in lake: 3 rows" in fourfold("table", "export", "flights", "--to", "lake").err
    )
