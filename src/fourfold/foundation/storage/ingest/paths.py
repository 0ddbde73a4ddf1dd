"""Which files are meant, and what they are."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from fourfold.core.errors import NotFound, Refused
from fourfold.foundation.storage.files import callers_file


class Format(StrEnum):
    """What a file may be."""

    parquet = "parquet"
    csv = "csv"
    tsv = "tsv"
    jsonl = "jsonl"


SUFFIXES = {
    ".parquet": Format.parquet,
    ".csv": Format.csv,
    ".tsv": Format.tsv,
    ".jsonl": Format.jsonl,
    ".ndjson": Format.jsonl,
    ".json": Format.jsonl,
}
_SIGNS = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive",
    b"ARROW1": "an Arrow file",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}
"""The first bytes of files that are not text, and what they are then."""
_JSON_SIGNS = {b'{"': "JSON lines", b"[{": "a JSON array"}
"""The same for what must not be taken for a header of CSV."""
_BEGINNING = 8


def files(paths: Path | str | Sequence[Path | str]) -> tuple[Path, ...]:
    """The files that are named, in the order given; those of a pattern sorted by name.

    A name that holds signs of a pattern and is a file is that file.
    """
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[Path] = []
    for each in named:
        path = Path(each)
        if path.is_dir():
            raise Refused(
                f"{path} is a folder", ways_on=[f"name its files: '{path}/*.parquet'"], path=str(path)
            )
        if path.exists() or not glob.has_magic(str(each)):
            found.append(path)
            continue
        matches = sorted(match for match in glob.glob(str(each), recursive=True) if Path(match).is_file())
        if not matches:
            raise NotFound(f"no file is named like {each}", ways_on=["is the pattern right?"], path=str(each))
        found += map(Path, matches)
    if not found:
        raise Refused("no file is named", ways_on=["name one or several, or a pattern such as 'day-*.csv'"])
    return tuple(found)


def format_of(path: Path, said: Format | None = None) -> tuple[Format, bool]:
    """What a file is by its name (or as was said), and whether it is compressed; refused where its first
    bytes say something else."""
    is_packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if is_packed else path).suffix.lower()
    kind = said or SUFFIXES.get(suffix)
    if kind is None or (is_packed and kind is Format.parquet):
        raise Refused(
            f"{path}: its name does not say what it is",
            ways_on=[
                f"names end in {', '.join(SUFFIXES)}, also with .gz (but for Parquet)",
                "or say the format",
            ],
            path=str(path),
        )
    with callers_file(path), path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    expected = b"\x1f\x8b" if is_packed else b"PAR1" if kind is Format.parquet else b""
    signs = _SIGNS | (_JSON_SIGNS if kind in {Format.csv, Format.tsv} else {})
    told = next((what for sign, what in signs.items() if beginning.startswith(sign)), "")
    if not beginning.startswith(expected) or (told and not expected):
        what = "compressed with gzip" if is_packed else f"a {kind.value} file"
        found = f"it is {told}" if told else "it begins with other bytes" if beginning else "it is empty"
        raise Refused(
            f"{path} is not {what}: {found}",
            ways_on=["give it the name of what it is, or say the format"],
            path=str(path),
        )
    return kind, is_packed
