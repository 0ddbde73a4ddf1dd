"""What every table store promises, as checks that run."""

from __future__ import annotations

from fourfold.testing.table_kit.branching import Branching
from fourfold.testing.table_kit.changing import Changing
from fourfold.testing.table_kit.erasing import Erasing
from fourfold.testing.table_kit.hostile import Hostile
from fourfold.testing.table_kit.racing import Racing
from fourfold.testing.table_kit.refusing import Refusing
from fourfold.testing.table_kit.repeating import Repeating
from fourfold.testing.table_kit.vacuuming import Vacuuming
from fourfold.testing.table_kit.writing import Writing


class TableStoreKit(Writing, Changing, Branching, Vacuuming, Erasing, Repeating, Racing, Hostile, Refusing):
    """Subclass it, give a `store` fixture, and let pytest run it."""
