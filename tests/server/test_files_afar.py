"""Folders and large files between a client's machine and a server: in pieces, verified, gone on with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fourfold.core.errors import Corrupted, Denied, NotFound, Refused
from fourfold.core.files import Pieces
from fourfold.core.ports.blobs import Digest
from fourfold.core.services import PROTOCOLS, Services
from fourfold.core.settings import Settings
from fourfold.foundation.storage.folders import service, ways
from fourfold.foundation.storage.folders.api import Files as Handle
from fourfold.server.app import Access, Mounted, build_app
from fourfold.server.identity import Bearers
from fourfold.server.pages import About
from fourfold.wiring import Project, RemoteProject

from .conftest import OWNER, TOKENS, answering, verify

pytestmark = pytest.mark.slow

PIECE = 10_000
LARGE = os.urandom(7 * PIECE + 123)
Tree = dict[str, bytes]
TREE: Tree = {"small/a": b"a", "small/b": b"", "large.bin": LARGE}


class Watched:
    """A service that counts its calls, and may do something else instead."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.calls: list[str] = []
        self.instead: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return self.instead.get(name, real)(*args, **kwargs)

        return call


@dataclass
class Server:
    project: Project
    url: str
    files: Watched
    storage: Watched
    opened: list[RemoteProject] = field(default_factory=list)

    def client(self, token: str = OWNER) -> Services:
        self.opened.append(RemoteProject(self.url, token))
        return cast(Services, self.opened[-1])

    def images(self) -> Handle:
        return Handle("images", service=self.client().files)

    def sent(self, name: str) -> int:
        return self.files.calls.count(name) + self.storage.calls.count(name)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for module in (ways, service):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE)
    project = Project(tmp_path / "project" / ".fourfold", Settings())
    files, storage = Watched(project.files), Watched(project.storage)
    app = build_app(
        [Mounted("files", PROTOCOLS["files"], files), Mounted("storage", PROTOCOLS["storage"], storage)],
        access=Access(Bearers(OWNER, verify)),
        about=About("1"),
    )
    with answering(app, tmp_path / "s.sock") as url:
        server = Server(project, url, files, storage)
        yield server
        for remote in server.opened:
            remote.close()
    project.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, data in TREE.items():
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(data)
    (tmp_path / "in" / "small/a").chmod(0o755)
    return tmp_path / "in"


