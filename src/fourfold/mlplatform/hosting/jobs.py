"""The gateway's worker processes as jobs of its engine: started, looked at, ended, and why they ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from fourfold.core.errors import FourfoldError
from fourfold.core.features import Kind
from fourfold.core.hosting import Deployment
from fourfold.core.ports.engine import Engine, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.core.services.features import Features
from fourfold.core.services.models import Models
from fourfold.core.services.storage import Storage
from fourfold.mlplatform.hosting.homes import Homes
from fourfold.mlplatform.hosting.running import Behind

logger = logging.getLogger("fourfold.hosting")

LOG_TAIL_BYTES = 2000
HUNG_UP_S = 0.5
"""How long the engine is asked how a worker ended that hung up."""
STOP_S = 2.0

KINDS: dict[Kind, pa.DataType] = {
    Kind.int: pa.int64(),
    Kind.float: pa.float64(),
    Kind.bool: pa.bool_(),
    Kind.string: pa.string(),
    Kind.time: pa.timestamp("us", "UTC"),
}


class WorkerJobs:
    """Speaks to the engine, from one thread of its own, because an engine may take its time."""

    def __init__(self, engine: Engine, homes: Homes, models: Models) -> None:
        self._engine = engine
        self._homes = homes
        self._models = models
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def reap(self) -> None:
        """End what a gateway that was killed left running."""
        await self._ask(self._engine.reap, ())

    async def start(
        self, deployment: Deployment, key: str, address: str, is_wanted: Callable[[], bool]
    ) -> None:
        """Start the worker of a deployment, which will call in at `address`; may build its environment."""
        version = await asyncio.to_thread(self._models.resolve, deployment.model)
        home = await asyncio.to_thread(self._homes.home, version)
        # -P: modules of the folder it starts in must not stand in for those of the library.
        command = (home.python, "-P", "-m", "fourfold.mlplatform.hosting.worker")
        argv = (*command, address, key, str(home.folder), version.digest)
        if is_wanted():  # it may have been given up meanwhile
            resources = Resources(cpu=Range(0))
            await self._ask(
                self._engine.submit, Launch(key, argv, kind="service", env=home.env, resources=resources)
            )

    async def ended(self, keys: Sequence[str]) -> list[str]:
        """Which of these jobs have ended."""
        if not keys:
            return []
        try:
            found = await self._ask(self._engine.status, keys)
        except FourfoldError:
            return []
        return [key for key in keys if found[key].phase is Phase.ended]

    async def how_it_ended(self, key: str) -> str:
        """The engine's words for the end, with the last lines that the worker wrote."""
        try:
            # Its channel breaks a moment before its engine hears of its end.
            status = (await self._ask(self._engine.wait, [key], HUNG_UP_S))[key]
            said = await self._ask(self._log_tail, key)
        except FourfoldError as error:
            return f"its worker ended ({error.message})"
        how = f"{status.exit.kind}: {status.exit.reason}" if status.exit is not None else "it hung up"
        return f"its worker ended ({how})" + (f"\n{said}" if said else "")

    async def stop(self, key: str) -> None:
        try:
            await self._ask(self._engine.stop, key, STOP_S)
        except FourfoldError as error:
            logger.warning("worker %s was not stopped: %s", key, error)

    def close(self) -> None:
        self._thread.shutdown()

    async def _ask(self, call: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def _log_tail(self, key: str) -> str:
        offset, tail = 0, b""
        while True:
            chunk = self._engine.logs(key, offset)
            tail = (tail + chunk.data)[-LOG_TAIL_BYTES:]
            if not chunk.data or chunk.next_offset == offset:
                return tail.decode(errors="replace").strip()
            offset = chunk.next_offset


def look_up_features(behind: Behind, features: Features, storage: Storage) -> None:
    """Compile the feature service that a deployment reads, and learn its types."""
    if not behind.deployment.features or behind.plan is not None:
        return
    name, _, version = behind.deployment.features.partition("@")
    info = features.service(name, version=version or None)
    behind.feature_kinds = {
        feature: KINDS[kind] for feature, kind in info.kinds.items() if feature in info.service.feature_names
    }
    kinds: dict[str, pa.DataType] = {}
    for use in info.service.uses:
        source = features.view(use.view, version=use.version).view.source
        columns = {column.name: column.type for column in storage.describe(source.table).columns}
        for key in use.keys:
            kind = _plain_type(columns.get(key.key, ""))
            if kind is not None:
                kinds.setdefault(key.column, kind)
    behind.key_kinds = kinds
    behind.plan = features.plan(name, version=version or None)


def _plain_type(text: str) -> pa.DataType | None:
    """The Arrow type of a key column by its name; `None` for what no key should be."""
    try:
        return pa.type_for_alias(text)
    except ValueError:
        return None
