"""The model store as a service: runs, model versions, aliases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fourfold.core.models import (
    AliasEvent,
    AliasRules,
    Definition,
    Experiment,
    GateResult,
    Manifest,
    Metric,
    ModelInfo,
    ModelVersion,
    NewRun,
    Run,
    RunFile,
    RunStatus,
    Scalar,
    Signature,
)
from fourfold.core.routes import Role, route
from fourfold.core.storage import Digest
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


class LoadedModel(Protocol):
    """A model ready to answer (`fourfold.mlplatform.models.loading.LoadedModel`)."""

    @property
    def version(self) -> ModelVersion: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def definition(self) -> Definition: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def example(self) -> pa.Table:
        """A few input rows, as given when the version was saved."""
        ...

    @property
    def expected(self) -> pa.Table:
        """The answers to them then."""
        ...

    def featurize(self, table: pa.Table) -> Any:
        """Rows to what the model takes: a `pa.Table` or a numpy array with as many rows."""
        ...

    def answer(self, features: Any) -> pa.Table:
        """Featurized rows to answers."""
        ...

    def predict(self, table: pa.Table) -> pa.Table:
        """`featurize`, then `answer`: one row out for each row in, in order."""
        ...


class Models(Protocol):
    """Runs and the model store. Loading a model is done by its reader (`mlplatform.models.loading`)."""

    # -- runs ---------------------------------------------------------------------------------------

    @route("POST /runs", needs=Role.editor)
    def create_run(self, new: NewRun, *, key: str = "") -> Run:
        """Begin a run.

        The same `key` again is the same run: a later attempt begins it anew (what the earlier attempt
        logged is dropped, and that attempt may log no more), an earlier one is refused as `Conflict`.
        """
        ...

    @route("POST /runs/{run}/log", needs=Role.editor)
    def log(
        self,
        run: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: Mapping[str, Scalar] | None = None,
        tags: Mapping[str, str] | None = None,
        attempt: int = 0,
    ) -> None:
        """Add to a run, all or nothing; also a sign of life. Repeating a call changes nothing.

        A parameter keeps its first value: another one is refused. A tag takes the new value.
        """
        ...

    @route("POST /runs/{run}/files", needs=Role.editor)
    def add_file(self, run: str, *, path: str, digest: Digest, size_bytes: int, attempt: int = 0) -> RunFile:
        """Record a file of a run whose bytes are in the blob store already."""
        ...

    @route("POST /runs/{run}/end", needs=Role.editor)
    def end_run(self, run: str, *, status: RunStatus, reason: str = "", attempt: int = 0) -> Run:
        """End a run. Ending it twice the same way is ending it once."""
        ...

    @route("GET /runs", needs=Role.viewer)
    def search_runs(
        self,
        where: str = "",
        *,
        order_by: tuple[str, ...] = (),
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[Run, ...]:
        """Runs that meet a condition, newest first unless ordered.

        `where` is like `metrics.auc > 0.9 and params.depth = 5 and tags.team like 'gr%'`; `order_by` holds
        terms like `metrics.auc desc`. See `docs/internals/models.md` for the grammar.
        """
        ...

    @route("GET /runs/{run}", needs=Role.viewer)
    def get_run(self, run: str) -> Run:
        """One run, whole."""
        ...

    @route("GET /runs/{run}/metric", needs=Role.viewer)
    def metric_history(
        self, run: str, *, key: str, limit: int = 100_000, offset: int = 0
    ) -> tuple[Metric, ...]:
        """All points of one metric, by step then time."""
        ...

    @route("GET /runs/{run}/file", needs=Role.viewer)
    def get_file(self, run: str, *, path: str) -> bytes:
        """The bytes of a run's file."""
        ...

    @route("GET /experiments", needs=Role.viewer)
    def list_experiments(self) -> tuple[Experiment, ...]:
        """All experiments, by name."""
        ...

    # -- model versions -----------------------------------------------------------------------------

    @route("GET /models", needs=Role.viewer)
    def list_models(self) -> tuple[ModelInfo, ...]:
        """All registered names, sorted."""
        ...

    @route("POST /models/{name}/versions", needs=Role.editor)
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
        """Number a manifest under a name. All its files must be in the blob store already.

        Two creators at once get two numbers. The same `key` again, or the manifest that this run already
        registered under the name, answers the version that was made then. An incomplete manifest is
        refused with the list of what is missing.
        """
        ...

    @route("GET /models/{name}/versions", needs=Role.viewer)
    def list_versions(self, name: str, *, limit: int = 100, offset: int = 0) -> tuple[ModelVersion, ...]:
        """A name's versions, newest first."""
        ...

    @route("GET /model", needs=Role.viewer)
    def resolve(self, ref: str) -> ModelVersion:
        """The version that `name` (the newest), `name/3` or `name@alias` means now."""
        ...

    @route("GET /models/{name}/versions/{number}/manifest", needs=Role.viewer)
    def manifest(self, name: str, number: int) -> Manifest:
        """The files of a version."""
        ...

    @route("GET /models/{name}/versions/{number}/file", needs=Role.viewer)
    def version_file(self, name: str, number: int, *, path: str) -> bytes:
        """The bytes of one of a version's files, verified."""
        ...

    @route("POST /models/{name}/versions/{number}/tags", needs=Role.editor)
    def tag_version(self, name: str, number: int, *, tags: Mapping[str, str]) -> ModelVersion:
        """Add or change tags beside the manifest (which stays as it was)."""
        ...

    # -- aliases ------------------------------------------------------------------------------------

    @route("PUT /models/{name}/aliases/{alias}", needs=Role.deployer)
    def promote(self, name: str, alias: str, *, number: int, why: str, key: str = "") -> AliasEvent:
        """Let an alias point at a version, if its gates pass; else refused with every gate that failed.

        It survives a power cut once answered. Promoting what the alias already holds changes nothing, and
        so does the same `key` again.
        """
        ...

    @route("GET /models/{name}/aliases/{alias}/check", needs=Role.viewer)
    def check(self, name: str, alias: str, *, number: int) -> tuple[GateResult, ...]:
        """What promotion would say, without promoting."""
        ...

    @route("POST /models/{name}/aliases/{alias}/rollback", needs=Role.deployer)
    def rollback(self, name: str, alias: str, *, why: str, key: str = "") -> AliasEvent:
        """Let an alias point at what it pointed at before its last promotion. Gates are not asked again."""
        ...

    @route("DELETE /models/{name}/aliases/{alias}", needs=Role.deployer)
    def remove_alias(self, name: str, alias: str, *, why: str = "") -> AliasEvent:
        """Take an alias away; its history stays."""
        ...

    @route("GET /models/{name}/history", needs=Role.viewer)
    def history(self, name: str, *, alias: str = "", limit: int = 1000) -> tuple[AliasEvent, ...]:
        """The moves of a name's aliases, newest first."""
        ...

    @route("GET /models/{name}/aliases/{alias}/at", needs=Role.viewer)
    def held_at(self, name: str, alias: str, *, at: Instant) -> ModelVersion:
        """The version that the alias pointed at then: what was in production."""
        ...

    @route("PUT /models/{name}/rules/{alias}", needs=Role.admin)
    def set_rules(self, name: str, alias: str, *, rules: AliasRules) -> AliasRules:
        """Protect an alias, or change what it asks of a version."""
        ...

    @route("GET /models/{name}/rules/{alias}", needs=Role.viewer)
    def rules(self, name: str, alias: str) -> AliasRules:
        """What an alias asks of a version."""
        ...

    # In process only: these touch the caller's own files, and run the model's own code.

    def materialize(self, version: ModelVersion, into: Path) -> Path:
        """Write all of a version's files into a new folder, for `loading.load_folder`. Verified, and whole
        or not there at all; a folder that is there already is left as it is."""
        ...

    def load(self, ref: str) -> LoadedModel:
        """The version that `ref` means, verified, checked by this reader's policy, its example replayed."""
        ...
