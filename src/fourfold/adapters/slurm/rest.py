"""A cluster by its REST door, slurmrestd: nothing of Slurm has to be on this machine, but the shared folder.

The door speaks several versions of its interface at once and drops old ones; its own OpenAPI document says
which. We take the newest that we know. What changed between them: the environment was a map and is a list;
the script moved into the job; numbers and states changed their shape (see `records`).
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fourfold.adapters.slurm import records
from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cluster import Node, Order, Partition, SlurmJob, Traits
from fourfold.core.errors import Refused, Unauthenticated, Unavailable
from fourfold.core.times import SECOND_US, Instant

OLDEST, NEWEST = 38, 43
"""Versions of the interface (`v0.0.N`) that we know how to read; only the oldest was run for real."""
FEW = 8
"""So many jobs are asked for one by one; more by a list of the whole queue, which the door cannot filter."""
MOST_BYTES = 256 << 20
NOT_FOUND = frozenset({2017})
"""Slurm's number for a job that it does not know."""
NOTHING_FOUND = frozenset({9003})
HAS_ENDED = frozenset({2021})
NOT_BELIEVED = frozenset({1007, 2002})
"""Slurm's numbers for a credential that it does not take."""
UNSAID = "Unspecified error"
AT_ONCE_S = 1.0
"""Release 22.05 says "Unspecified error", and no more, both to a wrong token and when its controller is away.
The first it says at once, the second after it has tried for nine seconds."""


