"""`fourfold NOUN VERB`: the table of nouns, and how errors are told.

Nothing is imported until a noun is asked for, so that `fourfold --help` costs little more than click.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

NOUNS: dict[str, str] = {
    "init": "Make a project here.",
    "up": "Start the server: API, loop, schedules, gateway.",
    "flow": "Run, follow, cancel, resume and deploy flows.",
    "why": "Say why a run, a call or a job is where it is.",
    "cron": "Schedules of deployed flows, and when a cron line fires.",
    "job": "What ran, what it used, what it cost.",
    "service": "Commands that are kept running.",
    "unit": "What jobs run on, and how fast it is.",
    "pool": "Where steps run, what that costs, how much is busy.",
    "table": "Versioned tables.",
    "dataset": "Named, versioned bundles of tables and files.",
    "files": "Versioned folders of files.",
    "storage": "Check what is stored, and remove what nobody needs.",
    "feature": "Features: views, services, audit, explanation.",
    "run": "Experiment runs: metrics, params, files.",
    "model": "Model versions and their aliases.",
    "endpoint": "Endpoints that answer predictions.",
    "notebook": "Run notebooks with parameters.",
    "env": "The environment that code runs in.",
    "lineage": "What a thing was made from, or went into.",
    "project": "What the project is called; carry it to another installation.",
    "backup": "Back the project up, and verify backups.",
    "restore": "Bring a project back from a backup.",
    "token": "Tokens with roles, for people and programs.",
    "audit": "Who did what.",
    "doctor": "Check this machine and this project.",
    "version": "The version of Fourfold.",
}
"""Every noun with its line of help; the noun's commands are in the module of the same name."""

FAILURE, INTERRUPTED = 1, 130
"""Exit codes: it was refused or could not be done; the user stopped it. A line that is no command is 2."""


MOST_COLUMNS = 110


class Nouns(click.Group):
    """A group whose commands are modules, loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"fourfold.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in NOUNS and not args[0].startswith("-"):
            ctx.fail(f"there is no noun '{args[0]}'.{_near(args[0], NOUNS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Nouns"):
            formatter.write_dl(list(NOUNS.items()))


@click.group(
    cls=Nouns,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every noun explains itself: fourfold NOUN --help.",
)
@click.option(
    "--project",
    metavar="FOLDER",
    help="The project: the folder that holds .fourfold [default: found from here, or FOURFOLD_HOME].",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def root(project: str | None, debug: bool) -> None:
    """The four layers of ML infrastructure: storage and compute, flows, models and features, workbench."""
    if project is not None:
        os.environ["FOURFOLD_HOME"] = os.path.join(os.path.abspath(project), ".fourfold")
    if debug:
        os.environ["FOURFOLD_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `fourfold` and `ff`."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Carry out one command line; its exit code."""
    try:
        result = root.main(arguments, prog_name="fourfold", standalone_mode=False, terminal_width=_width())
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except SystemExit:
        # Only click exits by itself, and only when the reader (`head`, `less`) has enough.
        return 0
    except Exception as error:
        if os.environ.get("FOURFOLD_DEBUG"):
            raise
        _say(_explained(error, arguments))
        return FAILURE


def _width() -> int:
    """The width of help. Told to click, which would import `shutil` to ask: a tenth of what help costs."""
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns
    except (OSError, ValueError):
        columns = 80
    return max(50, min(columns, MOST_COLUMNS) - 2)


def _explained(error: Exception, arguments: list[str]) -> str:
    """What happened, to which thing, and what to do next; never a traceback."""
    from fourfold.core.errors import FourfoldError

    if isinstance(error, FourfoldError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.errno in _SURROUNDINGS:
        told = f"error: {error.strerror or type(error).__name__}"
        if error.filename is not None:
            told += f": {error.filename}"
        return f"{told}\n  {_SURROUNDINGS[error.errno]}"
    again = " ".join(["fourfold --debug", *arguments])
    return (
        f"error: this met a defect: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}\n"
        f"  see where: {again}\n"
        "  and please report it"
    )


_SURROUNDINGS = {
    errno.EACCES: "see who may use it: ls -ld, and id",
    errno.EPERM: "see who may use it: ls -ld, and id",
    errno.ENOENT: "is the path right?",
    errno.ENOTDIR: "is the path right?",
    errno.EISDIR: "name a file, not a folder",
    errno.EROFS: "it is mounted read-only",
    errno.ENOSPC: "free some space and go on: what was there before is unharmed",
    errno.EDQUOT: "free some space and go on: what was there before is unharmed",
    errno.EIO: "the disk or the network under it has failed",
    errno.EMFILE: "raise the limit: ulimit -n 4096",
}
"""What the machine refuses is no defect of ours: the error number, and what to do."""


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def _near(name: str, known: Any) -> str:
    import difflib

    matches = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{matches[0]}'?" if matches else " See: fourfold --help"


class Verbs(click.Group):
    """A noun's verbs, with the nearest one named when one is not known."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            noun = ctx.info_name
            ctx.fail(f"{noun} has no verb '{args[0]}'.{_near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
