"""Values of the model store: runs, model versions, and what a version holds.

A *run* is one experiment's record. A *model version* is a folder of verified files whose list, the
manifest, is its identity: equal manifests are the same model, whatever they are called.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from fourfold.core.context import Ref
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.storage import Digest
from fourfold.core.times import Instant
from fourfold.core.wire import Number, number

KEY_LENGTH = 250
"""The longest key of a metric, parameter or tag, in characters."""

Scalar = str | int | float | bool | None
"""What a parameter's value may be."""


class RunStatus(StrEnum):
    """`lost` is a run whose process died without saying so; a heartbeat brings it back."""

    running = "running"
    finished = "finished"
    failed = "failed"
    killed = "killed"
    lost = "lost"


@dataclass(frozen=True, slots=True)
class Metric:
    """One point of one metric. `value` may be NaN or infinite."""

    key: str
    value: Number
    step: int = 0
    at: Instant = Instant(0)
    """When it was measured; 0 means when it reaches the store."""


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A source file kept with a run: its path within the project and its text's digest."""

    path: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Code:
    """The code that made something: a commit with its local changes, and the text of what git lacks."""

    entry: str = ""
    """The module that began the run."""
    commit: str = ""
    remote: str = ""
    diff: Digest | None = None
    """The uncommitted changes (`git diff HEAD`) as a blob."""
    files: tuple[CodeFile, ...] = ()
    """The project's own modules that git does not hold (all of them where there is no git)."""
    bundle: str = ""
    """The code bundle of the flow that ran it, if one did."""

    @property
    def is_captured(self) -> bool:
        return bool(self.commit or self.files or self.bundle)


