"""`fourfold init`: a project in a folder."""

from __future__ import annotations

from pathlib import Path

import click

_SETTINGS = """\
# What this project is made of. Everything has a default; `fourfold doctor` shows what holds.
project = "{name}"

# Each part is an address; without one, it lives in .fourfold/.
# catalog = "postgresql+psycopg://user@host/database"

[pools.local]
engine = "local://"
price_usd_per_hour = 0.10
"""

_FLOW = '''\
"""A first flow. Run it:  fourfold flow run flow.py -p count=5"""

import fourfold as ff


@ff.step(cpu=1, retries=2)
def square(n: int) -> int:
    return n * n


@ff.flow
def squares(count: int = 3) -> int:
    return sum(f.result() for f in [square(n) for n in range(count)])


if __name__ == "__main__":
    print(squares.run())
'''


@click.command(name="init")
@click.argument("folder", default=".", type=click.Path(file_okay=False))
def command(folder: str) -> None:
    """Make a project in FOLDER: its settings, a first flow, and the folder that holds its state."""
    from fourfold.cli.output import note

    root = Path(folder).resolve()
    (root / ".fourfold").mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in (
        ("fourfold.toml", _SETTINGS.format(name=_toml_name(root.name))),
        ("flow.py", _FLOW),
        (".fourfold/.gitignore", "*\n"),
    ):
        path = root / name
        if path.exists():
            note(f"  kept {name}")
        else:
            path.write_text(text)
            note(f"  made {name}")
    note(f"project '{root.name}' is ready; next: fourfold flow run {Path(folder) / 'flow.py'}")


def _toml_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name) or "default"
