"""Write paths of figures, expectations, rows kept aside, and releases of datasets."""

from __future__ import annotations

from tests.dying.case import Case
from tests.dying.tables import NOTED
from tests.dying.world import rows

from fourfold import wiring
from fourfold.core.context import Ref
from fourfold.core.datasets import Definition
from fourfold.core.expectations import OnFailure
from fourfold.foundation.storage import expect

DEFINED = Definition({"t": Ref("table", "t", ""), "images": Ref("files", "images", "")}, owner="ada")


def sets_aside(project: wiring.Project) -> None:
    wanted = expect.expected(expect.not_null("n"), on_failure=OnFailure.quarantine)
    project.datasets.expect("checked", wanted)


def has_rejected(project: wiring.Project) -> None:
    sets_aside(project)
    project.storage.append("checked", rows(5, None))


def discarded(project: wiring.Project) -> None:
    for each in project.datasets.rejections("checked"):
        project.datasets.discard("checked", each.id)


CASES = {
    "statistics": Case(("datasets.statistics",), lambda p: p.datasets.statistics("t")),
    "expect": Case(
        ("datasets.expect",),
        lambda p: p.datasets.expect("t", expect.expected(expect.not_null("n"))),
    ),
    "set rows aside": Case(
        ("storage.append",),
        lambda p: p.storage.append("checked", rows(5, None)),
        prepare=sets_aside,
        unsaid=(*NOTED, "rows of storage_rejection", "rows of catalog_audit", "rows of sqlite_sequence"),
    ),
    "discard": Case(("datasets.discard",), discarded, prepare=has_rejected),
    "define": Case(("datasets.define",), lambda p: p.datasets.define("new", DEFINED)),
    "release": Case(("datasets.release",), lambda p: p.datasets.release("bundle"), unsaid=NOTED),
    "tag a release": Case(
        ("datasets.tag_release",),
        lambda p: p.datasets.tag_release("bundle", "good"),
        prepare=lambda p: p.datasets.release("bundle"),
    ),
}
