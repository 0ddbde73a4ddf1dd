"""The old data that a release leaves behind: a small project with something in every room.

    python tools/old_data.py REVISION

Run it by the Python of a clone of the release, set up by `make .stamps/dev`; REVISION is its newest
migration. It makes the project in a folder of its own, fills it through the doors that a user has, and writes
`tests/catalog/old/REVISION.sql` (the catalog as text) and `REVISION.zip` (blobs, tables, the online store).
`tests/catalog/test_old_data.py` opens both with the code of today, on every database.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "catalog" / "old"
FILES = ("blobs/**/*", "tables/**/*", "online/data.mdb", "catalog.buffer.db*")
FOURFOLD = ["-c", "from fourfold.cli.main import main; main()"]

PROJECT = """\
import datetime as dt

import pyarrow as pa
from sklearn.linear_model import LogisticRegression

import fourfold as ff
from fourfold import features as fs
from fourfold.core.routes import Role
from fourfold.wiring import open_project

START = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
origin = fs.Entity("origin", key="origin")
departures = fs.Source(
    "departures", table="departures", time="at", available_at="known_at", event_id="flight"
)


@fs.view(entity=origin, source=departures, owner="ops")
class Delays:
    last = fs.latest("delay")
    left = fs.count(over="1h")


service = fs.FeatureService("delays", [Delays])


def flights(first: int, count: int) -> pa.Table:
    at = [START + dt.timedelta(minutes=first + n) for n in range(count)]
    return pa.table({
        "flight": list(range(first, first + count)),
        "origin": ["JFK" if n % 2 else "LGA" for n in range(count)],
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "known_at": pa.array(at, pa.timestamp("us", "UTC")),
        "delay": [float(7 * n % 31) for n in range(count)],
    })


def featurize(rows: pa.Table) -> pa.Table:
    return rows.select(["delay"])


def predict(model: LogisticRegression, features: pa.Table) -> pa.Table:
    return pa.table({"late": model.predict_proba(features.to_pandas())[:, 1]})


@ff.step(cache=True)
def clean(rows: int) -> ff.TableVersion:
    return ff.table("clean").append(ff.table("raw").read().slice(0, rows))


@ff.step
def train(data: ff.TableVersion) -> ff.ModelVersion:
    rows = ff.table("clean").version(data.version).read()
    late = [delay > 15 for delay in rows["delay"].to_pylist()]
    with ff.run("first", params={"depth": 3, "kind": "logistic"}, data=[data]) as run:
        for step in range(3):
            run.log(loss=1.0 / (step + 1), step=step)
        run.log(auc=0.75, worst=float("inf"))
        return run.save(
            LogisticRegression().fit(rows.select(["delay"]).to_pandas(), late),
            name="delays", featurize=featurize, predict=predict, example=rows.select(["delay"]).slice(0, 3),
            card="Will it be late?", tags={"team": "ops"},
        )


@ff.flow(schedule=ff.cron("0 3 * * *"))
def nightly(rows: int = 12) -> str:
    return str(train(clean(rows)).result())


def fill() -> None:
    raw = ff.table("raw")
    raw.append(flights(0, 20))
    raw.append(flights(20, 4))
    raw.version(0).tag("reviewed", why="looked at")
    raw.tag("reviewed", why="looked at again")
    ff.table("parts").append(flights(0, 6), partition_by=["origin"])
    ff.table("parts").overwrite(flights(50, 1), where={"origin": "LGA"})
    ff.table("departures").append(flights(0, 8))
    ff.table("gone").append(flights(0, 1))
    raw.branch("dev/try-1").begin()
    ff.table("raw@dev/try-1").append(flights(90, 1))
    ff.table("events").insert(pa.table({"n": [1, 2]}))  # these wait in the buffer
    nightly.run(rows=12)
    nightly.run(rows=12)  # the cached step
    model = ff.model("delays")
    model.promote(1, "champion", why="the first one")
    model.protect("champion")
    with ff.deploy("delays@champion", name="late") as endpoint:
        endpoint.predict({"delay": 20.0})
    fs.apply(service)
    fs.materialize()
    fs.push("departures", flights(100, 2))
    fs.training_set(service, flights(30, 4).select(["origin", "at"]))
    fs.push("departures", flights(200, 3))  # waits in the online store for its table

    project = open_project()
    project.storage.drop("gone", why="a mistake")
    project.models.tag_version("delays", 1, tags={"checked": "yes"})
    project.catalog.grant("ada", Role.admin)
    project.catalog.grant("bob", Role.editor)
    project.catalog.issue_token("ada", Role.viewer, purpose="to look")
    project.catalog.revoke_token(project.catalog.issue_token("bob", Role.editor).info.id)
    project.catalog.set_project("description", "Delays of flights \\u2708")
    project.close()


if __name__ == "__main__":
    fill()
"""


def main() -> int:
    (revision,) = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="old-data-") as scratch:
        folder = Path(scratch)
        (folder / "project.py").write_text(PROJECT)
        home = folder / ".fourfold"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
        environment = {**kept, "FOURFOLD_HOME": str(home)}
        for command in (["project.py"], [*FOURFOLD, "flow", "deploy", "project.py"]):
            subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)
        write(home, revision)
    return 0


def write(home: Path, revision: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    connection = sqlite3.connect(home / "catalog.db")
    (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert found == revision, f"this code is at migration {found}"
    # SQLite's own word for infinity is one that it does not read.
    lines = (re.sub(r"(?<=[,(])(-?)Inf(?=[,)])", r"\g<1>9e999", line) for line in connection.iterdump())
    (FOLDER / f"{revision}.sql").write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(FOLDER / f"{revision}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for part in FILES for path in home.glob(part) if path.is_file()):
            name = zipfile.ZipInfo(str(path.relative_to(home)))
            archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    raise SystemExit(main())
