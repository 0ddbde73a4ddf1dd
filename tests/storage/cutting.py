"""Cutting an operation on Delta tables at every step, and looking at what is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.storage.disks import CutDisk, ForgetfulDisk, Killed

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.local import LocalPlace
from fourfold.core.errors import NotFound, OutOfSpace
from fourfold.testing.table_kit.given import held

Operation = Callable[[DeltaTables], object]
Told = dict[str, list[list[tuple[object, ...]] | None]]
"""Name to what each of its versions holds; `None` where it was vacuumed."""


def told(store: DeltaTables) -> Told:
    """Everything that the store holds."""
    names = [(name, branch) for name in store.names() for branch in ("", *store.branches(name))]
    return {address: versions(store, address) for address in (n + (b and f"@{b}") for n, b in names)}


def versions(store: DeltaTables, name: str) -> list[list[tuple[object, ...]] | None]:
    found: list[list[tuple[object, ...]] | None] = []
    for version in range(store.snapshot(name).version + 1):
        try:
            found.append(held(store, name=name, version=version))
        except NotFound:
            found.append(None)
    return found


def leftovers(store: DeltaTables, folder: Path, name: str) -> list[str]:
    """Files of a table that no version names and nobody needs."""
    needed = set()
    for address in (name, *(f"{name}@{branch}" for branch in store.branches(name))):
        for version in range(store.snapshot(address).version + 1):
            needed |= {file.stored_at for file in store._log(address).at(version).files.values()}
    there = {str(path.relative_to(folder / name)) for path in (folder / name).rglob("*") if path.is_file()}
    kept = ("_delta_log/0", "_delta_log/.turn")
    return sorted(path for path in there - needed if not any(word in path for word in kept))


def cuts(
    base: Path,
    operation: Operation,
    disk: CutDisk,
    *,
    error: int | None = None,
    durable: ForgetfulDisk | None = None,
) -> Iterator[tuple[Path, bool]]:
    """The operation cut at each step, and at last not: the folder, and whether it was acknowledged."""
    for number in range(2000):
        folder = base.with_name(f"cut-{number}")
        shutil.copytree(base, folder)
        if durable is not None:
            durable.sync_all(folder)
        disk.arm(None)
        store = DeltaTables(LocalPlace(folder, disk))
        for address in ("t", "t@dev"):
            with store._log(address).turn():
                pass  # so that their folders are known to be safe, as they are to a store at work
        disk.arm(number, error)
        try:
            operation(store)
            is_done = True
        except (Killed, OutOfSpace):
            is_done = False
        was_cut = disk.was_cut
        disk.arm(None)
        yield folder, is_done
        shutil.rmtree(folder)
        if not was_cut:
            assert is_done
            return
    raise AssertionError("the operation has no end")
