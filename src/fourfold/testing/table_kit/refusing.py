"""What a store cannot do it refuses, with the reason, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Ability, Evolution, Mark, TableStore
from fourfold.core.times import Instant
from fourfold.testing.table_kit.given import numbers, rows

CALLS: dict[Ability, tuple[Callable[[TableStore], object], ...]] = {
    Ability.upsert: (
        lambda s: s.upsert("t", rows(2), key=("n",)),
        lambda s: s.upsert("u", rows(2), key=("n",)),
    ),
    Ability.delete: (lambda s: s.delete("t", where=(("n", "==", 1),)),),
    Ability.evolve: (lambda s: s.evolve("t", Evolution(add=(pa.field("x", pa.int64()),))),),
    Ability.restore: (lambda s: s.restore("t", version=0),),
    Ability.compact: (lambda s: s.compact("t"),),
    Ability.vacuum: (
        lambda s: s.vacuum("t", keep=(), before=Instant(1), dry_run=True),
        lambda s: s.vacuum("t", keep=(), before=Instant(1)),
    ),
    Ability.erase: (
        lambda s: s.erase("t", keys=[{"n": 1}], before=Instant(1), dry_run=True),
        lambda s: s.erase("t", keys=[{"n": 1}], before=Instant(1)),
    ),
    Ability.branch: (lambda s: s.fork("t", "dev", version=0), lambda s: s.publish("t", "dev")),
    Ability.overwrite_part: (lambda s: s.overwrite("t", rows(2), where={"day": "2013-01-01"}),),
    Ability.write_keys: (
        lambda s: s.append("t", rows(2), mark=Mark(key="k")),
        lambda s: s.overwrite("t", rows(2), mark=Mark(key="k")),
    ),
}
"""For each ability, calls that need it."""


class Refusing:
    """The abilities that a store lists are those that it has."""

    def test_every_ability_is_one_that_the_port_knows(self, store: TableStore) -> None:
        assert store.abilities <= frozenset(Ability) == frozenset(CALLS)

    def test_what_a_store_cannot_do_it_refuses_with_the_reason(self, store: TableStore) -> None:
        store.append("t", rows(1), partition_by=("day",))
        store.append("t", rows(2))
        for ability, calls in CALLS.items():
            for call in calls if ability not in store.abilities else ():
                refused = refusal(call, store)
                assert refused.facts.get("ability") == ability.value, refused
                assert len(refused.message) > 20, "the reason is a sentence"
                assert refused.ways_on, "and what can be done instead is said"
        assert store.names() == ("t",)
        assert store.snapshot("t").version == 1
        assert numbers(store) == [1, 2]

    def test_what_a_store_says_it_can_do_it_does_not_refuse(self, store: TableStore) -> None:
        for ability in sorted(store.abilities):
            store.drop("t")
            store.append("t", rows(1), partition_by=("day",))
            store.append("t", rows(2))
            if ability is Ability.branch:
                store.fork("t", "dev", version=1)
                store.append("t@dev", rows(3))
                store.publish("t", "dev")
                store.drop("t@dev")
            else:
                for call in CALLS[ability]:
                    call(store)
                    store.drop("u")


def refusal(call: Callable[[TableStore], object], store: TableStore) -> Refused:
    try:
        call(store)
    except Refused as error:
        return error
    raise AssertionError("it was not refused")
