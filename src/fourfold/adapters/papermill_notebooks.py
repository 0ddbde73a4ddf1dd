"""Executes notebooks with papermill, and writes their page: one file, no scripts, nothing fetched.

`python -m fourfold.adapters.papermill_notebooks FOLDER` executes what `core.ports.notebooks` describes.

We draw the page ourselves rather than through nbconvert's templates: those fetch scripts and styles from
elsewhere and keep the scripts of outputs. Every piece of HTML that a cell or a text made is cleaned, pictures
are kept as data, and the page forbids the browser to fetch anything, should something slip through.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.core import wire
from fourfold.core.errors import Missing
from fourfold.core.ports.notebooks import NotebookOutcome, NotebookRequest
from fourfold.core.workbench import CellFailure

KERNEL = "fourfold"
NEEDED = ("papermill", "nbconvert", "ipykernel", "bleach")
MOST_OUTPUT_CHARS = 400_000
"""One output's text on the page; the executed notebook keeps all of it."""


class PapermillNotebooks:
    """Fulfils the port `NotebookRunner`."""

    def command(self, folder: Path) -> tuple[str, ...]:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise Missing(
                f"running notebooks needs {', '.join(missing)}",
                ways_on=["install it: pip install 'fourfold[notebook]'"],
            )
        return (sys.executable, "-m", "fourfold.adapters.papermill_notebooks", str(folder))

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {
            # Nothing is read from or left in the user's own Jupyter folders.
            "JUPYTER_PATH": str(folder / "jupyter"),
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "IPYTHONDIR": str(folder / "ipython"),
            "FOURFOLD_NOTEBOOK_FOLDER": str(folder),
            "PYTHONPATH": ":".join(_own_paths()),
        }

    def page(self, notebook: bytes, *, title: str) -> bytes:
        return render(json.loads(notebook), title=title)


def execute(folder: Path) -> NotebookOutcome:
    """Execute the notebook of a prepared folder; how it went is also written there."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    request = wire.decode((folder / "request.json").read_bytes(), NotebookRequest, what="request.json")
    _install_kernel(folder)
    executed = folder / "executed.ipynb"
    failure: CellFailure | None = None
    try:
        papermill.execute_notebook(
            str(folder / "source.ipynb"),
            str(executed),
            parameters=dict(request.parameters),
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            cwd=request.cwd,
            execution_timeout=max(1, round(request.cell_timeout_s)),
            start_timeout=120,
        )
    except papermill.PapermillExecutionError as error:
        traceback = _plain("\n".join(error.traceback))
        failure = _failure(executed, error.ename, error.evalue, traceback, index=None)
    except CellTimeoutError:
        message = f"the cell ran longer than {request.cell_timeout_s:g} s"
        failure = _failure(executed, "CellTimeout", message, "", index=_last_started(executed))
    except DeadKernelError:
        message = "the kernel died while the cell ran: out of memory, or a crash in native code"
        failure = _failure(executed, "KernelDied", message, "", index=_last_started(executed))
    (folder / "page.html").write_bytes(render(_read(executed), title=request.title, failure=failure))
    outcome = NotebookOutcome(failure)
    (folder / "outcome.json").write_bytes(wire.encode(outcome))
    return outcome


def _install_kernel(folder: Path) -> None:
    spec = folder / "jupyter" / "kernels" / KERNEL
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "fourfold.adapters.notebook_kernel", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "Fourfold", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(kernel))


def _own_paths() -> list[str]:
    """Folders of `sys.path` that a new interpreter would not have by itself: the project's own code."""
    library = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return [entry for entry in sys.path if entry and Path(entry).is_dir() and not entry.startswith(library)]


def _read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_bytes())
    return notebook


def _failure(executed: Path, error: str, message: str, traceback: str, *, index: int | None) -> CellFailure:
    """The failure, with the cell's number in the notebook as it was before: 0 is the parameters' cell."""
    cells = _read(executed)["cells"]
    if index is None:
        index = next((i for i, cell in enumerate(cells) if _has_error(cell)), 0)
    ours = ("injected-parameters", "papermill-error-cell-tag")
    is_ours = [bool(set(ours) & set(cell.get("metadata", {}).get("tags", ()))) for cell in cells]
    number = 0 if is_ours[index] else index + 1 - sum(is_ours[:index])
    return CellFailure(number, _text(cells[index]["source"]), error, message, traceback)


def _has_error(cell: Mapping[str, Any]) -> bool:
    return any(output["output_type"] == "error" for output in cell.get("outputs", ()))


def _last_started(executed: Path) -> int:
    started = 0
    for index, cell in enumerate(_read(executed)["cells"]):
        if cell.get("metadata", {}).get("papermill", {}).get("start_time"):
            started = index
    return started


# The page.


def render(notebook: Mapping[str, Any], *, title: str, failure: CellFailure | None = None) -> bytes:
    """An executed notebook as one HTML file that needs and runs nothing."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]  # it ships no types

    body = [f"<h1>{html.escape(title)}</h1>"]
    if failure is not None:
        where = f"cell {failure.cell_number}" if failure.cell_number else "the parameters"
        said = html.escape(f"Failed in {where}: {failure.error}: {failure.message}")
        body.append(f"<p class=failure>{said}</p>")
    body += [_cell(cell) for cell in notebook["cells"] if not _is_marker(cell)]
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}\n{colours}</style></head>\n<body>\n"
    )
    return (page + "\n".join(body) + "\n</body></html>\n").encode()


STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; padding: .6rem .8rem; }
.code { background: #f6f8fa; border: 1px solid #e3e7ec; border-radius: 6px; margin: 1rem 0 .3rem; }
.injected { border-left: 3px solid #4c78a8; }
.output { margin: .2rem 0 .6rem; overflow-x: auto; }
.stderr { background: #fff6e5; }
.error, .failure { background: #fdecec; border-left: 3px solid #c0392b; }
.failure { padding: .6rem .8rem; }
.note { color: #66707c; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border-bottom: 1px solid #e3e7ec; padding: .25rem .6rem; text-align: right; }
img { max-width: 100%; }
""".strip()


