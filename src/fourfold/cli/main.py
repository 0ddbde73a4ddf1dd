"""`fourfold NOUN VERB`: the table of nouns, and how errors are told.

Nothing is imported until a noun is asked for, so that `fourfold --help` costs little more than click.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

NOUNS: dict[str, str] = {
    "init": "Make a project here.",
    "up": "Start the server: API, loop, schedules, gateway.",
    "flow": "Run, follow, cancel, resume and schedule flows.",
    "why": "Say why a run, a call or a job is where it is.",
    "cron": "Say when a cron line fires.",
    "job": "What ran, what it used, what it cost.",
    "unit": "What jobs run on, and how fast it is.",
    "table": "Versioned tables.",
    "feature": "Features: views, services, audit, explanation.",
    "run": "Experiment runs: metrics, params, files.",
    "model": "Model versions and their aliases.",
    "endpoint": "Endpoints that answer predictions.",
    "notebook": "Run notebooks with parameters.",
    "env": "The environment that code runs in.",
    "lineage": "What a thing was made from, or went into.",
    "token": "Tokens with roles, for people and programs.",
    "audit": "Who did what.",
    "doctor": "Check this machine and this project.",
    "version": "The version of Fourfold.",
}
"""Every noun with its line of help; the noun's commands are in the module of the same name."""

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit codes: what was asked cannot be; it could not be done; the user stopped it."""

_MISTAKES = frozenset({"refused", "not_found", "already_exists", "denied", "unauthenticated", "missing"})


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
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
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
        result = root.main(arguments, prog_name="fourfold", standalone_mode=False)
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
    except BrokenPipeError:
        # The reader (`head`, `less`) has enough. Keep Python from complaining while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("FOURFOLD_DEBUG"):
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """What happened, to which thing, and what to do next; never a traceback."""
    from fourfold.core.errors import FourfoldError

    if isinstance(error, FourfoldError):
        _say(f"error: {error}")
        return MISTAKE if error.code in _MISTAKES else FAILURE
    again = "fourfold --debug " + " ".join(sys.argv[1:])
    _say(
        f"error: this met a defect: {type(error).__name__}: {error}\n"
        f"  see where: {again}\n"
        "  and please report it"
    )
    return FAILURE


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _near(name: str, known: Any) -> str:
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
