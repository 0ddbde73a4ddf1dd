"""Notebooks run with parameters, in a process of their own; what came out is kept, also of a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.papermill_notebooks import TAGS, PapermillNotebooks, _without_dropped, clean
from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Executing, Ref
from fourfold.core.errors import NotFound, Refused, TimedOut
from fourfold.core.workbench import NotebookFailed, NotebookState
from fourfold.foundation.compute.environments import Environments
from fourfold.foundation.compute.service import Compute
from fourfold.foundation.compute.units import find_unit
from fourfold.testing.clock import MovableClock
from fourfold.workbench.parameters import check_parameters, parameters_of, read_notebook
from fourfold.workbench.service import Workbench


def notebook(*sources: str, parameters: str = "") -> bytes:
    cells: list[dict[str, Any]] = []
    if parameters:
        cells.append(_code(parameters, ["parameters"]))
    for source in sources:
        is_text = source.startswith("#md ")
        cells.append(
            {"cell_type": "markdown", "metadata": {}, "source": source[4:], "id": f"c{len(cells)}"}
            if is_text
            else _code(source, [], f"c{len(cells)}")
        )
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def _code(source: str, tags: list[str], cell_id: str = "p") -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": cell_id,
        "metadata": {"tags": tags},
        "outputs": [],
        "source": source,
    }


@dataclass
class Bench:
    """A workbench and what it stands on."""

    workbench: Workbench
    compute: Compute
    blobs: LocalBlobs
    project: Path

    def write(self, name: str, data: bytes) -> str:
        (self.project / name).write_bytes(data)
        return name

    def left_behind(self) -> list[Path]:
        return list((self.project / ".fourfold" / "notebooks").glob("nb_*"))


@pytest.fixture
def bench(sqlite_catalog: Catalog, home: Path, clock: MovableClock) -> Iterator[Bench]:
    engine = LocalEngine(home / "jobs", unit=find_unit())
    blobs = LocalBlobs(home / "blobs")
    compute = Compute(sqlite_catalog, clock, home=home, environments=Environments(home))
    workbench = Workbench(
        sqlite_catalog,
        blobs,
        clock,
        home=home,
        engine=engine,
        notebooks=PapermillNotebooks(),
        compute=compute,
    )
    yield Bench(workbench, compute, blobs, home.parent)
    engine.close()


class StepAmbient:
    def __init__(self) -> None:
        self.executing = Executing("flow_1", "report#1", 1, "code", "env-of-the-step")
        self.reads: list[Ref] = []
        self.writes: list[Ref] = []

    def record_read(self, ref: Ref) -> None:
        self.reads.append(ref)

    def record_write(self, ref: Ref) -> None:
        self.writes.append(ref)

    def write_key(self) -> str:
        return "flow_1/report#1:1"


def tags_of(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Every tag of a page as a browser reads it."""
    found: list[tuple[str, list[tuple[str, str | None]]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, attrs))

    Reader().feed(page)
    return found


PARAMETERS = "day = '2013-01-01'  # which day\nlimit: float = 0.5\ncount = 3\n"


@pytest.mark.slow
def test_a_notebook_runs_in_a_step_with_its_parameters_and_lineage(bench: Bench) -> None:
    path = bench.write(
        "report.ipynb",
        notebook(
            "#md # Report <script>alert(1)</script> ![far](https://example.org/far.png)",
            "print('day', day, 'limit', limit)",
            "from fourfold.core import context\n"
            "context.record_read(context.Ref('table', 'flights', '7'))\n"
            "context.record_read(context.Ref('table', 'flights', '7'))\n"
            "print(context.write_key(), context.ambient().executing.flow_run)",
            "from IPython.display import HTML, SVG, display\n"
            "display(HTML('<table><tr><td onclick=\"x()\">cell</td></tr></table><script>bad()</script>'))\n"
            "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><script>bad()</script></svg>'))",
            "import fourfold, sys; print(sys.executable)",
            parameters=PARAMETERS,
        ),
    )
    ambient = StepAmbient()
    with context.within(ambient):
        run = bench.workbench.run_notebook(path, {"day": "2013-06-01", "limit": 1}, name="daily")
        again = bench.workbench.run_notebook(path, {"day": "2013-06-01", "limit": 1}, name="daily")
    assert again == run  # the same write of the same step: done once
    assert (run.state, run.name, run.path) == (NotebookState.succeeded, "daily", "report.ipynb")
    assert (run.flow_run, run.environment) == ("flow_1", "env-of-the-step")
    assert Ref("table", "flights", "7") in ambient.reads
    assert Ref("blob", run.source_digest) in ambient.reads
    assert {Ref("blob", run.html_digest), Ref("blob", run.notebook_digest)} <= set(ambient.writes)

    executed = bench.workbench.notebook_file(run.id).decode()
    assert "day 2013-06-01 limit 1" in executed
    assert "flow_1/report#1:1/cell/1 flow_1" in executed
    page = bench.workbench.notebook_html(run.id).decode()
    assert "day 2013-06-01 limit 1" in page
    assert "<td>cell</td>" in page
    tags = tags_of(page)
    assert not {"script", "svg", "iframe", "link", "form"} & {tag for tag, _ in tags}
    names = [(name, value) for _, attributes in tags for name, value in attributes]
    assert not [name for name, _ in names if name.startswith("on")]
    assert all((value or "").startswith("data:image/") for name, value in names if name in ("src", "srcset"))
    assert "default-src 'none'" in page

    assert bench.workbench.notebook_runs("daily") == (run,)
    assert bench.workbench.notebook_run(run.id) == run
    job = bench.compute.job(run.id)
    assert (job.report.kind, job.report.flow_run) == ("notebook", "flow_1")
    assert job.account.cost_nanousd == 0  # the step pays for the core
    assert (job.report.usage.cpu_s or 0) > 0.1
    assert bench.left_behind() == []


