"""What goes to a temporary folder: comparisons, checks of whole tables, and queries."""

from __future__ import annotations

from contextlib import closing

import duckdb
import pyarrow as pa
from tests.dying.case import Case

from fourfold import wiring
from fourfold.foundation.storage import changes
from fourfold.foundation.storage.query import Query


def wide(project: wiring.Project) -> None:
    for first in (0, 1):
        data = pa.table({f"c{n}": list(range(first, first + 200)) for n in range(5)})
        project.storage.overwrite("wide", data) if first else project.storage.append("wide", data)


def compared(project: wiring.Project) -> object:
    changes.WIDE = 2
    return project.storage.diff("wide", before=0, after=1)


def queried(project: wiring.Project) -> int:
    """More rows to sort than the memory that DuckDB may take."""
    folder = project.home.parent / "spill"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": "40MB",
        "threads": 1,
        "temp_directory": str(folder),
    }
    with closing(duckdb.connect(config=settings)) as connection:
        query = Query(project.storage, connection)
        with query.told():
            sql = "select * from t, range(1000000) as r(x) order by hash(x)"
            return sum(batch.num_rows for batch in query.ask(sql).to_arrow_reader(100_000))


CASES = {
    "compare wide rows": Case(("storage.diff",), compared, prepare=wide, only_reads=True),
    "query": Case(("query",), queried, only_reads=True, leaves_files=True),
}
