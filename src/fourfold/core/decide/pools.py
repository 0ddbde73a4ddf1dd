"""In which pool a step runs: what the settings say, then what the step says, then the default pool.

Configuration comes first, so that work moves from one engine to another without a change of its code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fourfold.core.errors import Refused, did_you_mean


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What the settings say about pools."""

    default: str
    """Where steps run of which nobody says anything."""
    everything: str = ""
    """Where all steps run, whatever they say themselves; "" leaves it to them."""
    patterns: Sequence[tuple[str, str]] = ()
    """Patterns of `flow/step` and their pools; the first that fits counts, before all else."""


def choose_pool(rules: PoolRules, *, flow: str, step: str, asked: str = "") -> str:
    """The pool of a step that asks for `asked` itself.

    >>> rules = PoolRules("local", patterns=[("nightly/train", "gpu"), ("*/build*", "lab")])
    >>> choose_pool(rules, flow="nightly", step="train")
    'gpu'
    >>> choose_pool(rules, flow="hourly", step="build_all", asked="gpu")
    'lab'
    >>> choose_pool(rules, flow="hourly", step="train", asked="lab"), choose_pool(rules, flow="a", step="b")
    ('lab', 'local')
    >>> choose_pool(PoolRules("local", everything="lab"), flow="hourly", step="train", asked="gpu")
    'lab'
    """
    if rules.patterns:
        name = f"{flow}/{step}"
        for pattern, pool in rules.patterns:
            if fnmatchcase(name, pattern):
                return pool
    return rules.everything or asked or rules.default


def unknown_pool(pool: str, pools: Collection[str], *, who: str) -> Refused:
    """The error for a step that asks for a pool that is not there, with those that are.

    >>> print(unknown_pool("lap", ["lab", "local"], who="step 'fit'"))
    step 'fit' asks for pool 'lap', which the settings do not name
      did you mean 'lab'?
      pools: lab, local
    """
    return Refused(
        f"{who} asks for pool '{pool}', which the settings do not name",
        ways_on=did_you_mean(pool, pools, what="pools"),
        pool=pool,
    )


def unit_name(pool: str, unit: str) -> str:
    """A unit's name beside those of other pools; one that is called like its pool is all of it.

    >>> unit_name("lab", "node3"), unit_name("local", "local")
    ('lab/node3', 'local')
    """
    return pool if unit == pool else f"{pool}/{unit}"


def gang_name(units: Sequence[str]) -> str:
    """Several units as one, for records and people: each as often as it takes a node.

    >>> gang_name(["lab/n1", "lab/n2"]), gang_name(["local", "local"]), gang_name(["local"])
    ('lab/n1,lab/n2', 'local,local', 'local')
    """
    return ",".join(units)


def units_of(name: str) -> tuple[str, ...]:
    """The units of a `gang_name`, one for each node.

    >>> units_of("lab/n1,lab/n2"), units_of("local"), units_of("")
    (('lab/n1', 'lab/n2'), ('local',), ())
    """
    return tuple(name.split(",")) if name else ()


def pool_of(unit: str) -> str:
    """The pool of a unit by its name.

    >>> pool_of("lab/node3"), pool_of("local")
    ('lab', 'local')
    """
    return unit.partition(",")[0].partition("/")[0]
