"""The objects of a cluster: versions, conflicts, owners, and a bounded history for those who watch."""

from __future__ import annotations

import copy
import itertools
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fourfold.testing.kubernetes.errors import already_exists, conflict, gone, not_found
from fourfold.testing.kubernetes.kinds import POD, Kind

Item = dict[str, Any]
MOST_HISTORY = 10_000
BOOKMARK_S = 1.0
"""So often a quiet watch that asked for bookmarks is sent one."""
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    kind: Kind
    what: str
    item: Item


class Store:
    """All objects. Everything that goes in or out is a copy; may be used from several threads."""

    def __init__(self) -> None:
        self._items: dict[Kind, dict[tuple[str, str], Item]] = {}
        self._history: deque[Change] = deque(maxlen=MOST_HISTORY)
        self._versions = itertools.count(1)
        self.oldest = 0
        self.version = 0
        self.changed = threading.Condition(threading.RLock())

    # Reading.

    def get(self, kind: Kind, namespace: str, name: str) -> Item:
        with self.changed:
            return copy.deepcopy(self._found(kind, namespace, name))

    def find(self, kind: Kind, namespace: str, name: str) -> Item | None:
        with self.changed:
            item = self._items.get(kind, {}).get((namespace, name))
            return copy.deepcopy(item)

    def list(self, kind: Kind, namespace: str = "") -> list[Item]:
        """By namespace and name; of all namespaces where none is given."""
        with self.changed:
            rows = self._items.get(kind, {})
            return [copy.deepcopy(rows[key]) for key in sorted(rows) if namespace in ("", key[0])]

    def watch(
        self, kind: Kind, namespace: str, since: int, until: float, is_over: Callable[[], bool]
    ) -> Iterator[Change | int]:
        """Changes after version `since`, in order; now and then the version up to which all are told.

        Raises `ApiError` 410 when some of them have been forgotten.
        """
        seen = since
        while not is_over():
            with self.changed:
                left = until - time.monotonic()
                if self.version <= seen:
                    if left <= 0:
                        return
                    self.changed.wait(min(left, BOOKMARK_S))
                if seen < self.oldest:
                    raise gone(f"too old resource version: {seen} ({self.oldest})")
                found = [each for each in self._history if each.version > seen]
                seen = max(seen, self.version)
            mine = [each for each in found if each.kind == kind and namespace in ("", _namespace(each.item))]
            yield from mine
            if not mine:
                yield seen

    def forget_history(self) -> None:
        """As etcd's compaction: who watches from an older version has to list again."""
        with self.changed:
            self._history.clear()
            self.oldest = self.version
            self.changed.notify_all()

    # Writing.

    def create(self, kind: Kind, body: Mapping[str, Any]) -> Item:
        with self.changed:
            item = copy.deepcopy(dict(body))
            metadata = item["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            if key in self._items.setdefault(kind, {}):
                raise already_exists(kind.plural, metadata["name"])
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now_text(), "generation": 1}
            return self._put(kind, item, "ADDED")

    def replace(self, kind: Kind, body: Mapping[str, Any]) -> Item:
        """Put a whole object. With a version in it, only if it is still the newest."""
        with self.changed:
            item = copy.deepcopy(dict(body))
            metadata = item["metadata"]
            old = self._found(kind, metadata.get("namespace", ""), metadata["name"])
            asked = metadata.get("resourceVersion")
            if asked and asked != old["metadata"]["resourceVersion"]:
                raise conflict(kind.plural, metadata["name"])
            for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
                metadata.pop(name, None)
                if name in old["metadata"]:
                    metadata[name] = old["metadata"][name]
            is_other = item.get("spec") != old.get("spec")
            metadata["generation"] = old["metadata"].get("generation", 1) + is_other
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            if item == old:
                return copy.deepcopy(old)
            if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind != POD:
                return self._drop(kind, item)
            return self._put(kind, item, "MODIFIED")

    def change(self, kind: Kind, namespace: str, name: str, act: Callable[[Item], object]) -> Item | None:
        """Change an object in place, whatever its version; `None` where it is gone."""
        with self.changed:
            item = self.find(kind, namespace, name)
            if item is None:
                return None
            act(item)
            return self.replace(kind, item)

    def delete(
        self, kind: Kind, namespace: str, name: str, *, grace_s: int | None = None, policy: str = ""
    ) -> Item:
        """Delete, or mark to be deleted what has finalizers or is a pod that may still run."""
        with self.changed:
            item = copy.deepcopy(self._found(kind, namespace, name))
            metadata = item["metadata"]
            if finalizer := {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy):
                metadata["finalizers"] = sorted({*(metadata.get("finalizers") or []), finalizer})
            if kind == POD and item["spec"].get("nodeName"):
                wanted = item["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
                is_over = item.get("status", {}).get("phase") in ("Succeeded", "Failed")
                wanted = 0 if is_over else wanted
                if wanted > 0:
                    known = metadata.get("deletionGracePeriodSeconds")
                    metadata["deletionGracePeriodSeconds"] = wanted if known is None else min(known, wanted)
                    metadata.setdefault("deletionTimestamp", now_text())
                    return self._put(kind, item, "MODIFIED")
            if metadata.get("finalizers"):
                metadata.setdefault("deletionTimestamp", now_text())
                if kind == POD and not item["spec"].get("nodeName"):
                    item.setdefault("status", {})["phase"] = "Failed"  # no node has to end it
                return self._put(kind, item, "MODIFIED")
            return self._drop(kind, item)

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Take an object out at once, whatever it says."""
        with self.changed:
            item = self._items.get(kind, {}).get((namespace, name))
            if item is not None:
                self._drop(kind, copy.deepcopy(item))

    # How.

    def _found(self, kind: Kind, namespace: str, name: str) -> Item:
        item = self._items.get(kind, {}).get((namespace, name))
        if item is None:
            raise not_found(kind.plural, name)
        return item

    def _put(self, kind: Kind, item: Item, what: str) -> Item:
        self._stamp(item)
        self._items[kind][(_namespace(item), item["metadata"]["name"])] = item
        self._tell(kind, what, item)
        return copy.deepcopy(item)

    def _drop(self, kind: Kind, item: Item) -> Item:
        self._stamp(item)
        del self._items[kind][(_namespace(item), item["metadata"]["name"])]
        self._tell(kind, "DELETED", item)
        return item

    def _stamp(self, item: Item) -> None:
        self.version = next(self._versions)
        item["metadata"]["resourceVersion"] = str(self.version)

    def _tell(self, kind: Kind, what: str, item: Item) -> None:
        if len(self._history) == MOST_HISTORY:
            self.oldest = self._history[0].version
        self._history.append(Change(self.version, kind, what, copy.deepcopy(item)))
        self.changed.notify_all()


def now_text() -> str:
    """The present as Kubernetes writes it: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _namespace(item: Mapping[str, Any]) -> str:
    return str(item["metadata"].get("namespace", ""))