@pytest.mark.slow
def test_a_failing_cell_is_named_and_what_was_done_is_kept(bench: Bench) -> None:
    path = bench.write(
        "bad.ipynb",
        notebook("print('before')", "#md text", "x = 1\nx / 0", "print('after')", parameters=PARAMETERS),
    )
    with pytest.raises(NotebookFailed) as failed:
        bench.workbench.run_notebook(path, {"count": 4})
    text = str(failed.value)
    assert "notebook 'bad' failed in cell 4: ZeroDivisionError: division by zero" in text
    assert "x / 0" in text
    run = bench.workbench.notebook_run(str(failed.value.facts["notebook_run"]))
    assert run.state is NotebookState.failed
    assert run.failure is not None
    assert (run.failure.cell_number, run.failure.error) == (4, "ZeroDivisionError")
    assert "\x1b" not in run.failure.traceback
    assert b"before" in bench.workbench.notebook_file(run.id)
    assert b"ZeroDivisionError" in bench.workbench.notebook_html(run.id)


@pytest.mark.slow
def test_a_cell_that_runs_too_long_and_a_kernel_that_dies_are_named(bench: Bench) -> None:
    slow = bench.write("slow.ipynb", notebook("print('here')", "import time; time.sleep(600)"))
    with pytest.raises(NotebookFailed, match=r"failed in cell 2: CellTimeout: the cell ran longer than 1 s"):
        bench.workbench.run_notebook(slow, cell_timeout_s=1)
    dead = bench.write("dead.ipynb", notebook("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(NotebookFailed, match=r"failed in cell 1: KernelDied"):
        bench.workbench.run_notebook(dead)


@pytest.mark.slow
def test_a_notebook_over_its_time_is_ended_and_kept_as_far_as_it_came(bench: Bench) -> None:
    path = bench.write("long.ipynb", notebook("print('far')", "import time; time.sleep(600)"))
    with pytest.raises(TimedOut, match="longer than 6 s") as failed:
        bench.workbench.run_notebook(path, timeout_s=6)
    run = bench.workbench.notebook_run(str(failed.value.facts["notebook_run"]))
    assert run.state is NotebookState.failed
    assert bench.workbench.notebook_html(run.id)
    assert bench.left_behind() == []


def test_wrong_parameters_are_refused_before_anything_starts(bench: Bench) -> None:
    path = bench.write("report.ipynb", notebook("1", parameters=PARAMETERS))
    for given, complaint in (
        ({"dya": "2013"}, "did you mean 'day'"),
        ({"count": "three"}, "takes int, not str"),
        ({"count": True}, "takes int, not bool"),
        ({"limit": "much"}, "takes float, not str"),
    ):
        with pytest.raises(Refused, match=complaint):
            bench.workbench.run_notebook(path, given)
    plain = bench.write("plain.ipynb", notebook("1"))
    with pytest.raises(Refused, match="takes no parameters"):
        bench.workbench.run_notebook(plain, {"day": "x"})
    assert bench.workbench.notebook_runs() == ()


def test_paths_outside_the_project_and_other_files_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.project)
    for path in ("../../etc/passwd", "/etc/passwd", "sub/../../outside.ipynb"):
        with pytest.raises(Refused, match="outside the project"):
            bench.workbench.run_notebook(path)
    (bench.project / "link.ipynb").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="outside the project"):
        bench.workbench.run_notebook("link.ipynb")
    bench.write("report.ipynb", notebook("1"))
    with pytest.raises(NotFound, match=r"did you mean 'report\.ipynb'"):
        bench.workbench.run_notebook("raport.ipynb")
    bench.write("text.txt", b"hello")
    with pytest.raises(Refused, match=r"ends with .ipynb"):
        bench.workbench.run_notebook("text.txt")
    with pytest.raises(Refused, match="the character NUL"):
        bench.workbench.run_notebook("a\0b.ipynb")
    broken = (
        b"not json",
        b"[]",
        b'{"cells": [{}]}',
        b'{"cells": ["source and cell_type"]}',
        b'{"cells": [{"cell_type": "code", "source": 3}]}',
        b'{"cells": [{"cell_type": "code", "source": "", "metadata": {"tags": 3}}]}',
        b'{"cells": [], "metadata": []}',
        b'{"cells": [], "metadata": {"kernelspec": {"language": 3}}}',
        b'{"cells":' * 100_000,
        b"\xff\xfe",
    )
    for data in broken:
        with pytest.raises(Refused, match="is not a notebook"):
            bench.workbench.run_notebook(bench.write("broken.ipynb", data))