def _is_marker(cell: Mapping[str, Any]) -> bool:
    return "papermill-error-cell-tag" in cell.get("metadata", {}).get("tags", ())


def _cell(cell: Mapping[str, Any]) -> str:
    source = _text(cell["source"])
    if cell["cell_type"] == "markdown":
        return f"<section>{_markdown(source)}</section>"
    if cell["cell_type"] != "code":
        return f"<pre>{html.escape(source)}</pre>"
    from pygments import highlight  # type: ignore[import-untyped]  # it ships no types
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    is_injected = "injected-parameters" in cell.get("metadata", {}).get("tags", ())
    code = highlight(source, PythonLexer(), HtmlFormatter()) if source.strip() else ""
    outputs = "".join(f"<div class=output>{_output(output)}</div>" for output in cell.get("outputs", ()))
    return f"<div class='code{' injected' if is_injected else ''}'>{code}</div>{outputs}"


def _output(output: Mapping[str, Any]) -> str:
    kind = output["output_type"]
    if kind == "stream":
        is_error = output.get("name") == "stderr"
        return f"<pre{' class=stderr' if is_error else ''}>{_bounded(_plain(_text(output['text'])))}</pre>"
    if kind == "error":
        return f"<pre class=error>{_bounded(_plain(chr(10).join(output['traceback'])))}</pre>"
    data = output.get("data", {})
    for picture in ("image/png", "image/jpeg", "image/gif"):
        if picture in data:
            encoded = re.sub(r"[^A-Za-z0-9+/=]", "", _text(data[picture]))
            return f'<img alt="" src="data:{picture};base64,{encoded}">'
    if "image/svg+xml" in data:  # as a picture, where its scripts do not run
        encoded = base64.b64encode(_text(data["image/svg+xml"]).encode()).decode()
        return f'<img alt="" src="data:image/svg+xml;base64,{encoded}">'
    if "text/html" in data and len(_text(data["text/html"])) <= MOST_OUTPUT_CHARS:
        return clean(_text(data["text/html"]))
    if "text/markdown" in data:
        return _markdown(_text(data["text/markdown"]))
    return f"<pre>{_bounded(_plain(_text(data.get('text/plain', ''))))}</pre>"


def _markdown(source: str) -> str:
    from nbconvert.filters import markdown2html

    return clean(markdown2html(source))


_TEXT = ("a", "abbr", "b", "br", "code", "del", "em", "i", "ins", "kbd", "mark", "q", "s", "samp", "small")
_MORE_TEXT = ("span", "strong", "sub", "sup", "u", "var", "img")
_BLOCKS = (
    "blockquote",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
)
_MORE_BLOCKS = ("summary", "ul", "h1", "h2", "h3", "h4", "h5", "h6")
_TABLES = ("caption", "col", "colgroup", "table", "tbody", "td", "tfoot", "th", "thead", "tr")
TAGS = frozenset((*_TEXT, *_MORE_TEXT, *_BLOCKS, *_MORE_BLOCKS, *_TABLES))
_DROPPED = ("script", "style", "svg", "math", "iframe", "object", "template", "noscript")
_OPENS = re.compile(rf"<({'|'.join(_DROPPED)})\b", re.IGNORECASE)
_CLOSES = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _DROPPED}


def clean(markup: str) -> str:
    """HTML without anything that runs or is fetched.

    >>> clean('<b onclick="x()">hi</b><script>alert(1)</script><img src="https://example.org/a.png">')
    '<b>hi</b><img>'
    """
    import bleach  # type: ignore[import-untyped]  # it ships no types

    def allowed(tag: str, name: str, value: str) -> bool:
        if name == "src":
            return tag == "img" and value.startswith("data:image/")
        if name == "href":
            return tag == "a" and value.startswith(("https://", "http://", "#", "mailto:"))
        return name in ("alt", "title", "colspan", "rowspan", "class")

    cleaned: str = bleach.clean(
        _without_dropped(markup),
        tags=TAGS,
        attributes=allowed,
        protocols={"http", "https", "mailto", "data"},
        strip=True,
    )
    return cleaned


def _without_dropped(markup: str) -> str:
    """The markup without the elements whose very text is not for people; one pass, whatever it holds."""
    kept, at = [], 0
    unclosed: set[str] = set()  # looked for once: else a text of nothing but openings costs its square
    for opening in _OPENS.finditer(markup):
        name = opening[1].lower()
        if opening.start() < at or name in unclosed:
            continue
        closing = _CLOSES[name].search(markup, opening.end())
        if closing is None:
            unclosed.add(name)
            continue
        kept.append(markup[at : opening.start()])
        at = closing.end()
    return "".join((*kept, markup[at:]))


def _bounded(text: str) -> str:
    if len(text) <= MOST_OUTPUT_CHARS:
        return html.escape(text)
    left_out = len(text) - MOST_OUTPUT_CHARS
    return (
        html.escape(text[:MOST_OUTPUT_CHARS]) + f"\n... {left_out} more characters are in the notebook itself"
    )


def _plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def _text(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
