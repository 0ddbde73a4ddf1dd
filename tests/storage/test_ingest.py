"""Files become one version of a table, or none: and what is wrong is said with its file, row and column."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourfold.core.errors import FourfoldError, NotFound, Refused
from fourfold.foundation.storage.api import Table
from fourfold.foundation.storage.ingest import formats
from fourfold.foundation.storage.ingest.paths import Format
from fourfold.foundation.storage.ingest.stream import Progress
from fourfold.foundation.storage.service import Storage

ROWS = [{"id": 1, "word": "ä", "x": 0.5}, {"id": 2, "word": None, "x": 1.5}]


@pytest.fixture
def table(storage: Storage) -> Table:
    return Table("t", storage=storage)


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path, raw = folder / name, data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def parquet(folder: Path, name: str, data: pa.Table) -> Path:
    pq.write_table(data, folder / name)
    return folder / name


def read(table: Table) -> list[dict[str, Any]]:
    return sorted(table.read().to_pylist(), key=repr)


# What is read


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.csv", "a.tsv.gz", "a.csv.gz", "a.jsonl", "a.ndjson.gz", "a.json"]
)
def test_a_file_of_each_format_is_read(table: Table, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        path = parquet(tmp_path, name, pa.Table.from_pylist(ROWS))
    elif "json" in name:
        path = write(tmp_path, name, '\ufeff{"id":1,"word":"ä","x":0.5}\n\n{"id":2,"x":1.5}\n')
    else:
        sign = "\t" if "tsv" in name else ","
        path = write(tmp_path, name, "id,word,x\n1,ä,0.5\n2,,1.5".replace(",", sign))
    made = table.append_file(path)
    assert (made.version, made.rows_added) == (0, 2)
    assert [{**row, "word": row["word"] or None} for row in read(table)] == ROWS


def test_many_files_of_all_formats_are_one_version(table: Table, tmp_path: Path) -> None:
    parquet(tmp_path, "1.parquet", pa.table({"id": pa.array([1], pa.int32()), "word": ["a"]}))
    write(tmp_path, "2.csv", "word,id\nb,2\n")
    write(tmp_path, "3.jsonl.gz", '{"id":3}')
    told: list[Progress] = []
    made = table.append_file([tmp_path / "1.parquet", f"{tmp_path}/[23].*"], on_progress=told.append)
    assert (made.version, made.rows) == (0, 3)
    assert table.read().schema.field("id").type == pa.int32()
    assert [(progress.file.name, progress.rows) for progress in told] == [
        ("1.parquet", 1),
        ("2.csv", 2),
        ("3.jsonl.gz", 3),
    ]
    assert told[-1].read_bytes == told[-1].total_bytes
    made = table.upsert_file(write(tmp_path, "4.csv", "id,word\n3,c\n4,d\n"), key="id")
    assert (made.version, made.rows_added, made.rows_removed) == (1, 2, 1)


def test_values_are_read_in_the_tables_types(table: Table, tmp_path: Path) -> None:
    schema = pa.schema([
        ("id", pa.int8()), ("at", pa.timestamp("us", "UTC")), ("day", pa.date32()),
        ("price", pa.decimal128(9, 2)), ("yes", pa.bool_()), ("many", pa.list_(pa.int64())),
    ])  # fmt: skip
    table.append(schema.empty_table())
    line = (
        '{"id":1,"at":"2013-01-01T06:00:00Z","day":"2013-01-01","price":"1.50","yes":true,"many":[1,null]}\n'
    )
    table.append_file(write(tmp_path, "a.jsonl", line))
    (row,) = table.read().to_pylist()
    assert row == {
        "id": 1, "at": datetime(2013, 1, 1, 6, tzinfo=UTC), "day": date(2013, 1, 1), "price": Decimal("1.50"),
        "yes": True, "many": [1, None],
    }  # fmt: skip
    flat = Table("u", storage=table._storage)
    flat.append(schema.remove(5).empty_table())
    flat.append_file(
        write(tmp_path, "a.csv", "day,id,at,price,yes\n2013-01-01,1,2013-01-01T06:00:00Z,1.5,true\n")
    )
    assert flat.read().to_pylist() == [{name: row[name] for name in flat.read().column_names}]
    with pytest.raises(Refused, match=r"a\.csv.*list"):
        table.append_file(write(tmp_path, "a.csv", "id,at,day,price,yes,many\n1,,,,,1\n"))


def test_types_of_a_new_table_may_be_said(table: Table, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "code,n,empty\n007,1,\n")
    table.append_file(path, types={"code": "string", "n": pa.float64()})
    assert table.read().to_pylist() == [{"code": "007", "n": 1.0, "empty": ""}]
    with pytest.raises(Refused, match="did you mean 'code'"):
        Table("u", storage=table._storage).append_file(path, types={"cdoe": "string"})


def test_a_long_file_is_read_in_blocks(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "BLOCK_BYTES", 100)
    lines = [f'{{"id": {n}, "word": "{"ü" * (n % 40)}"}}' for n in range(200)]
    table.append_file(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert [row["id"] for row in sorted(table.read().to_pylist(), key=lambda row: row["id"])] == list(
        range(200)
    )
    table.append_file(write(tmp_path, "b.csv", "id,word\n" + "".join(f'{n},"a\nb"\n' for n in range(200))))
    assert table.describe().rows == 400
    with pytest.raises(Refused, match=r"c\.jsonl, row 151, column 'id'"):
        table.append_file(write(tmp_path, "c.jsonl", "\n".join([*lines[:150], '{"id": "x"}', *lines])))


def test_files_without_rows_are_no_rows(table: Table, tmp_path: Path) -> None:
    empty = [write(tmp_path, "a.jsonl", ""), write(tmp_path, "b.jsonl.gz", "\n\n")]
    with pytest.raises(Refused, match="no row to see its columns by"):
        table.append_file(empty)
    header = write(tmp_path, "c.csv", "id,word\n")
    assert table.append_file([*empty, header], types={"id": "int64"}).rows == 0
    assert [column.type for column in table.describe().columns] == ["int64", "string"]
    assert table.append_file(empty).version == 1
    assert (
        table.append_file(
            parquet(tmp_path, "d.parquet", pa.table({"id": [1], "word": ["a"]}).slice(0, 0))
        ).rows
        == 0
    )


def test_another_encoding_is_said(table: Table, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,word\n1,ä\n".encode("latin-1"))
    with pytest.raises(Refused, match=r"a\.csv, row 2, column 'word': it is not UTF-8\n  say its encoding"):
        table.append_file(path)
    table.append_file(path, encoding="latin-1")
    assert read(table) == [{"id": 1, "word": "ä"}]


# What is refused


GOOD = "id,word,x\n1,a,0.5\n"
BAD: dict[str, tuple[str, bytes | str, str]] = {
    "too many values": ("b.csv", GOOD + "2,b,1.5,oops\n", r"b\.csv, row 3: Expected 3 columns, got 4"),
    "too few values": ("b.csv", GOOD + "2\n", r"b\.csv, row 3: Expected 3 columns, got 1"),
    "no number": ("b.csv", GOOD + "2,b,much\n", r"b\.csv, row 3, column 'x': .*'much'"),
    "no whole number": ("b.csv", GOOD + "2.5,b,1\n", r"b\.csv, row 3, column 'id'"),
    "too large": ("b.csv", GOOD + f"{2**63},b,1\n", r"b\.csv, row 3, column 'id'"),
    "mixed encodings": ("b.csv", GOOD.encode() + b"2,\xe4,1\n", r"row 3, column 'word': it is not UTF-8"),
    "a header of another encoding": ("b.csv", b"id,w\xf6rd,x\n1,a,1\n", r"b\.csv"),
    "a column missing": ("b.csv", "id,x\n1,0.5\n", r"does not have the columns.*\n  missing: word"),
    "a column unknown": ("b.csv", "id,wrod,x\n1,a,1\n", r"not in the table: wrod \(did you mean 'word'\?\)"),
    "a column twice": ("b.csv", "id,word,x,x\n1,a,1,1\n", r"same name"),
    "no header": ("b.csv", "", r"b\.csv is not a csv file|b\.csv: it is empty"),
    "CSV that is Parquet": ("b.csv", b"PAR1" + bytes(100) + b"PAR1", r"not a csv file: it is a Parquet file"),
    "CSV that is JSON": ("b.csv", '{"id":1}\n', r"not a csv file: it is JSON lines"),
    "CSV that is packed": ("b.csv", gzip.compress(GOOD.encode()), r"csv file: it is compressed with gzip"),
    "Parquet that is CSV": ("b.parquet", GOOD, r"not a parquet file: it begins with other"),
    "an empty Parquet file": ("b.parquet", "", r"b\.parquet is not a parquet file: it is empty"),
    "Parquet cut off": ("b.parquet", b"PAR1" + bytes(200), r"b\.parquet: it is no whole Parquet file"),
    "a broken line": ("b.jsonl", '{"id":1}\n\n{"id":2,\n{"id":3}\n', r"b\.jsonl, row 3: it is no JSON"),
    "a line of another encoding": ("b.jsonl", b'{"id":1}\n{"word":"\xe4"}\n', r"row 2: it is not UTF-8"),
    "a line that is a list": ("b.jsonl", '{"id":1}\n[1]\n', r"b\.jsonl, row 2: a list, and no object"),
    "a JSON array": ("b.json", '[{"id":1}]', r"row 1: a list, and no object\n  write one object"),
    "a value of another type": ("b.jsonl", '{"id":1}\n{"id":"two"}\n', r"row 2, column 'id': .two. is no"),
    "a fraction": ("b.jsonl", '{"id":1}\n{"id":2.5}\n', r"b\.jsonl, row 2, column 'id': 2.5 is no int64"),
    "an unknown key": ("b.jsonl", '{"id":1}\n{"idd":2}\n', r"row 2, column 'idd': this key is no column"),
    "UTF-16": ("b.csv", GOOD.encode("utf-16"), r"b\.csv: it is UTF-16\n  say so: encoding utf-16"),
    "NULs": ("b.csv", GOOD + "\0\0\n", r"row 3: Expected 3 columns, got 1: \\x00\\x00"),
    "a key twice": ("b.jsonl", '{"id":1}\n{"id":1,"id":2}\n', r"row 2, column 'id': this key is there twice"),
    "a number beyond all": ("b.jsonl", '{"id":1}\n{"x":1e400}\n', r"b\.jsonl, row 2: .*too big"),
    "lists too deep": ("b.jsonl", '{"id":1}\n{"x":' + "[" * 50_000 + "\n", r"row 2: .* 32 levels deep"),
    "a line that is a number": ("b.jsonl", "1\n", r"b\.jsonl, row 1: a number, and no object"),
    "gzip cut off": ("b.jsonl", gzip.compress(b'{"id":1}\n' * 9000)[:-30], r"b\.jsonl is not a jsonl file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_in_a_file_is_said_with_its_place_and_nothing_is_added(
    table: Table, tmp_path: Path, what: str
) -> None:
    name, data, says = BAD[what]
    good, bad = write(tmp_path, "a.csv", GOOD), write(tmp_path, name, data)
    table.append_file(good)
    with pytest.raises(Refused, match=says) as refused:
        table.append_file([good, bad])
    assert refused.value.facts["path"] == str(bad)
    with pytest.raises(Refused, match=says):
        table.upsert_file([good, bad], key="id")
    assert table.describe().version == 0
    assert read(table) == [{"id": 1, "word": "a", "x": 0.5}]


def test_a_packed_file_that_was_cut_off_is_said(table: Table, tmp_path: Path) -> None:
    for name, data in (("a.csv.gz", "id\n" + "1\n" * 90_000), ("a.jsonl.gz", '{"id":1}\n' * 90_000)):
        path = write(tmp_path, name, data)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(Refused, match=r"cannot be read further"):
            table.append_file(path)
    (tmp_path / "b.csv.gz").write_text("id\n1\n")
    with pytest.raises(Refused, match="is not compressed with gzip: it begins with other bytes"):
        table.append_file(tmp_path / "b.csv.gz")
    with pytest.raises(NotFound):
        table.describe()


def test_files_of_a_new_table_must_agree(table: Table, tmp_path: Path) -> None:
    first = write(tmp_path, "a.csv", "id,word\n1,a\n")
    with pytest.raises(Refused, match=r"b\.csv, row 2, column 'id'"):
        table.append_file([first, write(tmp_path, "b.csv", "id,word\nx,a\n")])
    with pytest.raises(Refused, match=r"b\.parquet: .*\n  type differs: id is double, the table has int64"):
        table.append_file([first, parquet(tmp_path, "b.parquet", pa.table({"id": [1.5], "word": ["a"]}))])
    with pytest.raises(Refused, match=r"b\.jsonl, row 1, column 'idd'"):
        table.append_file([first, write(tmp_path, "b.jsonl", '{"idd":1}')])
    with pytest.raises(NotFound):
        table.describe()


def test_files_that_are_not_there_are_said(table: Table, tmp_path: Path) -> None:
    cases: list[tuple[Any, type[FourfoldError], str]] = [
        (tmp_path / "absent.csv", NotFound, "absent.csv is not a file"),
        (f"{tmp_path}/*.csv", NotFound, "no file is named like"),
        (tmp_path, Refused, "is a folder"),
        ([], Refused, "no file is named"),
        (write(tmp_path, "a.txt", "x"), Refused, "its name does not say what it is"),
        (write(tmp_path, "a.parquet.gz", "x"), Refused, "its name does not say what it is"),
    ]
    for paths, kind, says in cases:
        with pytest.raises(kind, match=says):
            table.append_file(paths)
    write(tmp_path, "[1].csv", "id\n1\n")
    assert table.append_file(f"{tmp_path}/[1].csv").rows == 1
    assert table.append_file(write(tmp_path, "b.txt", "id\n2\n"), format=Format.csv).rows == 2


def test_signs_in_values_are_no_quotes_and_no_depth(table: Table, tmp_path: Path) -> None:
    text = 'id,word\n1,5" pipe\n2,"a ""b"" c"\n3,"x\ny, ""z"\n'
    table.append_file(write(tmp_path, "a.csv", text))
    table.append_file(write(tmp_path, "b.csv.gz", text))
    one = {"id": 4, "word": "[" * 100 + '"' + "{" * 100}
    table.append_file(write(tmp_path, "a.jsonl", json.dumps(one) + "\n"))
    found = [row["word"] for row in read(table)]
    assert found.count('5" pipe') == found.count('a "b" c') == found.count('x\ny, "z') == 2
    assert one["word"] in found


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz"])
def test_a_quote_that_the_files_end_leaves_open_is_said_with_its_row(
    table: Table, tmp_path: Path, name: str
) -> None:
    text = 'id,word\n1,"a\nb"\n2,5" pipe\n3,"never\n4,d\n'
    with pytest.raises(Refused, match=rf"{name}, row 5: a quote is never closed"):
        table.append_file(write(tmp_path, name, text))
    with pytest.raises(NotFound):
        table.describe()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_parquet_that_was_cut_or_spoilt_anywhere_is_said_and_adds_nothing(
    table: Table, tmp_path: Path, share: float
) -> None:
    data = pa.table({"id": list(range(50_000)), "word": [f"w{n * n}" for n in range(50_000)]})
    whole = parquet(tmp_path, "a.parquet", data).read_bytes()
    at = int(len(whole) * share)
    cut = write(tmp_path, "cut.parquet", whole[:at])
    spoilt = write(
        tmp_path, "spoilt.parquet", whole[:at] + bytes(min(2000, len(whole) - at - 8)) + whole[at + 2000 :]
    )
    for path in (cut, spoilt):
        with pytest.raises(Refused, match=path.name) as refused:
            table.append_file(path)
        assert refused.value.facts["path"] == str(path)
    with pytest.raises(NotFound):
        table.describe()


def test_a_parquet_value_that_does_not_fit_is_named_by_file_row_and_column(
    table: Table, tmp_path: Path
) -> None:
    times = pa.array([1000] * 100_000 + [1001], pa.timestamp("ns"))
    path = parquet(tmp_path, "a.parquet", pa.table({"id": list(range(100_001)), "at": times}))
    with pytest.raises(Refused, match=r"a\.parquet: .*row 100001, column 'at' does not fit") as refused:
        table.append_file(path)
    assert (refused.value.facts["row"], refused.value.facts["column"]) == (100_001, "at")


def test_of_many_columns_that_do_not_fit_some_are_listed(table: Table, tmp_path: Path) -> None:
    table.append(pa.table({f"a{n}": [1] for n in range(500)}))
    with pytest.raises(Refused) as refused:
        table.append(pa.table({f"b{n}": [1] for n in range(500)}))
    assert "and 480 more" in str(refused.value)
    assert len(str(refused.value)) < 20_000
