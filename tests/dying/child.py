"""The process that dies: forked from one that has imported everything, once for each case and step."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import closing
from pathlib import Path

from tests.dying import kernel
from tests.dying.case import Case
from tests.dying.line import Line
from tests.dying.world import masked, opened, told

from fourfold import wiring
from fourfold.core.errors import FourfoldError, OutOfSpace

DONE, FULL = "done", "full"


def attempt(case: Case, place: Path, project: wiring.Project | None) -> str:
    """Do what the case is about: `done`, `full`, or the words of a refusal."""
    try:
        case.verb(project or place)
    except OutOfSpace:
        return FULL
    except FourfoldError as error:
        return masked(f"{type(error).__name__}: {error}")
    return DONE


def lives(case: Case, place: Path, parent: socket.socket, *, goes_on: bool) -> None:
    """Tell the parent of each turn: ready, what came of the verb, and of the verb again."""
    listener = kernel.watched()
    try:
        socket.send_fds(parent, [b"."], [listener])
    finally:
        os.close(listener)  # so that nobody is waited for where the parent is gone
    line = Line(parent)
    if not case.needs_project:
        line.send("ready")
        line.send(attempt(case, place, None))
        return
    with closing(opened(place)) as project:
        case.warm(project)
        line.send("ready")
        line.send(attempt(case, place, project))
        if goes_on:
            line.receive()
            line.send((told(case, project), attempt(case, place, project), told(case, project)))


def main() -> None:
    """Fork a child for each request: which case, where, and by which socket it talks."""
    server = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.stdin.read().split():
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, descriptors, _, _ = socket.recv_fds(server, 4096, 1)
        if not request:
            return
        (descriptor,) = descriptors
        module, name, place, goes_on = request.decode().split("\0")
        process = os.fork()
        if process:
            os.close(descriptor)
            server.send(str(process).encode())
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        parent = socket.socket(fileno=descriptor)
        case = importlib.import_module(module).CASES[name]
        try:
            os.chdir(place)
            tempfile.tempdir = str(Path(place, "tmp"))
            lives(case, Path(place), parent, goes_on=goes_on == "True")
            os._exit(0)
        except BaseException:
            Line(parent).send(RuntimeError(traceback.format_exc()))
            os._exit(1)


if __name__ == "__main__":
    main()
