"""The table of what each engine can do, as the documentation shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from fourfold.core.ports.engine import Capabilities

_TITLES = {
    "memory_limit": "memory limit",
    "time_limit": "time limit",
    "gpus": "GPUs",
    "survives_control_restart": "survives its control",
    "nodes_share_units": "nodes on one unit",
    "shares_files": "shares files",
}


def capability_table(engines: Mapping[str, Capabilities]) -> str:
    """A Markdown table, one row per engine.

    >>> able = Capabilities(True, "none", time_limit=True, gpus=False, survives_control_restart=True)
    >>> print(capability_table({"mine": able}).splitlines()[2][:46])
    | mine | yes | none | yes | no | yes | no | no
    """
    names = [field.name for field in fields(Capabilities)]
    head = ["engine", *(_TITLES.get(name, name) for name in names)]
    rows = [[name, *(_word(getattr(able, each)) for each in names)] for name, able in engines.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _word(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
