"""Runs on the cluster, with Ray Data: maps a function over the batches that lie as files in a folder.

    python data.py FOLDER COUNT

Each batch is a file `in.NUMBER`, each result `out.NUMBER`; what a function raised is in `failed.NUMBER`.
Batches stay files, so that Arrow's types and the caller's batches stay as they are.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle


def mapped(folder: str, number: int) -> None:
    """Map one batch; a result is there whole or not at all."""
    name = f"{number:08d}"
    try:
        with open(os.path.join(folder, "function"), "rb") as file:
            # The function was pickled by cloudpickle itself, whose name it cites; Ray has its own copy.
            sys.modules.setdefault("cloudpickle", cloudpickle)
            sys.modules.setdefault("cloudpickle.cloudpickle", cloudpickle.cloudpickle)
            fn = cloudpickle.load(file)
        with pa.OSFile(os.path.join(folder, f"in.{name}"), "rb") as source:
            result = fn(pa.ipc.open_stream(source).read_all())
        if isinstance(result, pa.RecordBatch):
            result = pa.Table.from_batches([result])
        if not isinstance(result, pa.Table):
            raise TypeError(
                f"the function returned a {type(result).__name__}; it has to return a pyarrow Table"
            )
        path = os.path.join(folder, f"out.{name}")
        with pa.OSFile(path + ".new", "wb") as sink, pa.ipc.new_stream(sink, result.schema) as writer:
            writer.write_table(result)
        os.rename(path + ".new", path)
    except Exception:
        path = os.path.join(folder, f"failed.{name}")
        with open(path + ".new", "w") as file:
            file.write(traceback.format_exc(limit=-8))
        os.rename(path + ".new", path)  # the caller reads in order, and comes to it after those before it


def main() -> None:
    folder, count = sys.argv[1], int(sys.argv[2])
    ray.init(log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.max_errored_blocks = 0

    def one(row: dict[str, Any]) -> dict[str, Any]:
        mapped(folder, int(row["id"]))
        return row

    for _ in ray.data.range(count, override_num_blocks=count).map(one).iter_rows():
        pass


if __name__ == "__main__":
    main()
