"""Writers of a SQLite file take turns, so that none starves.

SQLite lets a waiting writer look now and then whether the file is free, up to 100 ms apart. Whoever writes
one unit after the other takes it again before anybody has looked, and of four such processes one may get
nothing. Here a writer that has waited for long holds up a sign (an exclusive lock on a file beside the
catalog), and nobody begins to write past a sign. Until then they take the file as it comes, which is cheap.
"""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE_S = 0.01
"""How long a writer waits before it holds up the sign."""
LOOK_EVERY_S = 0.0003
LOOK_SELDOM_S = 0.005
"""How often a waiting writer looks: at first, and when it has waited for long."""


class Turns:
    """One connection's part in the taking of turns: its own hold on the file that is the sign.

    Where that file cannot be (on a full disk, in a folder that is read only) there are no signs.
    """

    def __init__(self, catalog: Path) -> None:
        self._file: int | None = None
        with suppress(OSError):
            sign = catalog.with_name(catalog.name + ".turn")
            self._file = os.open(sign, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def begin(self, driver: Any, *, timeout_s: float) -> bool:
        """Begin to write on this connection as soon as it is our turn; false when it never was.

        The connection's own waiting is off meanwhile. What else is wrong with it is left for the caller's
        next statement to meet.
        """
        began, waited = time.monotonic(), 0.0
        is_ours = False  # the sign
        try:
            while waited < timeout_s:
                is_ours = is_ours or (waited > PATIENCE_S and self._hold(fcntl.LOCK_EX))
                if (is_ours or not self._is_somebodys()) and _began(driver):
                    return True
                pause = LOOK_EVERY_S if is_ours else min(LOOK_EVERY_S + waited / 20, LOOK_SELDOM_S)
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that they do not look in step
                waited = time.monotonic() - began
            return False
        finally:
            if is_ours:
                self._let_go()

    def _is_somebodys(self) -> bool:
        """Whether another holds up the sign: else we hold it for a moment, as all may who only look."""
        if not self._hold(fcntl.LOCK_SH):
            return True
        self._let_go()
        return False

    def _hold(self, how: int) -> bool:
        if self._file is not None:
            try:
                fcntl.flock(self._file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _let_go(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _began(driver: Any) -> bool:
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY
    return True
