"""The command itself: what it answers to a wrong line, to what is refused, and to a reader that leaves."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fourfold.cli.main import NOUNS, root
from fourfold.core.errors import Unavailable

from .conftest import Fourfold

FOURFOLD = [sys.executable, "-c", "from fourfold.cli.main import main; main()"]


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


ALL = dict(commands(root))


def test_help_names_every_noun(fourfold: Fourfold) -> None:
    ran = fourfold("--help")
    assert ran.code == 0
    for noun, says in NOUNS.items():
        assert noun in ran.out
        assert says in ran.out


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_every_command_explains_itself(fourfold: Fourfold, path: tuple[str, ...]) -> None:
    ran = fourfold(*path, "--help")
    assert ran.code == 0
    assert ALL[path].help
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.opts[0] in ran.out


def test_a_noun_says_in_the_list_what_it_says_itself() -> None:
    context = click.Context(root)
    for noun, says in NOUNS.items():
        command = root.get_command(context, noun)
        assert command is not None
        if isinstance(command, click.Group):
            assert (command.help or "").splitlines()[0] == says


def test_every_listing_speaks_json_too() -> None:
    for path, command in ALL.items():
        if path[-1] in {"ls", "show", "history", "audit", "schedules", "events", "doctor", "why"}:
            options = [o for o in command.params if isinstance(o, click.Option) and "--output" in o.opts]
            assert options, path
            kinds = options[0].type
            assert isinstance(kinds, click.Choice)
            assert list(kinds.choices) == ["table", "json", "jsonl"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tabel ls", "Did you mean 'table'?"),
        ("table lst", "Did you mean 'ls'?"),
        ("table show", "Missing argument 'NAME'"),
        ("table ls --outptu json", "Did you mean '--output'?"),
        ("table ls -o xml", "'xml' is not one of 'table', 'json', 'jsonl'"),
        ("cron next @daily --count 0", "0 is not in the range"),
    ],
)
def test_a_line_that_is_no_command_is_2_and_names_what_was_meant(
    fourfold: Fourfold, line: str, says: str
) -> None:
    ran = fourfold(*line.split())
    assert ran.code == 2
    assert says in ran.err
    assert ran.out == ""


def test_every_command_that_a_text_names_is_there() -> None:
    """Errors and pages say what to do next: `fourfold noun verb`."""
    verbs: dict[str, set[str]] = {}
    for path, _ in commands(root):
        verbs.setdefault(path[0], set()).update(path[1:])
    house = Path(__file__).parents[2]
    texts = [*house.glob("src/**/*.py"), *house.glob("docs/**/*.md"), *house.glob("examples/**/*.md")]
    wrong = []
    for file in (*texts, house / "README.md"):
        # A word with a colon is a thing (`fourfold lineage table:flights`), no verb.
        for told in re.finditer(r"(: |`|\()?(?:fourfold|ff) ([a-z]+)(?: ([a-z]+)\b(?!:))?", file.read_text()):
            start, noun, verb = told.groups()
            if noun in verbs:
                is_there = not verb or not verbs[noun] or verb in verbs[noun]
            else:
                is_there = not start or noun == "is"  # words of a sentence
            if not is_there:
                wrong.append(f"{file.relative_to(house)}: {told[0]}")
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("table show nope", "error: table 'nope' does not exist"),
        ("flow show run_nope", "error: there is no flow run 'run_nope'"),
        ("flow run nope.py", "error: there is no file"),
        ("model show nope", "error: model 'nope' does not exist"),
        ("run show nope", "error: "),
        ("lineage flights", "error: 'flights' names no thing"),
        ("endpoint predict nope -p x", "error: 'x' is not a parameter"),
        ("token new bob --for never", "error: "),
        ("job show nope", "error: "),
        ("job advise nope", "error: no step 'nope' is on record"),
    ],
)
def test_what_is_refused_is_1_with_words_and_no_output(
    fourfold: Fourfold, bare: Path, line: str, says: str
) -> None:
    ran = fourfold(*line.split())
    assert ran.code == 1
    assert ran.err.startswith(says)
    assert ran.out == ""


def test_a_project_may_be_named(fourfold: Fourfold, empty: Path, tmp_path: Path) -> None:
    assert fourfold("init", str(tmp_path / "other")).code == 0
    ran = fourfold("--project", str(tmp_path / "other"), "token", "owner")
    assert ran.out.strip() == (tmp_path / "other/.fourfold/token").read_text().strip()


# Errors that are no defects of ours


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fourfold.wiring.open_services", fail)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            "error: Permission denied: /x/y\n  see who",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device\n  free some space",
        ),
        (
            Unavailable("the server does not answer", ways_on=["is it up?"]),
            "error: the server does not answer\n  is",
        ),
    ],
)
def test_what_the_machine_refuses_is_told_in_words(
    fourfold: Fourfold, empty: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    failing(monkeypatch, error)
    ran = fourfold("table", "ls")
    assert ran.code == 1
    assert ran.err.startswith(says)


def test_a_defect_says_how_to_see_where(
    fourfold: Fourfold, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ZeroDivisionError("first line\nsecond line"))
    ran = fourfold("table", "ls")
    assert ran.code == 1
    assert ran.err == (
        "error: this met a defect: ZeroDivisionError: first line\n"
        "  see where: fourfold --debug table ls\n"
        "  and please report it\n"
    )
    monkeypatch.setenv("FOURFOLD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        fourfold("table", "ls")


def test_an_interruption_is_130_and_one_word(
    fourfold: Fourfold, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    ran = fourfold("table", "ls")
    assert ran.code == 130
    assert ran.err.strip() == "interrupted"


def test_a_reader_that_has_enough_is_no_error() -> None:
    with subprocess.Popen(
        [*FOURFOLD, "cron", "next", "* * * * *", "--count", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told_in_words(
    fourfold: Fourfold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("FOURFOLD_HOME", str(tmp_path / ".fourfold"))
    ran = fourfold("table", "ls")
    assert ran.code == 1
    assert "cannot be used: Permission denied" in ran.err
