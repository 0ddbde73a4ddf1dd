"""The model store's service: each call is one unit of work, with its audit entry and its lineage."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourfold.catalog import audit, lineage
from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core import context, wire
from fourfold.core.catalog import principal
from fourfold.core.decide import gates as rule
from fourfold.core.decide.run_liveness import lost_because
from fourfold.core.errors import NotFound, Refused
from fourfold.core.lineage import Edge
from fourfold.core.models import (
    AliasAction,
    AliasEvent,
    AliasRules,
    Experiment,
    GateResult,
    Host,
    LoadPolicy,
    Manifest,
    Metric,
    ModelInfo,
    ModelRef,
    ModelVersion,
    NewRun,
    Replay,
    Run,
    RunFile,
    RunStatus,
    Scalar,
    check_alias,
    check_key,
    check_model_name,
    check_path,
    refusal,
)
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.core.times import Instant
from fourfold.mlplatform.models.reading import Reader
from fourfold.mlplatform.models.runs import tables as run_rows
from fourfold.mlplatform.models.runs.search import language
from fourfold.mlplatform.models.runs.search import tables as run_search
from fourfold.mlplatform.models.versions import folder
from fourfold.mlplatform.models.versions import tables as version_rows

if TYPE_CHECKING:
    from fourfold.mlplatform.models.loading import LoadedModel

PROTECTED_ALIASES = ("champion", "production")
"""Aliases that are protected unless their rules say otherwise."""
METRICS_AT_ONCE = 10_000
PARAMS_AT_ONCE = 1_000
TEXT_CHARACTERS = 100_000
"""The longest value of a parameter or tag."""
PAGE = 10_000
"""The largest page of runs or versions."""
FILE_COUNT = 10_000
"""The most files in one version."""


class Models:
    """Fulfils `core.services.models.Models` over the catalog and a blob store.

    `replay` runs a version's example again, given its folder; by default in a process of its own, because
    the version's code is its creator's, not ours.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        clock: Clock,
        *,
        policy: LoadPolicy | None = None,
        replay: Callable[[Path], Replay] | None = None,
        here: Host | None = None,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock
        self._policy = policy or LoadPolicy()
        self._reader = Reader(self, blobs.get, policy=self._policy)
        self._replay = replay or self._replay_apart
        self._here = here or Host(platform.node(), os.getpid())

    # -- runs ---------------------------------------------------------------------------------------

    def create_run(self, new: NewRun, *, key: str = "") -> Run:
        check_key(new.name, what="run")
        check_key(new.experiment, what="experiment")
        _check_texts(new.params, what="parameter")
        _check_texts(new.tags, what="tag")
        now, run_id = self._clock.now(), new_id("run")
        with self._catalog.write() as connection:
            run_id = run_rows.begin(connection, run_id, new, key=key, by=principal(), now=now)
            ref = context.Ref("run", run_id)
            edges = [Edge(source, ref, new.step, now) for source in new.data]
            if new.step is not None:
                edges.append(Edge(new.step, ref, new.step, now))
            lineage.record(connection, edges)
            return run_rows.get(connection, run_id)

    def log(
        self,
        run: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: Mapping[str, Scalar] | None = None,
        tags: Mapping[str, str] | None = None,
        attempt: int = 0,
    ) -> None:
        if len(metrics) > METRICS_AT_ONCE:
            raise Refused(
                f"{len(metrics)} metric points at once", ways_on=[f"send at most {METRICS_AT_ONCE} in a call"]
            )
        for each in metrics:
            _check_metric(each)
        _check_texts(params or {}, what="parameter")
        _check_texts(tags or {}, what="tag")
        now = self._clock.now()
        with self._catalog.write() as connection:
            row = run_rows.locate(connection, run, attempt=attempt, now=now)
            run_rows.add_params(connection, row, run, params or {})
            run_rows.add_tags(connection, row, tags or {})
            run_rows.add_metrics(connection, row, metrics, now=now)

    def add_file(self, run: str, *, path: str, digest: Digest, size_bytes: int, attempt: int = 0) -> RunFile:
        file = RunFile(check_path(path), digest, size_bytes)
        if not self._blobs.renew(digest):  # from here on it is cited
            raise NotFound(
                f"file '{path}': blob {digest} is not in the store", ways_on=["put the blob first"]
            )
        with self._catalog.write() as connection:
            row = run_rows.locate(connection, run, attempt=attempt, now=self._clock.now())
            run_rows.add_file(connection, row, replace(file, size_bytes=self._blobs.size(digest)))
        return file

    def end_run(self, run: str, *, status: RunStatus, reason: str = "", attempt: int = 0) -> Run:
        if status is RunStatus.running:
            raise Refused("a run ends as finished, failed, killed or lost, not as running")
        now = self._clock.now()
        with self._catalog.write() as connection:
            row = run_rows.locate(connection, run, attempt=attempt, now=now)
            run_rows.end(connection, row, status=status, reason=reason[:TEXT_CHARACTERS], now=now)
            return run_rows.get(connection, run)

    def search_runs(
        self, where: str = "", *, order_by: tuple[str, ...] = (), limit: int = 100, offset: int = 0
    ) -> tuple[Run, ...]:
        condition, orders = language.parse(where), language.parse_orders(order_by)
        _check_page(limit, offset)
        self.give_up_the_dead()
        with self._catalog.read() as connection:
            return run_search.search(connection, condition, orders, limit=limit, offset=offset)

    def get_run(self, run: str) -> Run:
        with self._catalog.read() as connection:
            found = run_rows.get(connection, run)
        if self._give_up(found):
            with self._catalog.read() as connection:
                found = run_rows.get(connection, run)
        return found

    def metric_history(
        self, run: str, *, key: str, limit: int = 100_000, offset: int = 0
    ) -> tuple[Metric, ...]:
        _check_page(limit, offset, largest=1_000_000)
        with self._catalog.read() as connection:
            return run_rows.curve(connection, run, key, limit=limit, offset=offset)

    def get_file(self, run: str, *, path: str) -> bytes:
        check_path(path)
        with self._catalog.read() as connection:
            found = run_rows.get(connection, run)
        for file in found.files:
            if file.path == path:
                return self._blobs.get(file.digest)
        raise NotFound(
            f"run {run} has no file '{path}'",
            ways_on=["files: " + (", ".join(file.path for file in found.files[:20]) or "(none)")],
        )

    def list_experiments(self) -> tuple[Experiment, ...]:
        with self._catalog.read() as connection:
            return run_rows.experiments(connection)

    def give_up_the_dead(self, *, limit: int = 1000) -> int:
        """Mark runs whose process died as lost; how many. Called when runs are listed, and by the loop."""
        with self._catalog.read() as connection:
            said_to_run = run_rows.still_running(connection, limit=limit)
        return sum(map(self._give_up, said_to_run))

    def _give_up(self, run: Run) -> bool:
        if run.status is not RunStatus.running:
            return False
        is_alive = run.host.name == self._here.name and _is_alive(run.host.pid)
        reason = lost_because(run, now=self._clock.now(), here=self._here, is_alive=is_alive)
        if not reason:
            return False
        with self._catalog.write() as connection:
            run_rows.give_up(connection, run.id, seen_at=run.seen_at, reason=reason)
        return True

    # -- model versions -----------------------------------------------------------------------------

    def list_models(self) -> tuple[ModelInfo, ...]:
        with self._catalog.read() as connection:
            return version_rows.names(connection)

    def create_version(
        self,
        name: str,
        *,
        manifest: Manifest,
        run: str,
        tags: Mapping[str, str] | None = None,
        key: str = "",
        allow_incomplete: bool = False,
    ) -> ModelVersion:
        check_model_name(name)
        _check_texts(tags or {}, what="tag")
        with self._catalog.read() as connection:
            if (made := version_rows.made_by(connection, key=key)) is not None:
                return made
            record = run_rows.get(connection, run)
        missing = manifest.missing()
        if missing and not allow_incomplete:
            raise refusal(name, missing)
        self._check_manifest(name, manifest)
        body = wire.encode(manifest)
        # The manifest is stored after its files, and numbered after it is stored: a version whose number
        # exists is whole.
        blob = self._blobs.put(body)
        digest = folder.digest_of(body)
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            version, is_new = version_rows.create(
                connection,
                name,
                digest=digest,
                manifest=blob,
                run=run,
                key=key,
                by=principal(),
                facts=version_rows.Facts(record.metrics, missing, manifest.size_bytes, record.environment),
                tags=tags or {},
                now=now,
            )
            if is_new:
                audit.record(connection, now, "model.create", version.ref, {"digest": digest, "run": run})
                lineage.record(connection, [Edge(record.ref, version.ref, record.step, now)])
        context.record_write(version.ref)
        return version

    def list_versions(self, name: str, *, limit: int = 100, offset: int = 0) -> tuple[ModelVersion, ...]:
        check_model_name(name)
        _check_page(limit, offset)
        with self._catalog.read() as connection:
            return version_rows.page(connection, name, limit=limit, offset=offset)

    def resolve(self, ref: str) -> ModelVersion:
        parsed = ModelRef.parse(ref)
        with self._catalog.read() as connection:
            version = version_rows.get(connection, parsed)
        context.record_read(version.ref)
        return version

    def manifest(self, name: str, number: int) -> Manifest:
        with self._catalog.read() as connection:
            version = version_rows.get(connection, ModelRef(check_model_name(name), number))
            blob = version_rows.manifest_blob(connection, version)
        body = folder.checked_manifest(self._blobs.get(blob), version)
        return wire.decode(body, Manifest, what=f"manifest of {version}")

    def version_file(self, name: str, number: int, *, path: str) -> bytes:
        manifest = self.manifest(name, number)
        for file in manifest.files:
            if file.path == path:
                return folder.verified(file, folder.fetched(file, self._blobs.get), of=f"{name}/{number}")
        raise NotFound(
            f"model {name}/{number} has no file '{path}'",
            ways_on=["files: " + ", ".join(file.path for file in manifest.files[:20])],
        )

    def tag_version(self, name: str, number: int, *, tags: Mapping[str, str]) -> ModelVersion:
        _check_texts(tags, what="tag")
        ref = ModelRef(check_model_name(name), number)
        now = self._clock.now()
        with self._catalog.write() as connection:
            version = version_rows.get(connection, ref)
            version_rows.add_tags(connection, name, version.number, tags)
            audit.record(connection, now, "model.tag", version.ref, dict(tags))
            return version_rows.get(connection, ref)

    def materialize(self, version: ModelVersion, into: Path) -> Path:
        return self._reader.materialize(version, into)

    def load(self, ref: str) -> LoadedModel:
        return self._reader.load(ref)

    def _check_manifest(self, name: str, manifest: Manifest) -> None:
        paths = [check_path(file.path) for file in manifest.files]
        if not 0 < len(paths) <= FILE_COUNT:
            raise Refused(f"model '{name}' has {len(paths)} files", ways_on=[f"1 to {FILE_COUNT} are taken"])
        if paths != sorted(set(paths)):
            raise Refused(f"the manifest of '{name}' names a path twice, or is not sorted by path")
        if clash := {path for path in paths if any(other.startswith(path + "/") for other in paths)}:
            raise Refused(f"the manifest of '{name}' has {sorted(clash)} as a file and as a folder")
        for file in manifest.files:
            if not self._blobs.renew(file.blake3) or self._blobs.size(file.blake3) != file.size_bytes:
                raise Refused(
                    f"file '{file.path}' of model '{name}' is not in the store as the manifest describes it",
                    ways_on=["put all files before the manifest"],
                    path=file.path,
                )

    # -- aliases ------------------------------------------------------------------------------------

    def promote(self, name: str, alias: str, *, number: int, why: str, key: str = "") -> AliasEvent:
        _check_why(why)
        check_alias(alias)
        ref = ModelRef(check_model_name(name), number)
        with self._catalog.read() as connection:
            if (done := version_rows.event_of(connection, key=key)) is not None:
                return done
            candidate = version_rows.get(connection, ref)
            seen = version_rows.holder(connection, name, alias)
            if seen is not None and seen[0] == number:
                last = version_rows.events(connection, name, word=alias, limit=1)
                return last[0]
        results = self._ask_gates(candidate, alias, seen)
        if failed := rule.failures(results):
            raise Refused(
                f"{candidate} may not become '{alias}': {len(failed)} of {len(results)} gates failed",
                ways_on=failed,
                name=name,
                number=number,
                alias=alias,
            )
        event = AliasEvent(
            name=name,
            alias=alias,
            action=AliasAction.promoted,
            number=number,
            before=None if seen is None else seen[0],
            by=principal(),
            why=why.strip(),
            at=self._clock.now(),
            gates=results,
        )
        return self._move(event, seen, key)

    def check(self, name: str, alias: str, *, number: int) -> tuple[GateResult, ...]:
        check_alias(alias)
        with self._catalog.read() as connection:
            candidate = version_rows.get(connection, ModelRef(check_model_name(name), number))
            seen = version_rows.holder(connection, name, alias)
        return self._ask_gates(candidate, alias, seen)

    def rollback(self, name: str, alias: str, *, why: str, key: str = "") -> AliasEvent:
        _check_why(why)
        with self._catalog.read() as connection:
            if (done := version_rows.event_of(connection, key=key)) is not None:
                return done
            present = version_rows.get(connection, ModelRef(check_model_name(name), alias=check_alias(alias)))
            seen = version_rows.holder(connection, name, alias)
            history = version_rows.events(connection, name, word=alias, limit=PAGE)
        target = rule.rollback_target(reversed(history))
        if target is None:
            raise Refused(
                f"'{alias}' of '{name}' has held only {present}: there is nothing to roll back to",
                ways_on=[f"promote another version: fourfold model promote {name}/N {alias} --why ..."],
            )
        event = AliasEvent(
            name=name,
            alias=alias,
            action=AliasAction.rolled_back,
            number=target,
            before=present.number,
            by=principal(),
            why=why.strip(),
            at=self._clock.now(),
        )
        return self._move(event, seen, key)

    def remove_alias(self, name: str, alias: str, *, why: str = "") -> AliasEvent:
        with self._catalog.read() as connection:
            present = version_rows.get(connection, ModelRef(check_model_name(name), alias=check_alias(alias)))
            seen = version_rows.holder(connection, name, alias)
        event = AliasEvent(
            name=name,
            alias=alias,
            action=AliasAction.removed,
            number=None,
            before=present.number,
            by=principal(),
            why=why.strip(),
            at=self._clock.now(),
        )
        return self._move(event, seen, "")

    def history(self, name: str, *, alias: str = "", limit: int = 1000) -> tuple[AliasEvent, ...]:
        _check_page(limit, 0)
        with self._catalog.read() as connection:
            version_rows.get(connection, ModelRef(check_model_name(name)))
            return version_rows.events(connection, name, word=alias, limit=limit)

    def held_at(self, name: str, alias: str, *, at: Instant) -> ModelVersion:
        with self._catalog.read() as connection:
            moves = version_rows.events(connection, check_model_name(name), word=alias, until=at, limit=1)
            if not moves or moves[0].number is None:
                raise NotFound(f"'{alias}' of '{name}' pointed at nothing then", name=name, alias=alias)
            return version_rows.get(connection, ModelRef(name, moves[0].number))

    def set_rules(self, name: str, alias: str, *, rules: AliasRules) -> AliasRules:
        check_alias(alias)
        rules = replace(rules, alias=alias)
        for each in rules.metrics:
            check_key(each.metric, what="metric")
            if not each.tolerance >= 0:
                raise Refused(f"tolerance {each.tolerance} of metric '{each.metric}' is not zero or more")
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            version_rows.get(connection, ModelRef(check_model_name(name)))
            version_rows.put_rules(connection, name, rules)
            audit.record(
                connection, now, "model.rules", context.Ref("model", name), {"rules": wire.plain(rules)}
            )
        return rules

    def rules(self, name: str, alias: str) -> AliasRules:
        check_alias(alias)
        with self._catalog.read() as connection:
            found = version_rows.rules_of(connection, check_model_name(name), alias)
        return found or AliasRules(alias, is_protected=alias in PROTECTED_ALIASES)

    def _ask_gates(
        self, candidate: ModelVersion, alias: str, seen: tuple[int, int] | None
    ) -> tuple[GateResult, ...]:
        rules = self.rules(candidate.name, alias)
        present = None
        if seen is not None:
            with self._catalog.read() as connection:
                present = version_rows.get(connection, ModelRef(candidate.name, seen[0]))
        replay = None
        if rules.is_protected and not candidate.missing:
            with TemporaryDirectory(prefix="fourfold-replay-") as place:
                replay = self._replay(self.materialize(candidate, Path(place) / "model"))
        return rule.gates(rules, candidate, present=present, replay=replay)

    def _move(self, event: AliasEvent, seen: tuple[int, int] | None, key: str) -> AliasEvent:
        # Durable: what is in production must survive a power cut once somebody was told so.
        with self._catalog.write(durable=True) as connection:
            version_rows.move(connection, event, seen=seen, key=key)
            ref = context.Ref("model", event.name, "" if event.number is None else str(event.number))
            facts = {"alias": event.alias, "before": event.before, "why": event.why}
            audit.record(connection, event.at, f"model.{event.action}", ref, facts)
        return event

    def _replay_apart(self, path: Path) -> Replay:
        from fourfold.mlplatform.models.replay import replay_apart

        return replay_apart(path, self._policy)