def found(folder: Path) -> Tree:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def after(count: int, real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Do a thing some times, then fail."""
    left = [count]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return real(*args, **kwargs)

    return call


def test_a_folder_saved_from_afar_is_the_same_as_one_saved_beside(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    made = server.images().save(folder, tell=lambda done, total: told.append((done, total)))
    total = sum(map(len, TREE.values()))
    assert (made.version, made.file_count, made.size_bytes, made.added_bytes) == (0, 3, total, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)
    beside = Handle("images", service=server.project.files)
    assert beside.save(folder) == made
    server.images().materialize(tmp_path / "out")
    assert found(tmp_path / "out") == TREE
    assert (tmp_path / "out/small/a").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "out/large.bin").stat().st_mode & 0o777 == 0o444
    assert server.images().read("small/a") == b"a"
    server.images().save(folder, sha256=True)
    assert server.images().sha256("large.bin") == hashlib.sha256(LARGE).hexdigest()
    assert list(server.project.uploads.digests()) == [], "pieces go when the whole is there"


def test_what_is_there_is_not_sent_again(server: Server, folder: Path) -> None:
    server.images().save(folder)
    sent = server.sent("put_piece"), server.sent("put_blob")
    assert sent[0] == 8
    server.images().save(folder)
    assert (server.sent("put_piece"), server.sent("put_blob")) == sent


def test_an_upload_that_broke_off_sends_what_is_lacking(server: Server, folder: Path) -> None:
    server.files.instead["put_piece"] = after(3, server.project.files.put_piece, Refused("cut off"))
    with pytest.raises(Refused, match="cut off"):
        server.images().save(folder)
    assert server.project.files.list_files() == (), "nothing half is seen"
    arrived = len(list(server.project.uploads.digests()))
    assert arrived == 3
    server.files.instead.clear()
    server.files.calls.clear()
    assert server.images().save(folder).version == 0
    assert server.sent("put_piece") == 8 - arrived


KILLED = """
import os, signal, sys
from pathlib import Path
from fourfold.foundation.storage.folders import ways
from fourfold.wiring import RemoteProject

url, token, verb, folder = sys.argv[1:]
ways.PIECE_BYTES, ways.AT_ONCE = 10_000, 1
files = RemoteProject(url, token).files
told = []

def tell(done, total):
    told.append(done)
    if len(told) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

if verb == "save":
    files.save("images", Path(folder), tell=tell)
else:
    files.materialize("images", Path(folder), tell=tell)
"""


@pytest.mark.slow
def test_a_client_that_was_killed_goes_on_where_it_was(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "AT_ONCE", 1)

    def killed(verb: str, where: Path) -> int:
        line = [sys.executable, "-c", KILLED, server.url, OWNER, verb, str(where)]
        return subprocess.run(line, timeout=60, check=False).returncode

    assert killed("save", folder) == -9
    assert server.project.files.list_files() == ()
    server.files.calls.clear()
    assert server.images().save(folder).version == 0
    assert 0 < server.sent("put_piece") < 8
    assert killed("materialize", tmp_path / "out") == -9
    assert not (tmp_path / "out").exists()
    server.files.calls.clear()
    server.images().materialize(tmp_path / "out")
    assert 0 < server.sent("part") < 8
    assert found(tmp_path / "out") == TREE


def test_a_download_that_broke_off_fetches_what_is_lacking(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    server.images().save(folder)
    server.files.instead["part"] = after(3, server.project.files.part, Refused("cut off"))
    with pytest.raises(Refused, match="cut off"):
        server.images().materialize(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    server.files.instead.clear()
    server.files.calls.clear()
    server.images().materialize(tmp_path / "out")
    assert found(tmp_path / "out") == TREE
    assert server.sent("part") == 8 - 3
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "project", "s.sock"}


def test_a_half_that_was_spoilt_is_fetched_again(server: Server, folder: Path, tmp_path: Path) -> None:
    server.images().save(folder)
    server.files.instead["part"] = after(5, server.project.files.part, Refused("cut off"))
    with pytest.raises(Refused):
        server.images().materialize(tmp_path / "out")
    (part,) = tmp_path.glob(".out.*.part/.large.bin.*.part")
    part.write_bytes(b"?" * len(LARGE))
    server.files.instead.clear()
    server.images().materialize(tmp_path / "out")
    assert found(tmp_path / "out") == TREE


def test_a_piece_that_arrives_damaged_is_asked_for_again_and_never_used(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    server.images().save(folder)
    real, damaged = server.project.files.part, [1]

    def once(digest: Digest, offset: int, length: int) -> bytes:
        data = real(digest, offset, length)
        return b"!" + data[1:] if damaged and damaged.pop() else data

    server.files.instead["part"] = once
    server.images().materialize(tmp_path / "out")
    assert found(tmp_path / "out") == TREE
    server.files.instead["part"] = lambda digest, offset, length: b"!" + real(digest, offset, length)[1:]
    with pytest.raises(Corrupted, match="arrived damaged"):
        server.images().materialize(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_pieces_that_another_upload_was_done_with_are_sent_again(server: Server, folder: Path) -> None:
    calls: list[Digest] = []
    real = server.project.files.put_pieces

    def put_pieces(digest: Digest, pieces: tuple[Digest, ...], **given: Any) -> None:
        if not calls:
            server.project.uploads.delete(pieces[2])
        calls.append(digest)
        real(digest, pieces, **given)

    server.files.instead["put_pieces"] = put_pieces
    assert server.images().save(folder).version == 0
    assert len(calls) == 2


def test_pieces_are_checked_where_they_are_put_together(server: Server) -> None:
    files = server.client().files
    pieces = (files.put_piece(b"1"), files.put_piece(b"2"))
    wrong = Digest("blake3:" + "0" * 64)
    with pytest.raises(Refused, match="the file changed while it was sent"):
        files.put_pieces(wrong, pieces)
    with pytest.raises(NotFound, match="not stored"):
        files.put_pieces(wrong, (wrong,))
    with pytest.raises(Refused, match="at most"):
        files.put_piece(b"x" * (PIECE + 1))
    with pytest.raises(Refused, match="at most"):
        files.part(wrong, 0, PIECE + 1)


def test_chunks_are_sent_once_and_come_back(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ways, service):
        monkeypatch.setattr(module, "PIECE_BYTES", 8 << 20)  # larger than any chunk
    first = server.images().save(folder, chunked=True)
    assert first.added_bytes == sum(map(len, TREE.values()))
    (folder / "large.bin").write_bytes(LARGE + b"more")
    second = server.images().save(folder)
    assert second.added_bytes < second.size_bytes
    server.images().materialize(tmp_path / "out")
    assert found(tmp_path / "out") == {**TREE, "large.bin": LARGE + b"more"}


def test_a_viewer_reads_and_saves_nothing(server: Server, folder: Path, tmp_path: Path) -> None:
    server.images().save(folder)
    viewer = Handle("images", service=server.client(TOKENS["viewer"]).files)
    viewer.materialize(tmp_path / "out")
    assert found(tmp_path / "out") == TREE
    with pytest.raises(Denied):
        viewer.save(folder)
    editor = server.client(TOKENS["editor"]).files
    with pytest.raises(Denied):
        editor.drop("images")


def test_a_file_of_the_clients_machine_is_stored_and_put_in_place_from_afar(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    storage = server.client().storage
    digest = storage.put_file(folder / "large.bin")
    assert server.project.storage.get_blob(digest) == LARGE
    storage.materialize(digest, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == LARGE
    with pytest.raises(NotFound, match="is not a file"):
        storage.put_file(tmp_path / "absent")


def test_a_cut_tells_each_pieces_digest(server: Server) -> None:
    digest = server.project.storage.put_blob(LARGE)
    cut = server.client().files.pieces(digest)
    digests = server.project.files.pieces(digest).digests
    assert cut == Pieces(len(LARGE), digests)
    assert len(set(digests)) == 8