@dataclass(frozen=True, slots=True)
class Host:
    """Where a run's process lives: enough to see whether it still does."""

    name: str = ""
    pid: int = 0
    platform: str = ""
    cpu_count: int = 0


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file logged with a run, at a relative path."""

    path: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NewRun:
    """What is known when a run begins."""

    name: str
    experiment: str = "default"
    params: Mapping[str, Scalar] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    code: Code = Code()
    environment: str = ""
    """Identity of the environment (hash of its lock)."""
    seed: int | None = None
    host: Host = Host()
    data: tuple[Ref, ...] = ()
    """The versions of tables and training sets that it is given."""
    step: Ref | None = None
    """The flow step that it runs in."""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """An experiment's record. `metrics` holds each metric's latest value."""

    id: str
    name: str
    experiment: str
    status: RunStatus
    by: str
    started_at: Instant
    ended_at: Instant | None = None
    reason: str = ""
    """Why it failed, was killed or is lost."""
    params: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Number] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[RunFile, ...] = ()
    data: tuple[Ref, ...] = ()
    code: Code = Code()
    environment: str = ""
    seed: int | None = None
    host: Host = Host()
    step: Ref | None = None
    attempt: int = 0
    seen_at: Instant = Instant(0)
    """The last sign of life."""

    @property
    def ref(self) -> Ref:
        return Ref("run", self.id)

    def metric(self, key: str) -> float:
        """A metric's latest value as a float, or a refusal that lists the metrics there are."""
        return _metric(self.metrics, key, f"run {self.id}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """A name under which runs are collected."""

    name: str
    created_at: Instant
    run_count: int = 0


class Artifact(StrEnum):
    """What a model version holds: the eight artifacts, then what goes with them."""

    definition = "definition"
    parameters = "parameters"
    functions = "functions"
    dependencies = "dependencies"
    data = "data"
    code = "code"
    experiment = "experiment"
    tags = "tags"
    card = "card"
    signature = "signature"
    example = "example"


REQUIRED: Mapping[Artifact, str] = {
    Artifact.definition: "what the model is: its class, format and hyper-parameters",
    Artifact.parameters: "what it learned; pass the fitted model to save(model, ...)",
    Artifact.functions: "how a row becomes an answer; pass featurize= (and predict=), functions of a module",
    Artifact.dependencies: "a lock with hashes of what it imports; keep one in the project (uv lock, or a "
    "requirements file made with --generate-hashes)",
    Artifact.data: "the versions of what it learned from; read tables through Fourfold, or pass data=[...]",
    Artifact.code: "the code that made it; run from a file, in a git repository or a project folder",
    Artifact.experiment: "the run that made it, with at least one metric; log one before saving",
    Artifact.tags: "at least one tag, such as tags={'team': 'growth'}",
    Artifact.card: "what it is for, its limits, its owner; pass card= as text or a path",
    Artifact.signature: "its columns in and out; they are read off example=",
    Artifact.example: "a few input rows with their expected answer; pass example= as a table",
}
"""Everything a version must hold, with the way to supply it."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a version. Both digests are checked before anything is used."""

    path: str
    artifact: Artifact
    size_bytes: int
    blake3: Digest
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a version, sorted by path. The digest of its JSON is the version's identity."""

    files: tuple[ManifestFile, ...]
    format: int = 1

    def missing(self) -> tuple[Artifact, ...]:
        """What a complete version holds and this one does not."""
        held = {file.artifact for file in self.files}
        return tuple(artifact for artifact in REQUIRED if artifact not in held)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Column:
    """A column by name and Arrow type, as Arrow writes it (`int64`, `timestamp[us, tz=UTC]`)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives. `features` is empty where featurize gives a bare matrix."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    features: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """What a model is, apart from what it learned."""

    format: str
    """The format of its parameters, such as `skops` or `python`."""
    kind: str
    """Its class, such as `sklearn.linear_model._logistic:LogisticRegression`."""
    hyper_parameters: Mapping[str, Scalar] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that wrote the parameters."""
    featurize: str = ""
    """Entry point within the stored source, `module:function`."""
    predict: str = ""
    python: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model of a name, numbered from 1. A plain value: a step may return it."""

    name: str
    number: int
    digest: str
    """Its identity: `sha256:` and 64 hexadecimal digits, of its manifest's JSON."""
    run: str
    created_at: Instant
    by: str = ""
    metrics: Mapping[str, Number] = field(default_factory=dict)
    """The run's metrics as they were when it was saved."""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    missing: tuple[Artifact, ...] = ()
    """What an incomplete version lacks; protected aliases and deployment refuse one."""
    size_bytes: int = 0
    environment: str = ""

    @property
    def ref(self) -> Ref:
        return Ref("model", self.name, str(self.number))

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    def metric(self, key: str) -> float:
        """A metric as a float, or a refusal that lists the metrics there are."""
        return _metric(self.metrics, key, f"model {self}")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A registered name and where its aliases point."""

    name: str
    created_at: Instant
    version_count: int
    latest: int
    aliases: Mapping[str, int] = field(default_factory=dict)


class AliasAction(StrEnum):
    promoted = "promoted"
    rolled_back = "rolled_back"
    removed = "removed"


@dataclass(frozen=True, slots=True)
class AliasEvent:
    """One move of an alias: who moved it, when, why, and from what to what."""

    name: str
    alias: str
    action: AliasAction
    number: int | None
    """Where it points now; `None` if it was removed."""
    before: int | None
    by: str
    why: str
    at: Instant
    gates: tuple[GateResult, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricRule:
    """What a metric must be for a version to take an alias.

    `limit` is absolute (at least it when higher is better, at most it when lower is). With
    `against_present` the version must not be worse than the alias's present holder by more than
    `tolerance`.
    """

    metric: str
    better: Literal["higher", "lower"] = "higher"
    limit: float | None = None
    against_present: bool = True
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class AliasRules:
    """Who may hold an alias. A protected alias takes only complete versions whose example replays."""

    alias: str
    is_protected: bool = True
    metrics: tuple[MetricRule, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer, with its reason in words."""

    gate: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Replay:
    """How a version's stored example came out when it was run again."""

    matched: bool
    reason: str = ""
    row_count: int = 0
    seconds: float = 0.0


FORMATS: Mapping[str, str] = {
    "skops": "fourfold.adapters.sklearn_models:SklearnModels",
    "python": "fourfold.adapters.python_models:PythonModels",
    "cloudpickle": "fourfold.adapters.cloudpickle_models:CloudpickleModels",
}
"""The address (`module:Class`) of the adapter that reads and writes each format."""

TRUSTED_TYPES: tuple[str, ...] = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Types beyond the format's own safe list that a reader trusts unless its settings say otherwise."""


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What a reader is willing to load. It is the reader's, never the artifact's."""

    formats: Mapping[str, str] = field(default_factory=lambda: dict(FORMATS))
    trusted_types: tuple[str, ...] = TRUSTED_TYPES
    allow_unsafe: bool = False
    """Whether formats that run code hidden in their bytes (pickles) may be loaded."""
    allow_incomplete: bool = False
    replay: bool = True
    """Whether loading runs the stored example again and compares."""


_REF = re.compile(r"(?P<name>[^@/]+)(?:/(?P<number>[0-9]+)|@(?P<alias>[^@/]+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """How people name a version: `name` (the newest), `name/3`, `name@alias`."""

    name: str
    number: int | None = None
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read a reference.

        >>> ModelRef.parse("delays@champion"), ModelRef.parse("delays/3").number
        (ModelRef(name='delays', number=None, alias='champion'), 3)
        >>> ModelRef.parse("delays@")
        Traceback (most recent call last):
        ...
        fourfold.core.errors.Refused: 'delays@' does not name a model
          write delays, delays/3 or delays@champion
        """
        match = _REF.fullmatch(text.strip())
        if match is None:
            raise Refused(
                f"'{text}' does not name a model", ways_on=["write delays, delays/3 or delays@champion"]
            )
        number_text, alias = match["number"], match["alias"]
        return cls(
            check_model_name(match["name"]),
            int(number_text) if number_text else None,
            check_alias(alias) if alias else "",
        )

    def __str__(self) -> str:
        return self.name + (f"@{self.alias}" if self.alias else f"/{self.number}" if self.number else "")


def check_model_name(name: str) -> str:
    """A model's name, or a refusal.

    >>> check_model_name("delays")
    'delays'
    """
    if not _NAME.fullmatch(name):
        raise Refused(
            f"'{name}' cannot name a model",
            ways_on=["use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"],
            name=name,
        )
    return name


def check_alias(alias: str) -> str:
    """An alias, or a refusal; one that reads like a version's number would be ambiguous.

    >>> check_alias("v3")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: alias 'v3' reads like a version
      choose a word, such as champion
    """
    if re.fullmatch(r"[vV]?[0-9]+|latest", alias):
        raise Refused(
            f"alias '{alias}' reads like a version", ways_on=["choose a word, such as champion"], alias=alias
        )
    if not _NAME.fullmatch(alias):
        raise Refused(
            f"'{alias}' cannot be an alias",
            ways_on=["use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"],
            alias=alias,
        )
    return alias


def check_key(key: str, *, what: str) -> str:
    """A metric's, parameter's or tag's key: any text without control characters, up to 250 characters.

    >>> check_key("val/auc by région 🛫", what="metric")
    'val/auc by région 🛫'
    """
    if not key or len(key) > KEY_LENGTH:
        raise Refused(
            f"{what} key of {len(key)} characters: '{key[:40]}{'…' if len(key) > 40 else ''}'",
            ways_on=[f"use 1 to {KEY_LENGTH} characters"],
        )
    if key != key.strip() or any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in key):
        raise Refused(f"{what} key {key!r} has control characters or spaces at its ends")
    return key


