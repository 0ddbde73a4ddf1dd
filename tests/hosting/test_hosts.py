"""Who runs the gateway, and the doors that are real sockets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from fourfold.adapters.gateway_client import HttpGatewayClient
from fourfold.adapters.uvicorn_server import UvicornServer
from fourfold.core.errors import Refused, Unavailable
from fourfold.core.hosting import EndpointSettings
from fourfold.mlplatform.hosting.host import HostDoor, ask_owner
from fourfold.mlplatform.hosting.service import check_endpoint_name, check_settings


def test_a_step_asks_the_owner_and_without_one_nobody_answers(tmp_path: Path) -> None:
    assert ask_owner(tmp_path, 0) == ""
    asked: list[int] = []

    def host(port: int) -> str:
        asked.append(port)
        return "http://127.0.0.1:4041"

    door = HostDoor(tmp_path, host)
    door.open()
    door.open()
    assert ask_owner(tmp_path, 7) == "http://127.0.0.1:4041"
    assert asked == [7]
    door.close()
    assert ask_owner(tmp_path, 7) == ""


def test_the_owner_says_why_the_gateway_did_not_start(tmp_path: Path) -> None:
    def host(port: int) -> str:
        raise Refused(f"port {port} of 127.0.0.1 is in use", ways_on=["choose another one"])

    door = HostDoor(tmp_path, host)
    door.open()
    with pytest.raises(Refused, match=r"port 80 of 127\.0\.0\.1 is in use") as caught:
        ask_owner(tmp_path, 80)
    assert caught.value.ways_on == ("choose another one",)
    door.close()


def test_who_knocks_wrongly_does_not_close_the_door_to_others(tmp_path: Path) -> None:
    door = HostDoor(tmp_path, lambda port: {7: "seven"}[port])
    door.open()
    (path,) = (tmp_path / "run").iterdir()
    for word in (b"", b"{", b"{}", b"[]", b'{"port": 8}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(str(path))
            caller.sendall(word)
            caller.shutdown(socket.SHUT_WR)
            assert caller.recv(100) == b""
    assert ask_owner(tmp_path, 7) == "seven"
    door.close()


def test_only_this_user_may_knock_at_the_door(tmp_path: Path) -> None:
    door = HostDoor(tmp_path.joinpath(*["deep"] * 20), lambda port: str(port))
    door.open()  # a path too long for a socket finds a short one
    assert ask_owner(tmp_path.joinpath(*["deep"] * 20), 5) == "5"
    door.close()
    near = HostDoor(tmp_path, lambda port: str(port))
    near.open()
    (made,) = (tmp_path / "run").iterdir()
    assert made.stat().st_mode & 0o077 == 0
    assert made.parent.stat().st_mode & 0o077 == 0
    near.close()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    del tmp_path
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        calls: list[Any] = []

        async def listening(host: str, port: int) -> None:
            calls.append((host, port))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError((scope, receive, send))

        server = UvicornServer()
        with pytest.raises(Refused, match=f"port {port} of 127.0.0.1 is in use"):
            asyncio.run(server.serve(app, host="127.0.0.1", port=port, on_listening=listening))
        assert calls == []


def test_a_client_says_that_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    client = HttpGatewayClient("t0ken")
    assert not client.is_alive(url)
    with pytest.raises(Unavailable, match="no gateway answers at"):
        client.predict(url, "late", [{}])


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "é", "x" * 64, "a.b"])
def test_a_name_that_could_not_be_an_address_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="cannot name an endpoint"):
        check_endpoint_name(name)


@pytest.mark.parametrize(
    "settings",
    [EndpointSettings(batch_rows_max=0), EndpointSettings(deadline_s=0), EndpointSettings(deadline_s=601)],
)
def test_settings_out_of_bounds_are_refused(settings: EndpointSettings) -> None:
    with pytest.raises(Refused, match="setting '"):
        check_settings(settings)
