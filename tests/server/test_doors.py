"""Who may come in: tokens, roles, hosts, origins, paths."""

from __future__ import annotations

import importlib
import pkgutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fourfold.core.services
from fourfold.catalog.owner_token import owner_token
from fourfold.core.errors import Refused
from fourfold.core.routes import Role, Route, routes
from fourfold.server.app import Access, Mounted, build_app
from fourfold.server.doors import Door, Public
from fourfold.server.guard import SECURITY_HEADERS, check_path
from fourfold.server.identity import Bearers, check_binding
from fourfold.server.pages import About

from .client import Client
from .conftest import OWNER, TOKENS, Garden, RealGarden, Served

API = "/api/v1"


def all_service_protocols() -> dict[str, type]:
    """Every protocol in `core.services` that declares a route, by its module's name."""
    found = {}
    for module in pkgutil.iter_modules(fourfold.core.services.__path__):
        loaded = importlib.import_module(f"fourfold.core.services.{module.name}")
        for kind in vars(loaded).values():
            if isinstance(kind, type) and kind.__module__ == loaded.__name__ and any(routes("x", kind)):
                found[module.name] = kind
    return found


class Nothing:
    def __getattr__(self, name: str) -> object:
        return lambda **_: None


def test_every_route_of_the_server_declares_who_may_use_it() -> None:
    app = build_app(
        [Mounted(name, protocol, Nothing()) for name, protocol in all_service_protocols().items()],
        access=Access(Bearers(OWNER)),
        about=About("1"),
    )
    doors = app._app.routes  # type: ignore[attr-defined]
    assert len(doors) > 60
    for door in doors:
        assert isinstance(door, Door), f"{door} is not a door: it checks no role"
        assert isinstance(door.needs, Role | Public)
    public = {door.path for door in doors if isinstance(door.needs, Public)}
    assert public == {"/", "/health", "/version"}
    unsafe_for_viewers = {d.name for d in doors if d.verb != "GET" and d.needs is Role.viewer}
    assert unsafe_for_viewers == {
        "storage.read",
        "storage.scan",
        "storage.diff",
        "storage.changes",
        "storage.flush",
        "datasets.check",
        "datasets.check_dataset",
        "features.online",
        "features.explain",
        "hosting.predict",
        "hosting.feedback",
        "hosting.flush",
    }, "a viewer changes no row: these read by POST, make a version of what waits, or add to records"


def test_no_two_services_claim_one_address() -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, protocol in all_service_protocols().items():
        for route in routes(name, protocol):
            shape = "/".join("{}" if s.startswith("{") else s for s in route.path.split("/"))
            assert (route.verb, shape) not in seen, f"{route.name} and {seen[route.verb, shape]}"
            seen[route.verb, shape] = route.name


@pytest.mark.parametrize("token", ["", "wrong", "ff_owner", OWNER + "x", OWNER.upper()])
def test_no_token_or_a_wrong_one_is_refused(served: Served, token: str) -> None:
    client = served.client(token)
    for path in (f"{API}/leaves", "/metrics", f"{API}/openapi.json", f"{API}/nothing-here"):
        response = client.get(path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "unauthenticated"
    assert client.put(f"{API}/leaves/oak", json={"leaf": {"size": 1}}).status_code == 401
    assert served.garden.grown == {}
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", OWNER, "Token " + OWNER])
def test_other_kinds_of_authorization_are_refused(served: Served, header: str) -> None:
    response = served.client("").get(f"{API}/leaves", headers={"Authorization": header})
    assert response.status_code == 401


def test_a_token_in_the_address_is_no_token(served: Served) -> None:
    assert served.client("").get(f"{API}/leaves?token={OWNER}").status_code == 401


@pytest.mark.parametrize(("role", "allowed"), [("viewer", 1), ("editor", 2), ("deployer", 2), ("admin", 3)])
def test_a_role_may_do_what_those_below_it_may(served: Served, role: str, allowed: int) -> None:
    client = served.client(TOKENS[role])
    statuses = [
        client.get(f"{API}/leaves").status_code,
        client.put(f"{API}/leaves/oak", json={"leaf": {"size": 1}}).status_code,
        client.delete(f"{API}/leaves/oak").status_code,
    ]
    expected = [200, 200, 204]
    assert statuses == expected[:allowed] + [403] * (3 - allowed)


def test_a_refusal_names_the_role_it_takes(served: Served) -> None:
    error = served.client(TOKENS["viewer"]).delete(f"{API}/leaves/oak").json()["error"]
    assert error["message"] == "'a-viewer' has the role viewer here, and this needs admin"


def test_methods_run_as_who_asks_and_changes_are_audited(served: Served) -> None:
    client = served.client(TOKENS["editor"])
    assert client.get(f"{API}/gardener").json() == "a-editor"
    assert served.client().get(f"{API}/gardener").json() == "local"
    client.put(f"{API}/leaves/oak", json={"leaf": {"size": 1}})
    served.client().delete(f"{API}/leaves/elm")
    assert served.audited == [("garden.grow", "a-editor", 200), ("garden.prune", "local", 404)]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4040", "127.0.0.1.evil.example", "localhost.evil", "0.0.0.0", ""]
)
@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_a_wrong_host_is_refused_whatever_the_verb(served: Served, host: str, verb: str) -> None:
    response = served.client().request(verb, f"{API}/leaves/oak", headers={"Host": host})
    assert response.status_code == 403
    assert "is not a name of this server" in response.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:4040", "[::1]:4040", "lab.example"])
