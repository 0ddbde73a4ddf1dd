"""The channel between a gateway and the processes that hold models.

A worker process loads one model version and then calls in; the gateway listens. Rows travel as Arrow, and
nothing that arrives is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from fourfold.core.errors import Unavailable

if TYPE_CHECKING:
    import pyarrow as pa


class WorkerGone(Unavailable):
    """The worker's process ended, or its channel broke. Predicting is pure: ask another worker."""

    code: ClassVar[str] = "worker_gone"


class WorkerChannel(Protocol):
    """A worker that has loaded its model."""

    @property
    def key(self) -> str:
        """The key that the worker was started with; says which deployment and generation it is."""
        ...

    @property
    def inputs(self) -> pa.Schema:
        """The model's columns in."""
        ...

    @property
    def outputs(self) -> pa.Schema:
        """The model's columns out."""
        ...

    async def warm(self) -> float:
        """Replay the stored example and answer the seconds it took; `Refused` when it differs."""
        ...

    async def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """One answer for each row, in order.

        `Refused` when the model cannot take these rows; `WorkerGone` when nobody will answer. One call at a
        time: the caller batches.
        """
        ...

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call back once when the channel breaks (at once, if it has)."""
        ...

    def close(self) -> None:
        """Break the channel; the worker ends by itself when it sees that. Repeatable."""
        ...


class WorkerDoor(Protocol):
    """Where workers call in."""

    async def listen(self, on_worker: Callable[[WorkerChannel], None]) -> str:
        """Begin to listen; the address is what a worker is started with."""
        ...

    def close(self) -> None:
        """Stop listening. Channels stay."""
        ...