def test_a_folder_that_another_run_has_just_removed_stops_nobody(bench: Bench) -> None:
    scratch = bench.project / ".fourfold" / "notebooks"
    scratch.mkdir(parents=True)
    (scratch / "nb_gone").symlink_to(scratch / "removed")  # listed, and not there when it is opened
    with bench.workbench._scratch("nb_new") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_parameters_are_read_with_defaults_kinds_and_remarks() -> None:
    data = read_notebook(notebook(parameters=PARAMETERS + "nothing = None\nmany = [1, 2]\n"), what="x")
    found = parameters_of(data, what="x")
    assert [(p.name, p.default, p.kind, p.help) for p in found] == [
        ("day", "'2013-01-01'", "str", "which day"),
        ("limit", "0.5", "float", ""),
        ("count", "3", "int", ""),
        ("nothing", "None", "", ""),
        ("many", "[1, 2]", "list", ""),
    ]
    assert check_parameters({"nothing": 3, "limit": 2, "many": [1]}, found, what="x")["limit"] == 2
    with pytest.raises(Refused, match="not Python"):
        parameters_of(read_notebook(notebook(parameters="day = "), what="x"), what="x")
    other = json.loads(notebook("1"))
    other["metadata"] = {"kernelspec": {"language": "R"}}
    with pytest.raises(Refused, match="written in R"):
        read_notebook(json.dumps(other).encode(), what="x")


@pytest.mark.parametrize(
    "attack",
    [
        "<script>bad()</script>",
        "<SCRIPT\n>bad()</script\n>",
        "<img src=x onerror=bad()>",
        "<a href='javascript:bad()'>x</a>",
        "<svg onload=bad()></svg>",
        "<iframe src='https://example.org'></iframe>",
        "<img src='https://example.org/x.png'>",
        "<link rel=stylesheet href=https://example.org/x.css>",
        "<div style='background:url(https://example.org/x.png)'>x</div>",
        "<scr<script>ipt>bad()</scr</script>ipt>",
        "<img src='data:text/html,<script>bad()</script>'>",
        "<form action=https://example.org><input></form>",
        "<meta http-equiv=refresh content='0;url=https://example.org'>",
    ],
)
def test_the_page_keeps_nothing_that_runs_or_fetches(attack: str) -> None:
    tags = tags_of(clean(attack))
    assert {tag for tag, _ in tags} <= TAGS
    for _, attributes in tags:
        for name, value in attributes:
            assert name in ("src", "href", "alt", "title", "class", "colspan", "rowspan")
            assert name != "src" or (value or "").startswith("data:image/")
            assert name != "href" or not (value or "").startswith("javascript:")


def test_a_text_of_nothing_but_openings_is_cleaned_in_one_pass() -> None:
    # Searching the whole rest for each of them took hours for a megabyte; here it would be minutes.
    assert _without_dropped("<script" * 50_000) == "<script" * 50_000
    assert _without_dropped("a<style>b<script>c</style>d</script>e<svg>f") == "ad</script>e<svg>f"
