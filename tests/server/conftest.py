"""A small service with every form of argument and result, and a server around it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol

import pyarrow as pa
import pytest
import uvicorn

from fourfold.adapters.remote import Remote
from fourfold.core.catalog import Identity, principal
from fourfold.core.errors import Conflict, NotFound, Unauthenticated
from fourfold.core.routes import Role, Route, route
from fourfold.server.app import Access, Bounds, Mounted, build_app
from fourfold.server.guard import Guard
from fourfold.server.identity import Bearers
from fourfold.server.pages import About

from .client import Client

OWNER = "ff_owner-token-for-tests-0123456789abcdef"
Name = NewType("Name", str)


class Shade(StrEnum):
    light = "light"
    dark = "dark"


@dataclass(frozen=True, slots=True)
class Leaf:
    size: int
    shade: Shade = Shade.light
    notes: Mapping[str, float] = field(default_factory=dict)


class Garden(Protocol):
    """Everything that can travel."""

    @route("GET /leaves", needs=Role.viewer)
    def leaves(
        self,
        shade: Shade | None = None,
        *,
        names: tuple[str, ...] | None = None,
        sizes: tuple[int, ...] = (),
        most: int = 10,
        is_fresh: bool = True,
        where: tuple[tuple[str, str, str | int | None], ...] = (),
    ) -> tuple[Leaf, ...]:
        """Leaves that fit; the notes tell how they were asked for."""
        ...

    @route("GET /leaves/{name}", needs=Role.viewer)
    def leaf(self, name: Name) -> Leaf | None:
        """One leaf, if there is one."""
        ...

    @route("GET /leaves/{name}/veins", needs=Role.viewer)
    def veins(self, name: str) -> int:
        """How many veins a leaf has."""
        ...

    @route("GET /twigs/{path:path}", needs=Role.viewer)
    def twig(self, path: str) -> str:
        """A name with slashes."""
        ...

    @route("PUT /leaves/{name}", needs=Role.editor)
    def grow(self, name: str, leaf: Leaf, *, others: tuple[Leaf, ...] = (), why: str = "") -> Leaf:
        """Add a leaf."""
        ...

    @route("DELETE /leaves/{name}", needs=Role.admin)
    def prune(self, name: str, *, why: str = "") -> None:
        """Remove a leaf."""
        ...

    @route("POST /rain", needs=Role.editor)
    def rain(self, drops: pa.Table, *, name: str, partition_by: tuple[str, ...] = ()) -> Mapping[str, int]:
        """Take a table."""
        ...

    @route("POST /river", needs=Role.editor)
    def river(self, water: pa.RecordBatchReader) -> int:
        """Take batches."""
        ...

    @route("POST /rill", needs=Role.editor)
    def rill(self, water: pa.Table | pa.RecordBatchReader) -> int:
        """Take a table or batches."""
        ...

    @route("POST /lake", needs=Role.viewer)
    def lake(self, *, rows: int) -> pa.Table:
        """Give a table."""
        ...

    @route("POST /spring", needs=Role.viewer)
    def spring(self, *, batches: int, fails_at: int = -1) -> pa.RecordBatchReader:
        """Give batches."""
        ...

    @route("POST /seeds", needs=Role.editor)
    def sow(self, seeds: bytes) -> int:
        """Take bytes."""
        ...

    @route("GET /seeds", needs=Role.viewer)
    def seeds(self, *, count: int) -> bytes:
        """Give bytes."""
        ...

    @route("GET /portrait", needs=Role.viewer, media="image/svg+xml")
    def portrait(self) -> bytes:
        """Give a picture."""
        ...

    @route("POST /trouble/{kind}", needs=Role.viewer)
    def trouble(self, kind: str) -> None:
        """Fail."""
        ...

    @route("GET /gardener", needs=Role.viewer)
    def gardener(self) -> str:
        """Who asks."""
        ...

    @route("POST /ripe", needs=Role.viewer)
    def ripen(self, *, wait_s: float = 0.05) -> None:
        """Take time."""
        ...

    def dig(self, path: Path) -> None:
        """In process only."""
        ...


class RealGarden:
    """A garden in memory."""

    def __init__(self) -> None:
        self.grown: dict[str, Leaf] = {}
        self.flaky = 0

    def leaves(
        self,
        shade: Shade | None = None,
        *,
        names: tuple[str, ...] | None = None,
        sizes: tuple[int, ...] = (),
        most: int = 10,
        is_fresh: bool = True,
        where: tuple[tuple[str, str, str | int | None], ...] = (),
    ) -> tuple[Leaf, ...]:
        found = [
            leaf
            for name, leaf in sorted(self.grown.items())
            if (shade is None or leaf.shade is shade) and (names is None or name in names)
        ]
        asked = Leaf(most, Shade.dark, {f"{sizes!r} {is_fresh!r} {where!r} {names!r}": 0.5})
        return (*found[:most], asked)

    def leaf(self, name: Name) -> Leaf | None:
        return self.grown.get(name)

    def veins(self, name: str) -> int:
        return len(name)

    def twig(self, path: str) -> str:
        return path

    def grow(self, name: str, leaf: Leaf, *, others: tuple[Leaf, ...] = (), why: str = "") -> Leaf:
        self.grown[name] = leaf
        return leaf

    def prune(self, name: str, *, why: str = "") -> None:
        if self.grown.pop(name, None) is None:
            raise NotFound(f"no leaf '{name}'", ways_on=["grow one"], name=name, why=why)

    def rain(self, drops: pa.Table, *, name: str, partition_by: tuple[str, ...] = ()) -> Mapping[str, int]:
        return {name: drops.num_rows, "+".join(partition_by): drops.num_columns}

    def river(self, water: pa.RecordBatchReader) -> int:
        return sum(batch.num_rows for batch in water)

    def rill(self, water: pa.Table | pa.RecordBatchReader) -> int:
        return sum(batch.num_rows for batch in (water.to_batches() if isinstance(water, pa.Table) else water))

    def lake(self, *, rows: int) -> pa.Table:
        return pa.table({"n": pa.array(range(rows), pa.int64()), "t": ["x"] * rows})

    def spring(self, *, batches: int, fails_at: int = -1) -> pa.RecordBatchReader:
        schema = pa.schema([("n", pa.int64())])

        def made() -> Iterator[pa.RecordBatch]:
            for index in range(batches):
                if index == fails_at:
                    raise RuntimeError("the spring ran dry")
                yield pa.record_batch([pa.array([index] * 1000, pa.int64())], schema=schema)

        return pa.RecordBatchReader.from_batches(schema, made())

    def sow(self, seeds: bytes) -> int:
        return len(seeds)

    def portrait(self) -> bytes:
        return b'<svg xmlns="http://www.w3.org/2000/svg"/>'

    def seeds(self, *, count: int) -> bytes:
        return b"s" * count

    def trouble(self, kind: str) -> None:
        if kind == "conflict":
            raise Conflict("somebody was first", ways_on=["look again"], at=3, path=Path("x"))
        raise ZeroDivisionError("secret detail of the inside")

    def gardener(self) -> str:
        return principal()

    def ripen(self, *, wait_s: float = 0.05) -> None:
        raise AssertionError("only ever asked of a server that does not answer")

    def dig(self, path: Path) -> None:
        raise AssertionError("not called over HTTP")


TOKENS = {role.name: f"ff_{role.name}-token-of-somebody-else-012345" for role in Role}


def verify(secret: str) -> Identity:
    for role in Role:
        if secret == TOKENS[role.name]:
            return Identity(f"a-{role.name}", role, f"tok_{role.name}")
    raise Unauthenticated("the token is not one of this project's")


@dataclass
class Served:
    """An application with what it recorded."""

    app: Guard
    garden: RealGarden
    audited: list[tuple[str, str, int]]

    def client(self, token: str = OWNER) -> Client:
        return Client(self.app, {"Authorization": f"Bearer {token}"} if token else {})


def serve(*, body_bytes: int = 100_000) -> Served:
    garden = RealGarden()
    audited: list[tuple[str, str, int]] = []

    def audit(route: Route, identity: Identity, status: int) -> None:
        audited.append((route.name, principal(), status))

    app = build_app(
        [Mounted("garden", Garden, garden)],
        access=Access(Bearers(OWNER, verify), hosts=["lab.example"], origins=["https://ui.example"]),
        about=About(version="1.2.3", project="<b>test</b>"),
        bounds=Bounds(body_bytes=body_bytes, threads=4, waiting=8),
        audit=audit,
    )
    return Served(app, garden, audited)


@pytest.fixture
def served() -> Served:
    return serve()


@dataclass
class Listening:
    """A real server on a port and on a Unix socket."""

    url: str
    unix_url: str
    garden: RealGarden


@contextmanager
def answering(app: Guard, unix_path: Path) -> Iterator[str]:
    """The application on a port of its own and on a Unix socket, in a thread; gives its URL."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(unix_path))
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        ready = threading.Event()
        original = server.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await original(sockets)
            ready.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [tcp, unix]}, daemon=True)
        thread.start()
        assert ready.wait(20)
        try:
            yield f"http://127.0.0.1:{tcp.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    made = serve(body_bytes=10_000_000)
    path = tmp_path_factory.mktemp("s") / "s.sock"
    with answering(made.app, path) as url:
        yield Listening(url, f"unix://{path}", made.garden)


@pytest.fixture
def remote(listening: Listening) -> Iterator[Remote]:
    remote = Remote(listening.url, OWNER)
    yield remote
    remote.close()