class SlurmRest:
    """Fulfils `Cluster` over HTTP, with a token of Slurm's own (`scontrol token`)."""

    def __init__(self, address: SlurmAddress, environ: Mapping[str, str]) -> None:
        self._address = address
        self._environ = environ
        parts = urlsplit(address.url)
        self._is_secure = parts.scheme == "https"
        self._host, self._port = str(parts.hostname), parts.port
        self._user = address.user or environ.get("USER") or environ.get("LOGNAME") or ""
        self._known_version: int | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SlurmRest at {self._address.url}>"

    def submit(self, order: Order) -> int:
        version = self._version
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"}
        job: dict[str, Any] = {
            "name": order.name,
            "comment": order.comment,
            "environment": environment
            if version <= 38
            else [f"{name}={value}" for name, value in environment.items()],
            "current_working_directory": "/",
            "standard_input": "/dev/null",
            "standard_output": order.output.replace("%", "%%"),
            "requeue": False,
            "tasks": order.nodes,
            "cpus_per_task": order.cpus,
        }
        if order.nodes > 1:
            job["tasks_per_node"] = 1
            job["nodes"] = [order.nodes, order.nodes] if version <= 38 else str(order.nodes)
        if order.memory_mib is not None:
            job["memory_per_node"] = _amount(order.memory_mib, version)
        if order.time_limit_min is not None:
            job["time_limit"] = _amount(order.time_limit_min, version)
        if order.gpus:
            wanted = ":".join(filter(None, ("gpu", order.gpu_name, str(order.gpus))))
            job.update({"gres": wanted} if version <= 38 else {"tres_per_node": f"gres/{wanted}"})
        for name in ("partition", "account", "qos"):
            if value := getattr(self._address, name):
                job[name] = value
        if self._address.constraint:
            job["constraints"] = self._address.constraint
        body = {"script": order.script, "job": job}
        if version >= 40:
            body = {"job": {**job, "script": order.script}}
        told = self._call("POST", f"/slurm/v0.0.{version}/job/submit", body)
        number = records.number(told.get("job_id")) or records.number(
            (told.get("result") or {}).get("job_id")
        )
        if not number:
            raise Unavailable(f"{self._address.url} took a job and told no number: {str(told)[:200]}")
        return number

    def queue(self, job_ids: Collection[int]) -> list[SlurmJob]:
        base = f"/slurm/v0.0.{self._version}"
        if 0 < len(job_ids) <= FEW:
            told = [
                self._call("GET", f"{base}/job/{number}", forgiven=NOT_FOUND) for number in sorted(job_ids)
            ]
        else:
            told = [self._call("GET", f"{base}/jobs")]
        listed = [each for answer in told for each in answer.get("jobs") or []]
        return [records.queued_job(each) for each in listed if self._is_ours(each)]

    def history(self, names: Collection[str], *, since: Instant) -> list[SlurmJob]:
        found: list[SlurmJob] = []
        for name in sorted(names):
            query = {"job_name": name, "start_time": f"uts{since // SECOND_US}"}
            path = f"/slurmdb/v0.0.{self._version}/jobs?{urlencode(query)}"
            told = self._call("GET", path, forgiven=NOTHING_FOUND)
            found += [records.accounted_job(each) for each in told.get("jobs") or []]
        return found

    def nodes(self) -> list[Node]:
        told = self._call("GET", f"/slurm/v0.0.{self._version}/nodes")
        return [records.node(each) for each in told.get("nodes") or []]

    def partitions(self) -> list[Partition]:
        told = self._call("GET", f"/slurm/v0.0.{self._version}/partitions")
        return [records.partition(each) for each in told.get("partitions") or []]

    def traits(self) -> Traits:
        """The door does not tell the cluster's settings: we promise no more than we hold ourselves."""
        return Traits(enforces_memory=False, has_default_memory=False)

    def cancel(self, job_ids: Collection[int]) -> None:
        for number in sorted(job_ids):
            path = f"/slurm/v0.0.{self._version}/job/{number}"
            self._call("DELETE", path, forgiven=NOT_FOUND | HAS_ENDED)

    def close(self) -> None:
        """Nothing is held: the door closes each connection after its answer."""

    # How.

    @property
    def _version(self) -> int:
        """The newest version of the interface that both sides know."""
        with self._lock:
            if self._known_version is None:
                paths = self._call("GET", "/openapi/v3").get("paths") or {}
                offered = {
                    int(found[1]) for path in paths if (found := re.match(r"/slurm/v0\.0\.(\d+)/", path))
                }
                known = [each for each in offered if OLDEST <= each <= NEWEST]
                if not known:
                    listed = ", ".join(f"v0.0.{each}" for each in sorted(offered)) or "none"
                    raise Refused(
                        f"{self._address.url} speaks no version of the REST interface that we know: {listed}",
                        ways_on=[f"known: v0.0.{OLDEST} to v0.0.{NEWEST}", "use its commands: slurm://"],
                    )
                self._known_version = max(known)
            return self._known_version

    def _is_ours(self, told: Mapping[str, Any]) -> bool:
        return not self._user or told.get("user_name") in (None, "", self._user)

    def _token(self) -> str:
        if path := self._address.token_file:
            try:
                return Path(path).read_text().strip().removeprefix("SLURM_JWT=")
            except OSError as error:
                raise Unauthenticated(
                    f"the file of Slurm's token cannot be read: {path}: {error.strerror}"
                ) from error
        token = self._environ.get(self._address.token_env, "")
        if not token:
            raise Unauthenticated(
                f"{self._address.url} wants a token, and {self._address.token_env} is not set",
                ways_on=[
                    "make one: export $(scontrol token lifespan=86400)",
                    "or name a file: token_file=/path",
                ],
            )
        return token

    def _call(
        self, verb: str, path: str, body: object = None, *, forgiven: Collection[int] = ()
    ) -> dict[str, Any]:
        headers = {"X-SLURM-USER-TOKEN": self._token(), "Accept": "application/json"}
        if self._user:
            headers["X-SLURM-USER-NAME"] = quote(self._user)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connect = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = connect(self._host, self._port, timeout=self._address.timeout_s)
        began = time.monotonic()
        try:
            connection.request(verb, path, data, headers)
            answer = connection.getresponse()
            said = answer.read(MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"Slurm does not answer at {self._address.url}: {str(error) or type(error).__name__}",
                ways_on=["see whether slurmrestd and the controller are up"],
            ) from error
        finally:
            connection.close()
        told, numbers, text = _read(answer.status, said)
        if (answer.status < 400 and not text) or (numbers and numbers <= set(forgiven)):
            return told
        what = f"{verb} {path.partition('?')[0]}"
        if answer.status in (401, 403) or numbers & NOT_BELIEVED:
            raise self._not_believed(text)
        if UNSAID in text and time.monotonic() - began < AT_ONCE_S:
            raise self._not_believed(
                f"{text} (this release says no more; a wrong or old token is the usual cause)"
            )
        if not told.get("errors") or re.search(f"{UNSAID}|contact|timed out|communicat", text, re.IGNORECASE):
            raise Unavailable(f"Slurm does not answer ({what} at {self._address.url}): {text}")
        raise Refused(f"Slurm refuses ({what}): {text}")

    def _not_believed(self, text: str) -> Unauthenticated:
        return Unauthenticated(
            f"Slurm does not believe the token of '{self._user}' at {self._address.url}: {text}",
            ways_on=[
                "make a new one: scontrol token lifespan=86400",
                "name its user: slurm+rest://…?user=NAME",
            ],
        )


def _read(status: int, said: bytes) -> tuple[dict[str, Any], set[int], str]:
    """An answer, the numbers of its errors, and what they say in words (empty: it is no error)."""
    try:
        told = json.loads(said)
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    errors = [each for each in told.get("errors") or [] if isinstance(each, Mapping)]
    numbers = {number for each in errors if (number := records.number(each.get("error_number"))) is not None}
    words = [f"{each.get('error') or ''} {each.get('description') or ''}".strip() for each in errors]
    text = "; ".join(filter(None, words))[:500]
    if not text and status >= 400:
        text = said[:200].decode(errors="replace").strip() or f"status {status}"
    return told, numbers, text


def _amount(value: int, version: int) -> object:
    return value if version <= 38 else {"set": True, "infinite": False, "number": value}
