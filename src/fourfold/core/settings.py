"""What a project may set: one address per part, and a few bounds.

Settings come from `fourfold.toml` beside the project's `.fourfold` folder, and from environment
variables, which win: `FOURFOLD_CATALOG`, `FOURFOLD_SERVER_PORT`, `FOURFOLD_POOLS_LOCAL_ENGINE`, and so on.
Everything has a default that is safe on a laptop, so an empty project needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.objects import SCHEMES, ObjectAddress
from fourfold.core.traits import DECLARED, UnitTraits

ADDRESSES: Mapping[str, tuple[str, ...]] = {
    "catalog": ("sqlite", "postgresql"),
    "storage": ("file", *SCHEMES),
    "tables": ("iceberg+sqlite", "iceberg+postgresql", "iceberg+http", "iceberg+https"),
    "online": ("lmdb",),
    "engine": ("kubernetes", "local", "podman", "ray", "slurm"),
    "openlineage": ("file", "http", "https"),
}
"""Which schemes each part's address may have in this release."""

ENVIRONMENT_PREFIX = "FOURFOLD_"
LEAST_AWAY_S = 30.0
_POOL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
NOT_SETTINGS = frozenset({"HOME", "URL", "TOKEN", "PROJECT", "DEBUG", "OPENLINEAGE_TOKEN", "UNIT"})
"""Environment variables with our prefix that say where a project or a process is, and not what a project is
made of."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """A pool of units behind one engine."""

    engine: str = "local://"
    price_usd_per_hour: float = 0.0
    """What one whole unit of the pool costs an hour; a job pays for the share that it holds."""
    workers: int = 0
    """Idle worker processes kept warm at most; 0 is two more than the pool has cores, and 16 at most."""
    idle_s: float = 0.0
    """So long an idle worker process is kept; 0 is five minutes on this machine, and one minute elsewhere,
    where it holds what others could use."""
    most_units: int = 0
    """So many of the engine's units are used at most, the cheapest first; 0 is all of them."""
    default: bool = False
    """Whether steps run here of which nobody says anything; without one, that is the first pool."""
    python: str = ""
    """The Python that workers begin with on machines without Fourfold: that is brought there, and the
    environment is built. Empty: `python3` where this machine's files are not seen, else the interpreter
    of the run, under its own path."""
    cache: str = ""
    """Where its machines keep what they are sent and build; empty: the cache folder of their user."""
    cache_bytes: int = 20 * 2**30
    """What environments take there at most; those used longest ago are removed."""
    location: str = ""
    """Where its units are: labels separated by commas, such as a region."""
    spot: str = ""
    """Whether its units may be taken away: `true` (only steps that say so run there) or `open` (all may)."""
    gpu: str = ""
    """What its engine does not tell of a unit's GPUs, as steps ask for it: `"a100, memory>=80GiB"`."""
    disk: str = ""
    """Free room of a unit, and speed: `"500GiB, write>=1GB/s"`. This and the next two are declared, and count
    where nothing was measured."""
    bandwidth: str = ""
    flops: str = ""

    def traits(self, name: str) -> UnitTraits:
        """What is said here of each unit of the pool."""
        said = {word: getattr(self, word) for word in DECLARED}
        return UnitTraits.parse(
            location=self.location, spot=self.spot, declared=said, who=f"setting 'pools.{name}'"
        )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The HTTP door."""

    host: str = "127.0.0.1"
    port: int = 4040
    body_bytes: int = 64 * 2**20
    """The largest request body that is not a stream."""
    hosts: str = ""
    """More names that this server is called by, separated by commas: those of a proxy before it."""
    origins: str = ""
    """Origins (`https://ui.example`) whose pages may change things here, separated by commas."""


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """What steps and models run in."""

    lock: str = ""
    """A hash-pinned requirements file, relative to the project; empty: what is installed now."""


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """Bounds of the loop, and where steps run."""

    bodies: int = 8
    """Flow bodies that run at once; more wait in a queue."""
    pool: str = ""
    """The pool where all steps run, whatever they say themselves; empty: where each says."""
    pools: Mapping[str, str] = field(default_factory=dict)
    """Patterns of `flow/step` and the pools where these run; the first that fits counts, before `pool`."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How workers on other machines reach the process that owns the loop."""

    listen: str = ""
    """`host:port` where it listens for them, `:port` on this machine only; empty: nowhere."""
    address: str = ""
    """`host:port` as they are told it, where that is another than `listen`: a name, or a port that is
    passed on."""
    away_s: float = 300.0
    """So long they work on without hearing of it, and it waits for them."""


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """How long inserted rows wait before they are brought to their table, and how many may wait."""

    flush_rows: int = 5_000
    """As many rows of one table are flushed at once."""
    flush_bytes: int = 8 * 2**20
    flush_s: float = 60.0
    """No row waits longer, as long as a process of the project runs."""
    most_bytes: int = 64 * 2**20
    """What waits at most, of all tables; an insert that would pass it flushes first."""
    most_rows: int = 10_000
    """Rows of one insert at most; more are an append."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a project. An empty address is the embedded default in the project's folder.

    >>> Settings.parse({"catalog": "postgresql://db/ml"}, {}).catalog
    'postgresql://db/ml'
    >>> Settings.parse({}, {"FOURFOLD_SERVER_PORT": "5050"}).server.port
    5050
    >>> Settings.parse({"catalogue": "sqlite:///x"}, {})
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: setting 'catalogue' is not known
      did you mean 'catalog'?
      settings: buffer, catalog, control, environment, exports, flows, online, openlineage, pools, project, \
server, storage, tables
    """

    project: str = "default"
    catalog: str = ""
    storage: str = ""
    tables: str = ""
    """An Iceberg catalog; empty: tables in Delta format, where `storage` is."""
    exports: Mapping[str, str] = field(default_factory=dict)
    """Iceberg catalogs that tables may be exported to, by names of their own."""
    online: str = ""
    openlineage: str = ""
    """Where events about runs and what they made are sent; empty: nowhere."""
    pools: Mapping[str, PoolSettings] = field(default_factory=lambda: {"local": PoolSettings()})
    server: ServerSettings = ServerSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    flows: FlowSettings = FlowSettings()
    buffer: BufferSettings = BufferSettings()
    control: ControlSettings = ControlSettings()

    @classmethod
    def parse(cls, given: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
        """Check what a `fourfold.toml` holds, under what the environment says."""
        tree = _merge(given, _from_environment(environ))
        sections: dict[str, type] = {
            "server": ServerSettings,
            "environment": EnvironmentSettings,
            "flows": FlowSettings,
            "buffer": BufferSettings,
            "control": ControlSettings,
        }
        values: dict[str, Any] = {}
        known = {each.name for each in fields(cls)}
        for key, value in tree.items():
            if key not in known:
                raise Refused(
                    f"setting '{key}' is not known", ways_on=did_you_mean(key, known, what="settings")
                )
            if key == "pools":
                values[key] = {
                    name: _section(PoolSettings, _with_spot(pool), f"pools.{name}")
                    for name, pool in _table(value, "pools").items()
                }
            elif key == "exports":
                values[key] = {
                    name: _scalar(str, each, f"exports.{name}")
                    for name, each in _table(value, "exports").items()
                }
            elif key in sections:
                values[key] = _section(sections[key], _table(value, key), key)
            else:
                values[key] = _scalar(str, value, key)
        parsed = cls(**values)
        for part in ("catalog", "storage", "tables", "online", "openlineage"):
            check_address(part, getattr(parsed, part))
        for name, address in parsed.exports.items():
            check_address("tables", address, setting=f"exports.{name}")
        for name, pool in parsed.pools.items():
            check_address("engine", pool.engine, setting=f"pools.{name}.engine")
            if pool.price_usd_per_hour < 0:
                raise Refused(f"setting 'pools.{name}.price_usd_per_hour' is negative")
        if not parsed.pools:
            raise Refused("setting 'pools' names no pool", ways_on=['add [pools.local] engine = "local://"'])
        parsed.check_pools()
        for key in ("listen", "address"):
            host_and_port(getattr(parsed.control, key), f"control.{key}")
        if parsed.control.away_s < LEAST_AWAY_S:
            raise Refused(
                f"setting 'control.away_s' is {parsed.control.away_s:g}; it is {LEAST_AWAY_S:g} at least"
            )
        for each in fields(BufferSettings):
            if getattr(parsed.buffer, each.name) <= 0:
                raise Refused(f"setting 'buffer.{each.name}' is not above 0")
        if not 0 <= parsed.server.port <= 65535:
            raise Refused(f"setting 'server.port' {parsed.server.port} is not a port (0 to 65535)")
        return parsed

    @property
    def default_pool(self) -> str:
        """Where steps run of which nobody says anything."""
        return next((name for name, pool in self.pools.items() if pool.default), next(iter(self.pools)))

    def check_pools(self) -> None:
        """Refuse names that cannot stand for pools, and places that are none."""
        for name, pool in self.pools.items():
            if not _POOL.fullmatch(name):
                raise Refused(
                    f"'{name}' cannot be the name of a pool",
                    ways_on=["take letters, digits, - and _, beginning with a letter: [pools.lab]"],
                )
            pool.traits(name)
            for key in ("workers", "most_units", "idle_s", "cache_bytes"):
                if getattr(pool, key) < 0:
                    raise Refused(f"setting 'pools.{name}.{key}' is negative")
        if len(defaults := [name for name, pool in self.pools.items() if pool.default]) > 1:
            raise Refused(f"only one pool can be the default, and these are: {', '.join(defaults)}")
        named = {"flows.pool": self.flows.pool} if self.flows.pool else {}
        named |= {f"flows.pools.{pattern}": pool for pattern, pool in self.flows.pools.items()}
        for setting, pool_name in named.items():
            if pool_name not in self.pools:
                raise Refused(
                    f"setting '{setting}' names pool '{pool_name}', which is not there",
                    ways_on=did_you_mean(pool_name, self.pools, what="pools"),
                )


def host_and_port(text: str, setting: str) -> tuple[str, int]:
    """An address of two parts; without a host this machine.

    >>> host_and_port("0.0.0.0:4141", "control.listen"), host_and_port(":4141", "control.listen")
    (('0.0.0.0', 4141), ('127.0.0.1', 4141))
    """
    if not text:
        return "", 0
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refused(
            f"setting '{setting}' is {text!r}, which is no host and port",
            ways_on=["write host:port, or :port for this machine only"],
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def check_address(part: str, address: str, *, setting: str = "") -> None:
    """Refuse an address whose scheme no adapter of this release answers."""
    if not address:
        return
    scheme, colon, _ = address.partition("://")
    accepted = ADDRESSES[part]
    if not colon or (scheme not in accepted and scheme.partition("+")[0] not in accepted):
        raise Refused(
            f"setting '{setting or part}' has an address that nobody answers: '{address}'",
            ways_on=["accepted: " + ", ".join(f"{each}://…" for each in accepted)],
        )
    if part == "storage" and scheme in SCHEMES:
        ObjectAddress.parse(address)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The tree that `FOURFOLD_SERVER_PORT=…` and its like describe."""
    tree: dict[str, Any] = {}
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or name in NOT_SETTINGS or name.startswith("TEST_"):
            continue
        head, _, rest = name.lower().partition("_")
        if head == "pools" and "_" in rest:
            pool, _, key = rest.partition("_")
            tree.setdefault("pools", {}).setdefault(pool, {})[key] = value
        elif head in {"server", "environment", "flows", "buffer", "exports", "control"} and rest:
            tree.setdefault(head, {})[rest] = value
        elif name.lower() in {"project", "catalog", "storage", "tables", "online", "openlineage"}:
            tree[name.lower()] = value
        # Other variables with our prefix belong to a runner or a test, not to the project.
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = (
            _merge(under, value) if isinstance(under, Mapping) and isinstance(value, dict) else value
        )
    return merged


def _table(value: object, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Refused(f"setting '{key}' is a section", ways_on=[f"write [{key}] and its keys below"])
    return value


def _with_spot(pool: object) -> object:
    """A pool's table, where `spot` may be true as TOML has it, and not only text."""
    if isinstance(pool, Mapping) and isinstance(pool.get("spot"), bool):
        return {**pool, "spot": str(pool["spot"]).lower()}
    return pool


def _section(kind: type, given: object, name: str) -> Any:
    known = {each.name: each for each in fields(kind)}
    values = {}
    for key, value in _table(given, name).items():
        if key not in known:
            raise Refused(
                f"setting '{name}.{key}' is not known", ways_on=did_you_mean(key, known, what="settings")
            )
        if known[key].default is MISSING:  # a table of texts
            given_texts = _table(value, f"{name}.{key}")
            values[key] = {
                each: _scalar(str, text, f"{name}.{key}.{each}") for each, text in given_texts.items()
            }
            continue
        values[key] = _scalar(type(known[key].default), value, f"{name}.{key}")
    return kind(**values)


def _scalar(kind: type, value: object, key: str) -> Any:
    """A number or text as the setting's own type; environment variables come as text."""
    try:
        if kind is str and isinstance(value, str):
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is bool and isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        if kind is int and isinstance(value, int | str) and not isinstance(value, bool):
            return int(value)
        if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
    raise Refused(f"setting '{key}' is {value!r}; it takes {wanted}")
