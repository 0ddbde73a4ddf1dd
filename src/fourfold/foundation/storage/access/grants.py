"""Asking the grants: storage does it about every name that it is given, and nobody else needs to."""

from __future__ import annotations

from contextlib import suppress

from fourfold.catalog.database import Catalog
from fourfold.core.access import Access, TableGrant, check_pattern, check_who
from fourfold.core.catalog import LOCAL, principal
from fourfold.core.decide import access as rules
from fourfold.core.errors import Denied, NotFound, OutOfSpace, Unavailable
from fourfold.core.ports.clock import Clock
from fourfold.core.routes import Role
from fourfold.foundation.storage.access.tables import GrantRecords

_DOING = {Access.read: "read", Access.write: "change", Access.manage: "manage"}


class Grants:
    """What principals may do with tables. Whoever uses the project's own folder may do all."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._records = GrantRecords(catalog)
        self._clock = clock

    def check(self, table: str, wanted: Access) -> None:
        """Refuse who may not, saying who may; the refusal is audited."""
        who = principal()
        if who == LOCAL:
            return
        grants = rules.that_count(self._records.all(), table)
        if not grants or rules.may(grants, who, self._records.role_of(who), wanted):
            return
        with suppress(OutOfSpace, Unavailable):  # the answer is the same without its record
            self._records.denied(self._clock.now(), table, wanted)
        raise Denied(
            f"'{who}' may not {_DOING[wanted]} table '{table}'",
            ways_on=[
                "who may: " + ", ".join(rules.who_may(grants, wanted)),
                "who may say so: " + ", ".join(rules.who_may(grants, Access.manage)),
            ],
            table=table,
            needs=wanted.name,
        )

    def readable(self, tables: tuple[str, ...]) -> tuple[str, ...]:
        """Those of these tables that whoever acts now may read."""
        who = principal()
        if who == LOCAL:
            return tables
        grants, role = self._records.all(), self._records.role_of(who)
        return tuple(
            table for table in tables if rules.may(rules.that_count(grants, table), who, role, Access.read)
        )

    def all(self, table: str | None) -> tuple[TableGrant, ...]:
        """Every grant; for a table those that decide about it."""
        grants = self._records.all()
        return grants if table is None else rules.that_count(grants, table)

    def give(self, pattern: str, who: str, access: Access) -> TableGrant:
        """Give access to the tables of a pattern; from the first grant on its list alone counts for them."""
        self._check_may_say(check_pattern(pattern))
        return self._records.put(self._clock.now(), pattern, check_who(who), access)

    def take(self, pattern: str, who: str) -> None:
        """Take a grant back; without the last one the project's roles say it again."""
        self._check_may_say(check_pattern(pattern))
        for grant in self._records.all():
            if (grant.pattern, grant.who) == (pattern, who):
                self._records.remove(self._clock.now(), grant)
                return
        raise NotFound(
            f"'{who}' has no grant on '{pattern}'", ways_on=["see: fourfold table grants"], pattern=pattern
        )

    def _check_may_say(self, pattern: str) -> None:
        """Who manages a table says who may use it; about patterns and tables without a list, an admin."""
        who = principal()
        if who == LOCAL or self._records.role_of(who) is Role.admin:
            return
        grants = rules.that_count(self._records.all(), pattern) if not pattern.endswith("*") else ()
        if grants and rules.may(grants, who, self._records.role_of(who), Access.manage):
            return
        raise Denied(
            f"'{who}' may not say who may use '{pattern}'",
            ways_on=["who may: " + ", ".join(rules.who_may(grants, Access.manage))],
            needs=Access.manage.name,
        )
