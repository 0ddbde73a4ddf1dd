"""Write paths of blobs and versioned folders, beside the store and from afar."""

from __future__ import annotations

import random
from pathlib import Path

from tests.dying.case import Case
from tests.dying.world import DAYS, aged_files

from fourfold import wiring
from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.fastcdc_chunks import FastCdcChunks
from fourfold.foundation.storage.folders import packing, service, ways
from fourfold.foundation.storage.folders.saving import Folders


def source(project: wiring.Project, size_bytes: int = 300_000) -> Path:
    """Files that nobody has saved, the same each time."""
    folder = project.home.parent / "source"
    folder.mkdir(exist_ok=True)
    chance = random.Random(7)
    for name in ("a", "b", "run.sh"):
        (folder / name).write_bytes(chance.randbytes(size_bytes // 3))
    (folder / "run.sh").chmod(0o755)
    return folder


def with_source(project: wiring.Project) -> None:
    source(project)
    out(project).parent.mkdir()


def out(project: wiring.Project) -> Path:
    return project.home.parent / "out" / "here"


def chunked(project: wiring.Project) -> object:
    vars(packing)["PACK_BYTES"] = 100_000
    return project.files.save("new", project.home.parent / "source", chunked=True)


def far(project: wiring.Project) -> Folders:
    """As a client of a server: everything in pieces, small ones."""
    for module in (ways, service):
        vars(module)["PIECE_BYTES"] = 30_000
    way = ways.Afar(project.storage, project.files, Blake3Digests())
    return Folders(project.files, way, Blake3Digests(), chunker=FastCdcChunks)


def fetched(project: wiring.Project) -> object:
    digest = project.files.manifest("new").files[0].digest
    return far(project)._way.materialize(digest, out(project))  # type: ignore[attr-defined]


def saved(project: wiring.Project) -> None:
    with_source(project)
    project.files.save("new", project.home.parent / "source")


def saved_in_chunks(project: wiring.Project) -> None:
    with_source(project)
    chunked(project)


def with_garbage(project: wiring.Project) -> None:
    for number in range(3):
        project.blobs.put(b"garbage %d" % number)
        project.files.put_piece(b"a piece %d" % number)
    project.close()
    aged_files(project.home)


def collected(project: wiring.Project) -> object:
    from tests.dying.tables import later

    project.parts["clock"] = later(project)
    return project.upkeep.collect_garbage(grace_s=DAYS)


def in_pieces(project: wiring.Project) -> None:
    digests = tuple(project.files.put_piece(data) for data in (b"one", b"two"))
    project.files.put_pieces(Blake3Digests().of(b"onetwo"), digests)


CASES = {
    "put a blob": Case(("storage.put_blob",), lambda p: p.storage.put_blob(b"x" * 5000), told_blobs=True),
    "put a file": Case(
        ("storage.put_file",),
        lambda p: p.storage.put_file(p.home.parent / "source" / "a"),
        prepare=with_source,
        told_blobs=True,
    ),
    "materialize a blob": Case(
        ("storage.materialize",),
        lambda p: p.storage.materialize(p.files.manifest("new").files[2].digest, out(p), executable=True),
        prepare=saved,
        leaves_files=True,
    ),
    "save": Case(
        ("files.save", "files.commit"),
        lambda p: p.files.save("new", p.home.parent / "source"),
        prepare=with_source,
    ),
    "save with SHA-256": Case(
        ("files.save", "files.sha256"),
        lambda p: p.files.save("new", p.home.parent / "source", sha256=True),
        prepare=with_source,
        between=lambda before, found, after: (
            {k: v for k, v in found.items() if k != "rows of storage_sha256"} == before
        ),
    ),
    "save in chunks": Case(("files.save",), chunked, prepare=with_source),
    "save a tag": Case(("files.tag",), lambda p: p.files.tag("images", "good")),
    "drop files": Case(("files.drop",), lambda p: p.files.drop("images")),
    "materialize": Case(("files.materialize",), lambda p: p.files.materialize("new", out(p)), prepare=saved),
    "materialize chunks": Case(
        ("files.materialize",), lambda p: p.files.materialize("new", out(p)), prepare=saved_in_chunks
    ),
    "pieces": Case(("files.put_piece", "files.put_pieces"), in_pieces, told_blobs=True),
    "save from afar": Case(
        ("files.put_piece", "files.put_pieces"),
        lambda p: far(p).save("new", p.home.parent / "source"),
        prepare=with_source,
    ),
    "materialize from afar": Case(
        ("files.part",), lambda p: far(p).materialize("new", out(p)), prepare=saved
    ),
    "fetch a blob from afar": Case(("files.part",), fetched, prepare=saved),
    "collect garbage": Case(
        ("upkeep.collect_garbage",),
        collected,
        prepare=with_garbage,
        told_blobs=True,
        is_anything=True,
        unsaid=("rows of catalog_audit", "rows of sqlite_sequence"),
    ),
}
