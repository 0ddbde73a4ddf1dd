"""The kernel that our notebooks run in: IPython's, with the ambient of the step that started it.

Started as `python -m fourfold.adapters.notebook_kernel -f CONNECTION_FILE`, so a notebook runs in the very
interpreter of its step and no kernel has to be installed. What cells read and write by version is
appended to `refs.jsonl` in the run's folder; the step that waits reports it as its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fourfold.core import context
from fourfold.core.context import Executing, Ref

FOLDER = "FOURFOLD_NOTEBOOK_FOLDER"


class NotebookAmbient:
    """Reports to a file what the cells read and write."""

    def __init__(self, given: Mapping[str, Any], report: Path) -> None:
        self._executing = Executing(**given["executing"])
        self._prefix = str(given["write_key"])
        self._report = report
        self._write_count = 0
        self._seen: set[tuple[str, Ref]] = set()

    @property
    def executing(self) -> Executing:
        return self._executing

    def record_read(self, ref: Ref) -> None:
        self._tell("read", ref)

    def record_write(self, ref: Ref) -> None:
        self._tell("write", ref)

    def write_key(self) -> str:
        self._write_count += 1
        return f"{self._prefix}/cell/{self._write_count}"

    def _tell(self, what: str, ref: Ref) -> None:
        if (what, ref) not in self._seen:
            self._seen.add((what, ref))
            with self._report.open("a") as file:
                file.write(json.dumps([what, ref.kind, ref.name, ref.version]) + "\n")


def main() -> None:
    from ipykernel import kernelapp

    with ExitStack() as stack:
        folder = os.environ.get(FOLDER)
        if folder is not None:
            given = json.loads((Path(folder) / "request.json").read_bytes()).get("ambient")
            if given is not None:
                stack.enter_context(context.within(NotebookAmbient(given, Path(folder) / "refs.jsonl")))
        kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