def test_our_own_names_are_let_in(served: Served, host: str) -> None:
    assert served.client().get(f"{API}/leaves", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost.evil.example:4040"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:4040", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("verb", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_page_of_another_site_changes_nothing(served: Served, verb: str, headers: dict[str, str]) -> None:
    response = served.client().request(verb, f"{API}/leaves/oak", headers=headers)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "denied"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:4040", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://ui.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_our_own_pages_and_programs_may_change_things(served: Served, headers: dict[str, str]) -> None:
    response = served.client().put(f"{API}/leaves/oak", json={"leaf": {"size": 1}}, headers=headers)
    assert response.status_code == 200


def test_no_answer_lets_another_site_read_it(served: Served) -> None:
    response = served.client().get(f"{API}/leaves", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    assert (
        served.client().options(f"{API}/leaves", headers={"Origin": "https://evil.example"}).status_code
        >= 400
    )


def test_every_answer_carries_the_security_headers(served: Served) -> None:
    client = served.client()
    for response in (
        client.get("/"),
        client.get(f"{API}/leaves"),
        client.get("/nothing"),
        served.client("x").get("/metrics"),
    ):
        for name in SECURITY_HEADERS:
            assert name in response.headers


PATHS_THAT_CLIMB = [
    "/../etc/passwd",
    "/leaves/../../token",
    "/leaves/..",
    "/twigs/a/../b",
    "/twigs/%2e%2e/b",
    "/twigs/%2E%2E%2Fb",
    "/twigs/.%2e/b",
    "/twigs/%252e%252e/b",
    "/twigs/..%5cb",
    "/twigs/a%5Cb",
    "/twigs//etc/passwd",
    "/twigs/%2fetc/passwd",
    "/twigs/./b",
    "/twigs/a%00b",
    "/twigs/a%0d%0ab",
]


@pytest.mark.parametrize("path", PATHS_THAT_CLIMB)
def test_a_path_that_climbs_is_refused(served: Served, path: str) -> None:
    answer = served.client().get(API + path)
    assert answer.status_code == 422, answer.text
    assert "has a segment that no name may have" in answer.text


@given(st.lists(st.sampled_from([".", "..", "%2e", "%2E", "/", "%2f", "\\", "%5c", "%25", "a"]), max_size=8))
def test_no_spelling_of_dot_dot_passes(pieces: list[str]) -> None:
    from urllib.parse import unquote

    path = "/" + "".join(pieces)
    try:
        check_path(path.encode())
    except Refused:
        return
    for _ in range(4):
        path = unquote(path)
        assert ".." not in path.replace("\\", "/").split("/")


def test_websockets_are_refused(served: Served) -> None:
    assert served.client().websocket(f"{API}/leaves") == [{"type": "websocket.close", "code": 1008}]


def test_more_calls_than_the_bound_are_answered_503() -> None:
    """Threads and queue are bounded; what is beyond is refused at once, and told to come back."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from fourfold.server.app import Bounds

    class Slow(RealGarden):
        def __init__(self) -> None:
            super().__init__()
            self.gate = threading.Event()
            self.entered = threading.Semaphore(0)

        def gardener(self) -> str:
            self.entered.release()
            assert self.gate.wait(20)
            return "done"

    garden = Slow()
    app = build_app(
        [Mounted("garden", Garden, garden)],
        access=Access(Bearers(OWNER)),
        about=About("1"),
        bounds=Bounds(threads=2, waiting=0),
    )
    client = Client(app, {"Authorization": f"Bearer {OWNER}"})
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(client.get, f"{API}/gardener") for _ in range(2)]
        assert garden.entered.acquire(timeout=20)
        assert garden.entered.acquire(timeout=20)
        refused = client.get(f"{API}/gardener")
        garden.gate.set()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert [each.result().json() for each in busy] == ["done", "done"]


def test_the_owner_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    token = owner_token(tmp_path)
    assert token.startswith("ff_")
    assert len(token) >= 32
    assert owner_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    (tmp_path / "token").chmod(0o644)
    assert owner_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    (tmp_path / "token").write_text("")
    with pytest.raises(Refused, match="damaged"):
        owner_token(tmp_path)


def test_all_who_ask_for_the_owner_token_at_once_get_the_same(tmp_path: Path) -> None:
    for attempt in range(20):
        home = tmp_path / str(attempt)
        home.mkdir()
        start = threading.Barrier(8)

        def ask(home: Path = home, start: threading.Barrier = start) -> str:
            start.wait()
            return owner_token(home)

        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(ask) for _ in range(8)]
        assert len({each.result() for each in asked}) == 1
        assert [path.name for path in home.iterdir()] == ["token"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "lab.example"])
def test_listening_beyond_this_machine_needs_identity(host: str) -> None:
    with pytest.raises(Refused, match="without identity"):
        check_binding(host, has_identity=False)
    check_binding(host, has_identity=True)


def test_a_route_that_declares_two_bodies_is_a_mistake_found_at_start() -> None:
    def two(self: object, a: bytes, b: bytes) -> None: ...

    with pytest.raises(TypeError, match="only one argument may be the body"):
        _ = Route("POST", "/x", Role.viewer, "x", "two", two).shape
