"""What room a cluster has, and how much of it a launch is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fourfold.adapters.slurm.cluster import Cluster, Node, Order, Partition, Traits
from fourfold.core.decide.match import match, refusal, shortfalls
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.ports.engine import Launch, Offer, Resources
from fourfold.core.quantities import bytes_text
from fourfold.core.times import duration_text

MIB = 1 << 20
NODES_FRESH_S = 15.0
SETTINGS_FRESH_S = 300.0
TIME_MARGIN_MIN = 2
"""So much longer than the limit Slurm lets a job go on: the keeper ends it first, and says why."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """An answer that serves for a while."""

    def __init__(self, ask: Callable[[], T], fresh_s: float) -> None:
        self._ask, self._fresh_s = ask, fresh_s
        self._answer: tuple[float, T] | None = None

    def __call__(self, *, anew: bool = False) -> T:
        now = time.monotonic()
        if anew or self._answer is None or now - self._answer[0] > self._fresh_s:
            self._answer = (now, self._ask())
        return self._answer[1]


@dataclass(frozen=True, slots=True)
class Place:
    """What a launch is given on each node."""

    cpus: int
    memory_mib: int | None
    gpus: int
    gpu_name: str
    time_limit_min: int | None


class Room:
    """The nodes of a cluster's partition as units, and what is asked of them."""

    def __init__(self, cluster: Cluster, partition: str, price_usd_per_hour: float) -> None:
        self._name = partition
        self._price = price_usd_per_hour
        self._nodes = Remembered(cluster.nodes, NODES_FRESH_S)
        self._partitions = Remembered(cluster.partitions, SETTINGS_FRESH_S)
        self.traits: Callable[[], Traits] = Remembered(cluster.traits, SETTINGS_FRESH_S)

    def nodes(self, *, anew: bool = False) -> list[Node]:
        """The nodes of our partition."""
        name = self.partition().name
        return [node for node in self._nodes(anew=anew) if name in node.partitions]

    def partition(self) -> Partition:
        """The partition that the address names, else the cluster's default."""
        found = {each.name: each for each in self._partitions()}
        if self._name:
            if self._name not in found:
                raise Refused(
                    f"the cluster has no partition '{self._name}'",
                    ways_on=did_you_mean(self._name, found, what="partitions"),
                )
            return found[self._name]
        default = [each for each in found.values() if each.is_default]
        if not default:
            raise Refused(
                "the cluster has no default partition",
                ways_on=[
                    "name one: slurm://?partition=NAME",
                    f"partitions: {', '.join(sorted(found)) or '(none)'}",
                ],
            )
        return default[0]

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        if self._too_long(request) is not None:
            return ()
        return match(request, self._all(self.nodes()))

    def place(self, launch: Launch) -> Place:
        """What to ask for; refuses what no node can ever give, with the nearest."""
        request, who = launch.resources, f"job '{launch.key}'"
        if (refused := self._too_long(request)) is not None:
            raise Refused(f"{who} {refused.message}", ways_on=refused.ways_on)
        nodes = self.nodes()
        fitting = match(request, self._all(nodes))
        if len(fitting) < launch.nodes:  # perhaps a node has come back
            nodes = self.nodes(anew=True)
            fitting = match(request, self._all(nodes))
        if not fitting:
            refused = refusal(request, self._all(nodes), who=who)
            raise Refused(
                refused.message, ways_on=[*refused.ways_on, *self._closed(request, nodes)], **refused.facts
            )
        if len(fitting) < launch.nodes:
            raise Refused(
                f"{who} asks for {launch.nodes} nodes, and {len(fitting)} could take it",
                ways_on=[f"they are {_list(fitting)}", *self._closed(request, nodes), "ask for fewer nodes"],
            )
        return self._given(request, fitting)

    def order(
        self, launch: Launch, place: Place, *, name: str, comment: str, script: str, output: str
    ) -> Order:
        return Order(
            name=name,
            comment=comment,
            script=script,
            output=output,
            cpus=place.cpus,
            memory_mib=place.memory_mib,
            gpus=place.gpus,
            gpu_name=place.gpu_name,
            nodes=launch.nodes,
            time_limit_min=place.time_limit_min,
        )

    # How.

    def _all(self, nodes: list[Node]) -> list[Offer]:
        if self.partition().closed:
            return []
        return [
            Offer(node.name, node.cpus, node.memory_bytes, node.gpus, node.gpu_name, self._price)
            for node in nodes
            if not node.closed
        ]

    def _closed(self, request: Resources, nodes: list[Node]) -> list[str]:
        """Nodes that would do, and take nothing now."""
        closed = [node for node in nodes if node.closed]
        would = [
            f"{node.name} ({node.closed})"
            for node in closed
            if not shortfalls(
                request, Offer(node.name, node.cpus, node.memory_bytes, node.gpus, node.gpu_name)
            )
        ]
        partition = self.partition()
        about = [f"partition '{partition.name}' is {partition.closed}"] if partition.closed else []
        return [*about, *([f"would do, and takes no work now: {', '.join(would[:4])}"] if would else [])]

    def _too_long(self, request: Resources) -> Refused | None:
        limit_s, most_s = request.time_limit_s, self.partition().time_limit_s
        if limit_s is None or most_s is None or limit_s <= most_s:
            return None
        return Refused(
            f"asks for {duration_text(limit_s)}, and partition '{self.partition().name}' gives no more than "
            f"{duration_text(most_s)}",
            ways_on=["ask for less time, or name another partition in the pool's address"],
        )

    def _given(self, request: Resources, fitting: tuple[Offer, ...]) -> Place:
        cpus = max(1, math.ceil(request.cpu.low))
        if request.cpu.high is not None:
            cpus = max(cpus, min(math.floor(request.cpu.high), int(min(offer.cpu for offer in fitting))))
        return Place(
            cpus,
            self._memory_mib(request, fitting, cpus),
            math.ceil(request.gpu.low),
            fitting[0].gpu_name if request.gpu.low else "",
            self._minutes(request),
        )

    def _memory_mib(self, request: Resources, fitting: tuple[Offer, ...], cpus: int) -> int | None:
        """What to reserve. Where Slurm ends what goes past it, as much as the job may use at most."""
        low, high = request.memory_bytes.low, request.memory_bytes.high
        if self.traits().enforces_memory and high is not None:
            low = max(low, min(high, min(offer.memory_bytes for offer in fitting)))
        if low > 0:
            return math.ceil(low / MIB)
        if self.traits().has_default_memory:
            return None
        # Who asks for none would get the whole node's: we ask for the share that goes with the cores.
        return max(1, int(min(offer.memory_bytes / offer.cpu for offer in fitting) * cpus) // MIB)

    def _minutes(self, request: Resources) -> int | None:
        if request.time_limit_s is None:
            return None
        minutes = math.ceil(request.time_limit_s / 60) + TIME_MARGIN_MIN
        most_s = self.partition().time_limit_s
        return minutes if most_s is None else min(minutes, int(most_s // 60))


def _list(offers: tuple[Offer, ...]) -> str:
    shown = [f"{each.unit} ({each.cpu:g} cores, {bytes_text(each.memory_bytes)})" for each in offers[:4]]
    return ", ".join(shown) + (f", and {len(offers) - 4} more" if len(offers) > 4 else "")
