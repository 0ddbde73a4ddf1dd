"""What the code that runs now is part of: a step, a flow's body, or nothing.

The rooms do not know who runs them. A step's runner installs an `Ambient`, and storage, models and
features report what they read and wrote to it; this is how lineage is recorded without anyone asking
for it, and how a repeated attempt's write is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fourfold.core.services import Services


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """A thing at a version: what lineage connects.

    `kind` is one of `table`, `insert` (rows on their way to a table, by number), `files`, `dataset`, `blob`,
    `run`, `model`, `feature_service`, `training_set`, `labels` (rows handed in for one, by digest),
    `endpoint`, `step` (a step call of a flow run), `flow_run`. `version` is empty for what has none.
    """

    kind: str
    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class Executing:
    """Who executes: the flow run, the step call and the attempt (its fence)."""

    flow_run: str
    call: str
    attempt: int
    code: str
    """Digest of the code bundle."""
    environment: str
    """Identity of the environment (hash of its lock)."""
    user: str = ""

    @property
    def ref(self) -> Ref:
        return Ref("step", f"{self.flow_run}/{self.call}", str(self.attempt))


class Ambient(Protocol):
    """What a runner offers to the code that it runs."""

    @property
    def executing(self) -> Executing: ...

    def record_read(self, ref: Ref) -> None:
        """Report that `ref` was read. Called many times with the same `ref`, it counts once."""

    def record_write(self, ref: Ref) -> None:
        """Report that `ref` was written."""

    def write_key(self) -> str:
        """A key for the next write, equal in every attempt of this call: (call key, write index).

        A store that has seen the key already does nothing and answers as it did the first time.
        """


_ambient: ContextVar[Ambient | None] = ContextVar("fourfold_ambient", default=None)
_own_key: ContextVar[str | None] = ContextVar("fourfold_own_key", default=None)
_opener: Callable[[], Services] | None = None


def ambient() -> Ambient | None:
    """The ambient of the code that runs now; `None` outside steps and bodies."""
    return _ambient.get()


@contextmanager
def within(ambient: Ambient | None) -> Iterator[None]:
    """Run the block with this ambient; with `None` it is part of nothing, and reports to nobody."""
    token = _ambient.set(ambient)
    try:
        yield
    finally:
        _ambient.reset(token)


@contextmanager
def writing_as(key: str) -> Iterator[None]:
    """Do the block's one write under this key, whoever runs us: for work that outlives who began it."""
    token = _own_key.set(key)
    try:
        yield
    finally:
        _own_key.reset(token)


def record_read(ref: Ref) -> None:
    """Report a read to whoever runs us, if anybody does."""
    if (here := _ambient.get()) is not None:
        here.record_read(ref)


def record_write(ref: Ref) -> None:
    """Report a write to whoever runs us, if anybody does."""
    if (here := _ambient.get()) is not None:
        here.record_write(ref)


def write_key() -> str | None:
    """The idempotency key for the next write, or `None` outside a step or body."""
    if (own := _own_key.get()) is not None:
        return own
    here = _ambient.get()
    return None if here is None else here.write_key()


def set_opener(opener: Callable[[], Services]) -> None:
    """Say how the services of the present project are opened (done once, by the facade)."""
    global _opener
    _opener = opener


def services() -> Services:
    """The services of the present project, opened on first use."""
    assert _opener is not None, "the facade, imported before any room, says how a project is opened"
    return _opener()
