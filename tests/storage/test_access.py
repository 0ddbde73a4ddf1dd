"""Grants on tables: narrowed to those on the list, at every door of storage, and said in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.access import Access, TableGrant
from fourfold.core.catalog import LOCAL, acting_as
from fourfold.core.decide import access as rules
from fourfold.core.errors import Denied, NotFound, Refused
from fourfold.core.expectations import Expected
from fourfold.core.routes import Role
from fourfold.core.settings import Settings
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock
from fourfold.wiring import Project

from .conftest import numbers, rows

pytestmark = pytest.mark.slow

ROLES = {"root": Role.admin, "ada": Role.editor, "bob": Role.editor, "cleo": Role.viewer}


@pytest.fixture
def project(storage: Storage, sqlite_catalog: Catalog, clock: MovableClock) -> CatalogService:
    service = CatalogService(sqlite_catalog, clock)
    for name, role in ROLES.items():
        service.grant(name, role)
    for table in ("t", "raw.a", "raw.b"):
        storage.append(table, rows(1, 2))
    return service


DOORS: dict[str, tuple[Access, Callable[[Storage], object]]] = {
    "read": (Access.read, lambda s: s.read("t")),
    "read a branch": (Access.read, lambda s: s.read("t@dev/x")),
    "scan": (Access.read, lambda s: s.scan("t")),
    "diff": (Access.read, lambda s: s.diff("t", before=0)),
    "changes": (Access.read, lambda s: s.changes("t", before=0)),
    "history": (Access.read, lambda s: s.history("t")),
    "describe": (Access.read, lambda s: s.describe("t")),
    "branches": (Access.read, lambda s: s.branches("t")),
    "append": (Access.write, lambda s: s.append("t", rows(3))),
    "append to a branch": (Access.write, lambda s: s.append("t@dev/x", rows(3))),
    "overwrite": (Access.write, lambda s: s.overwrite("t", rows(3))),
    "upsert": (Access.write, lambda s: s.upsert("t", rows(3), key=("n",))),
    "delete": (Access.write, lambda s: s.delete("t", where=(("n", "==", 1),))),
    "evolve": (Access.write, lambda s: s.evolve("t", add={"x": "int64"})),
    "restore": (Access.write, lambda s: s.restore("t", version=0)),
    "compact": (Access.write, lambda s: s.compact("t")),
    "tag": (Access.write, lambda s: s.tag("t", "gold")),
    "fork": (Access.write, lambda s: s.fork("t", "dev/y")),
    "publish": (Access.write, lambda s: s.publish("t", "dev/x")),
    "drop a branch": (Access.write, lambda s: s.drop_branch("t", "dev/x")),
    "vacuum": (Access.manage, lambda s: s.vacuum("t")),
    "forget": (Access.manage, lambda s: s.forget("t", keys=({"n": 1},))),
    "say what would be forgotten": (Access.manage, lambda s: s.forget("t", keys=({"n": 1},), dry_run=True)),
    "forget again": (Access.manage, lambda s: s.forget_again("t")),
    "forgotten": (Access.manage, lambda s: s.forgotten("t")),
    "drop": (Access.manage, lambda s: s.drop("t")),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("is_enough", [True, False])
def test_every_door_of_storage_asks_the_grants(
    storage: Storage, project: CatalogService, door: str, is_enough: bool
) -> None:
    needed, go = DOORS[door]
    less = max((each for each in Access if each < needed), default=None)
    given_access = needed if is_enough else less
    storage.fork("t", "dev/x")
    storage.append("t@dev/x", rows(4))
    storage.grant_table("t", "bob", Access.manage)
    if given_access is not None:
        storage.grant_table("t", "ada", given_access)
    with acting_as("ada"):
        if is_enough:
            go(storage)
        else:
            with pytest.raises(Denied, match=r"'ada' may not .* table 't'"):
                go(storage)


def test_who_is_refused_is_told_who_may_and_it_is_audited(storage: Storage, project: CatalogService) -> None:
    storage.grant_table("raw.*", "bob", Access.read)
    storage.grant_table("raw.*", "role:deployer", Access.write)
    with acting_as("ada"), pytest.raises(Denied) as caught:
        storage.append("raw.a", rows(3))
    assert str(caught.value).splitlines() == [
        "'ada' may not change table 'raw.a'",
        "  who may: role:deployer, admins of the project",
        "  who may say so: admins of the project",
    ]
    entry = project.audit(action="table.denied")[0]
    assert (entry.principal, entry.ref.name, entry.facts) == ("ada", "raw.a", {"wanted": "write"})


def test_without_a_grant_the_roles_say_it_and_without_the_last_one_again(
    storage: Storage, project: CatalogService
) -> None:
    with acting_as("cleo"):
        assert numbers(storage) == [1, 2]
    storage.grant_table("t", "ada", Access.read)
    with acting_as("cleo"), pytest.raises(Denied):
        storage.read("t")
    storage.revoke_table("t", "ada")
    with acting_as("cleo"):
        assert numbers(storage) == [1, 2]
    with pytest.raises(NotFound, match="'ada' has no grant on 't'"):
        storage.revoke_table("t", "ada")
    assert [e.action for e in project.audit(kind="table", name="t")][:3] == [
        "table.revoke",
        "table.denied",
        "table.grant",
    ]


def test_the_most_exact_pattern_alone_counts(storage: Storage, project: CatalogService) -> None:
    storage.grant_table("raw.*", "ada", Access.read)
    storage.grant_table("raw.b", "bob", Access.read)
    with acting_as("ada"):
        assert numbers(storage, "raw.a") == [1, 2]
        with pytest.raises(Denied):
            storage.read("raw.b")
        assert [info.name for info in storage.list_tables()] == ["raw.a", "t"]
    with acting_as("bob"):
        assert [info.name for info in storage.list_tables()] == ["raw.b", "t"]
    assert [grant.who for grant in storage.table_grants("raw.b")] == ["bob"]
    assert len(storage.table_grants()) == 2


def test_the_owner_of_the_folder_and_admins_may_all(storage: Storage, project: CatalogService) -> None:
    storage.grant_table("*", "bob", Access.read)
    assert numbers(storage) == [1, 2]
    with acting_as("root"):
        storage.append("t", rows(3))
        storage.grant_table("t", "root", Access.manage)
    with acting_as("stranger"), pytest.raises(Denied):
        storage.read("t")


def test_who_manages_a_table_says_who_may_use_it_and_nobody_else(
    storage: Storage, project: CatalogService
) -> None:
    storage.grant_table("t", "ada", Access.manage)
    with acting_as("ada"):
        storage.grant_table("t", "bob", Access.write)
        for elsewhere in ("raw.a", "t*", "*"):
            with pytest.raises(Denied, match="may not say who may use"):
                storage.grant_table(elsewhere, "ada", Access.manage)
    with acting_as("bob"), pytest.raises(Denied):
        storage.grant_table("t", "bob", Access.manage)
    with acting_as("bob"), pytest.raises(Denied):
        storage.revoke_table("t", "ada")


@pytest.mark.parametrize(
    ("pattern", "who"), [("*raw", "ada"), ("", "ada"), ("a/b", "ada"), ("t", "role:king"), ("t", " ")]
)
def test_what_names_nobody_or_nothing_is_refused(storage: Storage, pattern: str, who: str) -> None:
    with pytest.raises(Refused):
        storage.grant_table(pattern, who, Access.read)


def test_rows_that_were_kept_out_of_a_table_are_as_guarded_as_those_in_it(
    storage: Storage, project: CatalogService, home: Path
) -> None:
    settings = Settings(catalog=f"sqlite:///{home.parent / 'catalog.db'}")
    storage.grant_table("t", "bob", Access.read)
    with closing(Project(home, settings)) as opened:
        datasets = opened.datasets
        with acting_as("ada"), pytest.raises(Denied):
            datasets.rejected_rows("t", "x")
        with acting_as("bob"), pytest.raises(Denied):
            datasets.discard("t", "x")
        with acting_as("bob"), pytest.raises(Denied):
            datasets.expect("t", Expected())


# The rule

names = st.sampled_from(["t", "raw.a", "raw.b", "raw.a.x"])
patterns = st.sampled_from(["t", "raw.a", "raw.*", "raw.a*", "*"])
whos = st.sampled_from(["ada", "bob", "role:viewer", "role:editor", "role:deployer"])
grants = st.lists(
    st.builds(TableGrant, patterns, whos, st.sampled_from(Access), st.just("root"), st.just(Instant(0))),
    max_size=6,
    unique_by=lambda grant: (grant.pattern, grant.who),
)


@pytest.mark.property
@given(
    grants=grants,
    table=names,
    who=st.sampled_from(["ada", "bob", "eve"]),
    role=st.sampled_from([*Role, None]),
)
def test_grants_only_narrow_and_what_holds_more_holds_less(
    grants: list[TableGrant], table: str, who: str, role: Role | None
) -> None:
    counting = rules.that_count(grants, table)
    may = {access: rules.may(counting, who, role, access) for access in Access}
    assert not may[Access.manage] or may[Access.write]
    assert not may[Access.write] or may[Access.read]
    if not counting or role is Role.admin:
        assert all(may.values())
    # a grant to somebody else on the same pattern takes nothing away and gives nothing
    if counting:
        more = [*counting, TableGrant(counting[0].pattern, "zoe", Access.manage, "root", Instant(0))]
        assert {access: rules.may(more, who, role, access) for access in Access} == may
    # a list on the table itself is all that counts
    own = TableGrant(table, "zoe", Access.read, "root", Instant(0))
    others = [grant for grant in grants if grant.pattern != table]
    assert rules.that_count([*others, own], table) == (own,)


@pytest.fixture(autouse=True)
def _nobody_left_acting() -> Iterator[None]:
    from fourfold.core.catalog import principal

    yield
    assert principal() == LOCAL