def check_path(path: str) -> str:
    """A relative path with `/` between its parts, or a refusal; nothing that could leave its folder.

    >>> check_path("plots/roc curve.png")
    'plots/roc curve.png'
    >>> check_path("../secrets")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: path '../secrets' is not inside the folder
      use a relative path such as plots/roc.png, without '..', '%2e', '\\' or a drive letter
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > 1024
        or path != unicodedata.normalize("NFC", path)
        or any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts)
        or any(sign in path for sign in "\\#?")
        or re.search(r"%(2e|2f|5c|00)", path, re.IGNORECASE) is not None
        or re.match(r"[A-Za-z]:", path) is not None
        or any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in path)
    )
    if bad:
        raise Refused(
            f"path '{path}' is not inside the folder",
            ways_on=[
                "use a relative path such as plots/roc.png, without '..', '%2e', '\\' or a drive letter"
            ],
            path=path,
        )
    return path


def refusal(
    name: str, missing: Iterable[Artifact], *, because: Mapping[Artifact, str] | None = None
) -> Refused:
    """The one refusal of an incomplete model: everything that is missing, with the way to supply it.

    >>> print(refusal("delays", [Artifact.tags]))
    model 'delays' lacks 1 of what a version must hold: tags
      tags: at least one tag, such as tags={'team': 'growth'}
    """
    lacks = list(missing)
    reasons = because or {}
    return Refused(
        f"model '{name}' lacks {len(lacks)} of what a version must hold: {', '.join(lacks)}",
        ways_on=[f"{artifact}: {reasons.get(artifact) or REQUIRED[artifact]}" for artifact in lacks],
        name=name,
        missing=[str(artifact) for artifact in lacks],
    )


def _metric(metrics: Mapping[str, Number], key: str, what: str) -> float:
    try:
        return number(metrics[key])
    except KeyError:
        raise Refused(f"{what} has no metric '{key}'", ways_on=did_you_mean(key, metrics)) from None
