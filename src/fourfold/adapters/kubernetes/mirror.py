"""What a cluster has of one kind that is ours, kept up by a watch."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from fourfold.adapters.kubernetes.api import Expired, KubeApi
from fourfold.core.errors import FourfoldError

WATCH_S = 50
"""So long is one watch; the next goes on where it ended."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


T = TypeVar("T", bound=Named)


class Mirror(Generic[T]):
    """Objects by name. Thread-safe. Without a watch it is as new as the last list."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        selector: str,
        read: Callable[[Mapping[str, Any]], T],
        told: Callable[[], None],
        *,
        changed: Callable[[T | None, T], None] = lambda old, new: None,  # noqa: ARG005
    ) -> None:
        """`told` is called after each change, `changed` with what it was and is."""
        self.path = path
        self._api, self._selector, self._read = api, selector, read
        self._told, self._changed = told, changed
        self._items: dict[str, T] = {}
        self._version = ""
        self._proof_at: float | None = None
        self._floor = 0
        self._is_watching = False
        self._lock = threading.RLock()
        self._listing = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def find(self, name: str) -> T | None:
        with self._lock:
            return self._items.get(name)

    def all(self) -> list[T]:
        with self._lock:
            return [self._items[name] for name in sorted(self._items)]

    @property
    def is_watching(self) -> bool:
        return self._is_watching

    def refresh(self, *, within_s: float) -> None:
        """Make sure that what is here was true within the last seconds; lists where it may not be."""
        if self._is_fresh(within_s):
            return
        asked_at = time.monotonic()
        with self._listing:
            if self._proof_at is None or self._proof_at < asked_at:  # else another has just asked
                self._list()

    def _is_fresh(self, within_s: float) -> bool:
        proof_at = self._proof_at
        return self._is_watching and proof_at is not None and time.monotonic() - proof_at <= within_s

    def put(self, item: Mapping[str, Any]) -> None:
        """What the cluster has just answered of one object."""
        self._apply("MODIFIED", item)

    def watch(self) -> None:
        """Begin to watch, if nobody has."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                name = f"kubernetes-{self.path.rpartition('/')[2]}"
                self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """The thread ends once its connection has."""
        self._closing.set()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(5)

    def _list(self) -> None:
        asked_at = time.monotonic()
        rows, version = self._api.list(self.path, self._selector)
        found = {item.name: item for item in map(self._read, rows)}
        with self._lock:
            for name, item in found.items():
                self._changed(self._items.get(name), item)
            self._items, self._version, self._proof_at = found, version, asked_at
            self._floor = _number(version)
        self._told()

    def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                if not self._version:
                    with self._listing:
                        self._list()
                self._watch_once()
                pause_s = FIRST_PAUSE_S
            except Expired:
                self._version = ""
            except FourfoldError:  # whoever asks meanwhile asks by a list, and hears what is wrong
                self._is_watching = False
                self._told()
                self._closing.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            finally:
                self._is_watching = False

    def _watch_once(self) -> None:
        for event in self._api.watch(
            self.path, self._version, self._selector, within_s=WATCH_S, begun=self._begun
        ):
            if self._closing.is_set():
                return
            item = event["object"]
            version = str((item.get("metadata") or {}).get("resourceVersion") or "")
            with self._lock:
                self._proof_at = time.monotonic()
                if event["type"] != "BOOKMARK":
                    self._apply(event["type"], item)
                if _number(version) >= _number(self._version):
                    self._version = version

    def _begun(self) -> None:
        with self._lock:
            self._is_watching, self._proof_at = True, time.monotonic()

    def _apply(self, what: str, item: Mapping[str, Any]) -> None:
        with contextlib.suppress(KeyError, TypeError, ValueError):  # an object of a later Kubernetes
            seen = self._read(item)
            with self._lock:
                old = self._items.get(seen.name)
                version = _number(seen.version)
                if version <= self._floor or (old is not None and version < _number(old.version)):
                    return  # the list that came after it knows better
                if what == "DELETED":
                    self._items.pop(seen.name, None)
                else:
                    self._items[seen.name] = seen
                self._changed(old, seen)
            self._told()


def _number(version: str) -> int:
    """Versions of one cluster are numbers that grow."""
    return int(version) if version.isdigit() else 0
