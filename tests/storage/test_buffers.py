"""Every row buffer, ours and the fake, passes the kit of its port; what each must be besides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import fresh_postgres

from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.core.errors import Refused, Unavailable
from fourfold.core.ports.buffer import RowBuffer
from fourfold.testing.buffer import BOUND, MemoryBuffer, RowBufferKit, addition, texts
from fourfold.testing.raising import raising


class TestSqliteBuffer(RowBufferKit):
    @pytest.fixture
    def open_buffer(self, tmp_path: Path) -> Callable[[], RowBuffer]:
        return lambda: SqliteBuffer(tmp_path / "buffer.db", most_bytes=BOUND)


class TestMemoryBuffer(RowBufferKit):
    @pytest.fixture
    def open_buffer(self) -> Callable[[], RowBuffer]:
        buffer = MemoryBuffer(most_bytes=BOUND)
        return lambda: buffer


@pytest.mark.service
class TestPostgresBuffer(RowBufferKit):
    @pytest.fixture
    def open_buffer(self) -> Iterator[Callable[[], RowBuffer]]:
        from fourfold.adapters.postgres_buffer import PostgresBuffer

        opened: list[RowBuffer] = []

        def open_one() -> RowBuffer:
            opened.append(PostgresBuffer(url, most_bytes=BOUND))
            return opened[-1]

        with fresh_postgres() as url:
            yield open_one
            for buffer in opened:
                buffer.close()


def test_what_was_scrubbed_is_in_no_file_of_sqlite(tmp_path: Path) -> None:
    buffer = SqliteBuffer(tmp_path / "buffer.db", most_bytes=BOUND)
    other = SqliteBuffer(tmp_path / "buffer.db", most_bytes=BOUND)
    buffer.add([addition("a person"), addition("somebody else")])
    assert len(other.after("t")) == 2
    buffer.forget("t", upto=0)
    held = [path.name for path in tmp_path.iterdir() if b"a person" in path.read_bytes()]
    assert held, "else this test shows nothing"
    assert buffer.scrub()
    assert [path.name for path in tmp_path.iterdir() if b"a person" in path.read_bytes()] == []
    assert texts(other) == ["somebody else"]


@pytest.mark.service
def test_on_postgresql_a_number_waits_for_the_ones_below_it() -> None:
    """While an addition is not committed, no other of its table gets a number; other tables go on."""
    import psycopg

    from fourfold.adapters.postgres_buffer import PostgresBuffer

    with fresh_postgres() as url, contextlib.ExitStack() as closing:
        patient = PostgresBuffer(url, most_bytes=BOUND)
        hasty = PostgresBuffer(f"{url}%20-clock_timeout%3D50ms", most_bytes=BOUND)
        for buffer in (patient, hasty):
            closing.callback(buffer.close)
        patient.add([addition("first")])
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("UPDATE buffered_table SET newest = newest + 1 WHERE name = 't'")
            with raising(Unavailable, naming="lock timeout"):
                hasty.add([addition("third")])
            assert hasty.add([addition(name="other")])[0].number == 0
            other.execute(
                "INSERT INTO buffered_entry (name, number, rows, key, at_us, by, step, data) "
                "VALUES ('t', 1, 1, '', 0, '', '', 'second')"
            )
            assert texts(patient) == ["first"]
        assert hasty.add([addition("third")])[0].number == 2
        assert texts(patient) == ["first", "second", "third"]


@pytest.mark.service
def test_tables_of_a_newer_release_on_postgresql_are_refused() -> None:
    import psycopg

    from fourfold.adapters.postgres_buffer import PostgresBuffer

    with fresh_postgres() as url:
        buffer = PostgresBuffer(url, most_bytes=BOUND)
        buffer.add([addition()])
        buffer.close()
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("UPDATE buffered_format SET format = 99")
        with raising(Refused, naming="newer Fourfold"):
            PostgresBuffer(url, most_bytes=BOUND).after("t")
