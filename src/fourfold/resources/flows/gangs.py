"""Gangs in front of the loop: one worker for it, several processes (ranks) for those who carry words.

A worker on several nodes is one process on each, and each has a connection of its own, as the peer
`WORKER.RANK`. The loop knows the worker alone: it has joined when all of its ranks are connected, what it is
sent goes to each of them, and it is done when all are. The first rank that fails has failed it. Nothing here
is kept over the loop's life: what ranks have and have done, they say themselves when they connect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.core.decide.gang import added_up
from fourfold.core.ports.control import Arrival, Away, Gone, Joined, Message
from fourfold.core.values import replace

Task = tuple[str, str, int]


Send = Callable[[str, dict[str, Any], Sequence[bytes]], None]
"""Carries a frame to a peer."""


def peers_of(worker: str, nodes: int) -> tuple[str, ...]:
    """The names under which a worker's processes connect, by rank.

    >>> peers_of("worker_7", 2), peers_of("worker_7", 1)
    (('worker_7.0', 'worker_7.1'), ('worker_7',))
    """
    return (worker,) if nodes == 1 else tuple(f"{worker}.{rank}" for rank in range(nodes))


def worker_of(peer: str) -> str:
    """The worker that a process is, or is one of.

    >>> worker_of("worker_7.1"), worker_of("worker_7")
    ('worker_7', 'worker_7')
    """
    return peer.partition(".")[0]


@dataclass(slots=True)
class _Rank:
    """One process of a gang."""

    peer: str
    joined: Joined | None = None
    """What it said when it connected, kept up with what it was sent and has said since; `None`: not there."""
    result: Message | None = None
    """What it came to, kept until all ranks are done."""


@dataclass(slots=True)
class _Gang:
    ranks: tuple[_Rank, ...]
    group: str = ""
    """That of the first process that came: those of another start of the job may not be mixed with it."""
    failed: Task | None = None
    """The task that a rank has failed: what others say of it does not count any more."""


class Gangs:
    """Translates between gangs and their ranks; everything else passes unchanged. Not thread-safe."""

    def __init__(self, *, post: Callable[[Arrival], None], send: Send) -> None:
        """`post` takes what is for the loop, `send` carries a frame to a peer."""
        self._post = post
        self._send = send
        self._gangs: dict[str, _Gang] = {}

    def __repr__(self) -> str:
        return f"<Gangs: {len(self._gangs)}>"

    def expect(self, worker: str, nodes: int) -> None:
        """This worker will come as so many processes."""
        if nodes > 1:
            self._gangs[worker] = _Gang(tuple(_Rank(peer) for peer in peers_of(worker, nodes)))

    def forget(self, worker: str) -> None:
        """This worker has ended."""
        self._gangs.pop(worker, None)

    def peers(self, worker: str) -> tuple[str, ...]:
        """Under which names this worker may be connected."""
        gang = self._gangs.get(worker)
        return (worker,) if gang is None else tuple(rank.peer for rank in gang.ranks)

    # To the ranks

    def send(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send a frame: to a gang, to each of its ranks."""
        for each in self.peers(peer):
            if (found := self._find(each)) is not None:
                self._note_sent(found[1], header)
            self._send(each, header, parts)

    @staticmethod
    def _note_sent(rank: _Rank, header: Mapping[str, Any]) -> None:
        if header["type"] == "refused" and header.get("is_stale"):
            rank.joined = None  # it must end
        elif header["type"] == "task":
            rank.result = None
            if rank.joined is not None:
                rank.joined = replace(rank.joined, has=_task(header), is_done=False)

    # To the loop

    def arrived(self, arrival: Arrival) -> None:
        """Something came from a peer or a pool."""
        match arrival:
            case Joined(peer) if (found := self._find(peer)) is not None:
                self._joined(*found, arrival)
            case Away(peer) if (found := self._find(peer)) is not None:
                found[1].joined = None
                self._post(Away(worker_of(peer)))
            case Message(peer) if (found := self._find(peer)) is not None:
                self._said(found[0], found[1], arrival)
            case Gone(peer):
                self.forget(peer)
                self._post(arrival)
            case _:
                self._post(arrival)

    def _joined(self, gang: _Gang, rank: _Rank, arrival: Joined) -> None:
        gang.group = gang.group or arrival.group
        if arrival.group != gang.group:
            told = "it is of another start of this worker's job: that was started twice"
            self._send(rank.peer, {"type": "refused", "key": "", "reason": told, "is_stale": True}, ())
            return
        rank.joined = arrival
        joined = [each.joined for each in gang.ranks if each.joined is not None]
        if len(joined) == len(gang.ranks):
            self._post(replace(joined[0], worker=worker_of(rank.peer), ranks=tuple(joined)))

    def _said(self, gang: _Gang, rank: _Rank, message: Message) -> None:
        header = message.header
        if header["type"] not in ("finished", "failed"):
            return  # a step says nothing else
        task, worker = _task(header), worker_of(rank.peer)
        if task == gang.failed:
            return
        if rank.joined is not None and rank.joined.has == task:
            rank.joined = replace(rank.joined, is_done=True)
        if header["type"] == "failed":
            gang.failed = task
            self._post(replace(message, peer=worker, header=_by(rank.peer, header)))
            return
        rank.result = message
        results = [each.result for each in gang.ranks if each.result is not None]
        if len(results) < len(gang.ranks) or any(_task(each.header) != task for each in results):
            return
        first = results[0]
        usage = added_up([each.header.get("usage") or {} for each in results])
        told = {**first.header, "usage": usage, "reads": _all_reads(results)}
        if ends := [end for each in results if (end := each.header.get("log_end")) is not None]:
            told["log_end"] = max(ends)  # they print into one log
        self._post(replace(first, peer=worker, header=told))

    def _find(self, peer: str) -> tuple[_Gang, _Rank] | None:
        gang = self._gangs.get(worker_of(peer))
        if gang is None:
            return None
        return next(((gang, rank) for rank in gang.ranks if rank.peer == peer), None)


def _task(header: Mapping[str, Any]) -> Task:
    return str(header["run"]), str(header["key"]), int(header["n"])


def _all_reads(results: Sequence[Message]) -> list[Any]:
    """What any rank has read, once each; only the first one writes."""
    seen = {tuple(ref): None for each in results for ref in each.header.get("reads", ())}
    return [list(ref) for ref in seen]


def _by(peer: str, header: dict[str, Any]) -> dict[str, Any]:
    """A failure, with the node that it was on."""
    failure = dict(header["failure"])
    failure["message"] = f"node {peer.rpartition('.')[2]}: {failure['message']}"
    return {**header, "failure": failure}