def _check_metric(each: Metric) -> None:
    check_key(each.key, what="metric")
    if not -(2**63) <= each.step < 2**63:
        raise Refused(f"step {each.step} of metric '{each.key}' is not a 64-bit integer")
    if isinstance(each.value, str) and each.value not in {"NaN", "Infinity", "-Infinity"}:
        raise Refused(
            f"metric '{each.key}' is {each.value[:40]!r}",
            ways_on=["a metric is a number; log text as a tag or a parameter"],
        )


def _check_texts(values: Mapping[str, Scalar], *, what: str) -> None:
    if len(values) > PARAMS_AT_ONCE:
        raise Refused(f"{len(values)} {what}s at once", ways_on=[f"send at most {PARAMS_AT_ONCE} in a call"])
    for key, value in values.items():
        check_key(key, what=what)
        if isinstance(value, str) and len(value) > TEXT_CHARACTERS:
            raise Refused(
                f"{what} '{key}' has {len(value)} characters",
                ways_on=[f"keep it under {TEXT_CHARACTERS}, or log it as a file"],
            )
        if isinstance(value, str) and "\0" in value:
            raise Refused(f"{what} '{key}' holds a zero character", ways_on=["log it as a file"])


def _check_page(limit: int, offset: int, *, largest: int = PAGE) -> None:
    if not 0 < limit <= largest or not 0 <= offset < 2**63:
        raise Refused(f"page of {limit} from {offset}", ways_on=[f"use a limit from 1 to {largest}"])


def _check_why(why: str) -> None:
    if not why.strip():
        raise Refused("a promotion says why", ways_on=['for example why="better on last month\'s flights"'])


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
