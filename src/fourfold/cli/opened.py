"""The project that a command works on: opened when it is needed, closed when the command ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fourfold.core.services import Services


@contextlib.contextmanager
def services() -> Iterator[Services]:
    """The services of the present project: its folder's, or a server's when `FOURFOLD_URL` is set."""
    from fourfold import wiring

    opened = wiring.open_services()
    try:
        yield opened
    finally:
        close = getattr(opened, "close", None)
        if close is not None:
            close()


def home() -> Path:
    """The folder of the present project, whether it is there or not."""
    from fourfold import wiring

    return wiring.find_home(os.environ, Path.cwd())


def only_here(what: str) -> None:
    """Refuse what is done beside the project's files, not through a server."""
    if os.environ.get("FOURFOLD_URL"):
        from fourfold.core.errors import Refused

        raise Refused(
            f"FOURFOLD_URL names a server, and only who works on its machine can {what}",
            ways_on=["run it there, in the project's folder, with FOURFOLD_URL unset"],
        )


def parameters(texts: tuple[str, ...]) -> dict[str, str]:
    """`-p name=value` given several times, as texts by name."""
    from fourfold.core.errors import Refused

    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Refused(f"'{text}' is not a parameter", ways_on=["write -p name=value"])
        if name in found:
            raise Refused(f"parameter '{name}' is given twice")
        found[name.strip()] = value
    return found


def plain_parameters(texts: tuple[str, ...]) -> dict[str, Any]:
    """`-p name=value` where nothing says the type: JSON where it is JSON, else text.

    >>> plain_parameters(("n=3", "name=bob", "xs=[1,2]", 'quoted="3"'))
    {'n': 3, 'name': 'bob', 'xs': [1, 2], 'quoted': '3'}
    """
    import json

    def read(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: read(text) for name, text in parameters(texts).items()}


parameter_option = click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated."
)
