"""Roles, tokens, the audit, tags and the project's facts: the same promises on both databases."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from fourfold.catalog import tags
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.catalog.tables import audit as audit_table
from fourfold.catalog.tables import token as token_table
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused, Unauthenticated
from fourfold.core.routes import Role
from fourfold.core.times import Instant
from fourfold.testing.clock import START, MovableClock


@pytest.fixture
def service(catalog: Catalog, clock: MovableClock) -> CatalogService:
    return CatalogService(catalog, clock)


# Roles


def test_a_grant_takes_the_place_of_the_one_before(service: CatalogService) -> None:
    service.grant("ada", Role.admin)
    with acting_as("ada"):
        service.grant("bob", Role.viewer)
        service.grant("bob", Role.deployer)
    found = [(given.principal, given.role, given.granted_by) for given in service.grants()]
    assert found == [("ada", Role.admin, "local"), ("bob", Role.deployer, "ada")]


def test_what_no_database_keeps_is_refused(service: CatalogService, catalog: Catalog) -> None:
    with pytest.raises(Refused, match="larger than a database keeps"):
        service.audit(before=2**63)
    if not catalog.is_sqlite:  # which keeps it
        with pytest.raises(Refused, match="character NUL"):
            service.set_project("name", "a\0b")


def test_the_last_admin_stays(service: CatalogService) -> None:
    service.grant("ada", Role.admin)
    for lose in (lambda: service.revoke("ada"), lambda: service.grant("ada", Role.viewer)):
        with pytest.raises(Refused, match="last admin"):
            lose()
    service.grant("bob", Role.admin)
    service.revoke("ada")
    assert [given.principal for given in service.grants()] == ["bob"]


def test_of_two_admins_who_remove_each_other_at_once_one_stays(service: CatalogService) -> None:
    for _ in range(5):
        service.grant("ada", Role.admin)
        service.grant("bob", Role.admin)
        refused: list[Refused] = []

        def remove(name: str, refused: list[Refused] = refused) -> None:
            try:
                service.revoke(name)
            except Refused as error:
                refused.append(error)

        threads = [threading.Thread(target=remove, args=(name,)) for name in ("ada", "bob")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(refused), len(service.grants())) == (1, 1)


def test_a_principal_that_is_not_there_is_named_with_those_that_are(service: CatalogService) -> None:
    service.grant("ada@lab", Role.admin)
    with pytest.raises(NotFound, match="did you mean 'ada@lab'"):
        service.revoke("ada@la")
    with pytest.raises(NotFound, match="'bob' has no role"):
        service.issue_token("bob", Role.viewer)
    with pytest.raises(Refused, match="1 to 256 characters"):
        service.grant("  ", Role.viewer)


# Tokens


def test_a_token_speaks_for_its_principal_with_the_lesser_role(service: CatalogService) -> None:
    service.grant("ada", Role.editor)
    made = service.issue_token("ada", Role.admin, purpose="laptop")
    identity = service.verify_token(made.secret)
    assert (identity.principal, identity.role, identity.token_id) == ("ada", Role.editor, made.info.id)
    narrow = service.issue_token("ada", Role.viewer)
    assert service.verify_token(narrow.secret).role is Role.viewer


def test_a_secret_is_kept_only_as_a_hash(service: CatalogService, catalog: Catalog) -> None:
    service.grant("ada", Role.editor)
    made = service.issue_token("ada", Role.editor)
    with catalog.read() as connection:
        kept = connection.execute(sa.select(token_table.c.secret_sha256)).scalar_one()
    assert len(kept) == 64
    assert made.secret not in kept
    assert made.secret not in repr(made)
    assert all(made.secret not in str(entry) for entry in service.audit())


@pytest.mark.parametrize("secret", ["", "fft", "fft_x_y", "Bearer abc", "fft_unknown_" + "a" * 43])
def test_a_wrong_token_is_refused_without_saying_why(service: CatalogService, secret: str) -> None:
    with pytest.raises(Unauthenticated, match="not one of this project's tokens"):
        service.verify_token(secret)


def test_a_right_identifier_with_another_secret_is_refused(service: CatalogService) -> None:
    service.grant("ada", Role.editor)
    made = service.issue_token("ada", Role.editor)
    with pytest.raises(Unauthenticated, match="not one of"):
        service.verify_token(made.secret[:-1] + ("a" if made.secret[-1] != "a" else "b"))


def test_a_token_ends_when_it_is_revoked_expires_or_its_principal_goes(
    service: CatalogService, clock: MovableClock
) -> None:
    service.grant("root", Role.admin)
    service.grant("ada", Role.editor)
    revoked, brief, orphan = (
        service.issue_token("ada", Role.editor, lifetime_s=lifetime) for lifetime in (None, 60.0, None)
    )
    service.revoke_token(revoked.info.id)
    service.revoke_token(revoked.info.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        service.verify_token(revoked.secret)
    clock.advance(59.999)
    service.verify_token(brief.secret)
    clock.advance(0.001)
    with pytest.raises(Unauthenticated, match="expired"):
        service.verify_token(brief.secret)
    service.revoke("ada")
    with pytest.raises(Unauthenticated, match="revoked"):
        service.verify_token(orphan.secret)
    service.grant("ada", Role.viewer)  # coming back does not bring the old tokens back
    with pytest.raises(Unauthenticated, match="revoked"):
        service.verify_token(orphan.secret)


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_lifetime_that_makes_no_sense_is_refused(service: CatalogService, lifetime_s: float) -> None:
    service.grant("ada", Role.editor)
    with pytest.raises(Refused, match="cannot live"):
        service.issue_token("ada", Role.editor, lifetime_s=lifetime_s)
    assert service.tokens() == ()


# The audit


def test_every_change_leaves_its_entry_newest_first(service: CatalogService, clock: MovableClock) -> None:
    service.grant("ada", Role.admin)
    clock.advance(1)
    with acting_as("ada"):
        token = service.issue_token("ada", Role.editor, purpose="ci")
        service.set_project("name", "flights")
        service.revoke_token(token.info.id)
        service.record("model.promote", Ref("model", "delays", "3"), facts={"alias": "champion"})
    told = [(entry.action, entry.principal, str(entry.ref)) for entry in service.audit()]
    assert told == [
        ("model.promote", "ada", "model:delays@3"),
        ("token.revoke", "ada", f"token:{token.info.id}"),
        ("project.set", "ada", "project:name"),
        ("token.issue", "ada", f"token:{token.info.id}"),
        ("role.grant", "local", "principal:ada"),
    ]
    assert service.audit(action="role.grant")[0].at == START
    assert service.audit(action="role.grant")[0].facts == {"role": "admin"}


def test_the_audit_is_asked_by_what_who_and_page(service: CatalogService) -> None:
    for index in range(5):
        with acting_as(f"p{index % 2}"):
            service.record("thing.do", Ref("thing", f"t{index % 3}"), facts={"index": index})
    assert [entry.facts["index"] for entry in service.audit(principal="p1")] == [3, 1]
    assert [entry.facts["index"] for entry in service.audit(kind="thing", name="t0")] == [3, 0]
    page = service.audit(limit=2)
    assert [entry.facts["index"] for entry in page] == [4, 3]
    assert [entry.facts["index"] for entry in service.audit(before=page[-1].sequence)] == [2, 1, 0]
    with pytest.raises(Refused, match="limit must be from 1 to"):
        service.audit(limit=0)


def test_a_deed_that_is_refused_leaves_no_entry(service: CatalogService) -> None:
    with pytest.raises(NotFound):
        service.revoke("nobody")
    with pytest.raises(NotFound, match="no token has the identifier 'x'"):
        service.revoke_token("x")
    assert service.audit() == ()


@pytest.mark.parametrize("verb", ["update", "delete"])
def test_nobody_changes_the_audit(service: CatalogService, catalog: Catalog, verb: str) -> None:
    service.record("thing.do", Ref("thing", "t"))
    statement = audit_table.delete() if verb == "delete" else audit_table.update().values(principal="me")
    with pytest.raises(sa.exc.DBAPIError, match="only ever added to"), catalog.write() as connection:
        connection.execute(statement)
    assert [entry.principal for entry in service.audit()] == ["local"]


# The project's facts


def test_the_projects_facts_are_set_again(service: CatalogService) -> None:
    service.set_project("name", "flights")
    service.set_project("name", "late flights")
    service.set_project("began", "2026")
    assert service.project() == {"began": "2026", "name": "late flights"}
    with pytest.raises(Refused, match="a key of 1 to 100"):
        service.set_project("", "x")


# Tags


def test_a_tag_moves_and_remembers_where_it_was(catalog: Catalog) -> None:
    for at, target, why in ((1, "3", "first"), (2, "3", "again"), (3, "5", "better")):
        with catalog.write() as connection, acting_as("ada"):
            tags.put(connection, Instant(at), "table", "flights", "good", target, why=why)
    with catalog.read() as connection:
        assert tags.targets(connection, "table", "flights") == {"good": "5"}
        assert tags.targets(connection, "table", "weather") == {}
        moves = tags.moves(connection, "table", "flights")
    assert [(move.source, move.target, move.at, move.by, move.why) for move in moves] == [
        ("3", "5", 3, "ada", "better"),
        ("", "3", 1, "ada", "first"),
    ]


@pytest.mark.parametrize("catalog_url", ["postgresql"], indirect=True)
@pytest.mark.service
def test_of_two_who_move_a_tag_at_once_one_is_told(catalog: Catalog) -> None:
    # On PostgreSQL only: on SQLite writes wait for each other, so none can come between.
    with catalog.write() as connection:
        tags.put(connection, Instant(1), "table", "t", "good", "1")
    read = threading.Barrier(2)
    told: list[str] = []

    def move(target: str) -> None:
        try:
            with catalog.write() as connection:
                tags.targets(connection, "table", "t")
                read.wait(timeout=30)
                tags.put(connection, Instant(2), "table", "t", "good", target)
            told.append("moved")
        except Conflict:
            told.append("conflict")

    threads = [threading.Thread(target=move, args=(target,)) for target in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count("moved") >= 1
    with catalog.read() as connection:
        moves = tags.moves(connection, "table", "t")
    # Whoever was told "moved" is in the history, and each move began where the one before had ended.
    assert len(moves) == 1 + told.count("moved")
    assert [move.source for move in moves[:-1]] == [move.target for move in moves[1:]]
