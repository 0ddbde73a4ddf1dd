"""`python -m examples.flights`: run the flow, show how it goes, and say where the report is."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date

from examples.flights.flow import flights

from fourfold.core.errors import FourfoldError

DAY_FROM, DAY_TO = date(2013, 4, 1), date(2013, 12, 30)


def main(arguments: list[str] | None = None) -> int:
    """Run with what is given; what is left out keeps the flow's defaults."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=flights.__doc__)
    parser.add_argument("--day", type=_day, help=f"the live day, from {DAY_FROM} to {DAY_TO}")
    parser.add_argument("--leaves", type=_leaves, help="sizes of the trees to try, such as 15,31")
    parser.add_argument("--rounds", type=_count, help="how many trees each model has")
    parser.add_argument("--late-after-min", type=_count, help="from how many minutes on an arrival is late")
    parser.add_argument(
        "--quick", action="store_true", help="only days up to the live one, and few flights of it"
    )
    parser.add_argument("--out", help="the folder for the report")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value}
    began = time.monotonic()
    try:
        page = flights.run(show=True, **given)
    except FourfoldError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"\nDone in {time.monotonic() - began:.0f} s. The report:  {page}\n"
        "The server, with its API and the endpoint:  .venv/bin/fourfold up"
    )
    return 0


def _leaves(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: write whole numbers from 2 on, such as 15,31")
    return found


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from 1 on")
    return int(text)


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day: write it like 2013-12-02") from error
    if not DAY_FROM <= day <= DAY_TO:
        raise argparse.ArgumentTypeError(f"the live day lies between {DAY_FROM} and {DAY_TO}")
    return day


if __name__ == "__main__":
    sys.exit(main())
