"""From a fitted model to a version: gather all that a version must hold, prove it, register it.

Everything is gathered before anything is refused, so that one refusal names all that is missing. Before a
version is registered it is loaded from its own files, as any reader would, and must answer its example.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from fourfold.core import context, wire
from fourfold.core.environment import Environment, canonical_name
from fourfold.core.errors import Denied, FourfoldError, Refused, did_you_mean
from fourfold.core.models import (
    REQUIRED,
    Artifact,
    Definition,
    LoadPolicy,
    Manifest,
    ManifestFile,
    ModelVersion,
    Run,
    check_key,
    check_model_name,
    check_path,
    refusal,
)
from fourfold.core.ports.blobs import Digest
from fourfold.core.ports.model_formats import ModelFormat, SavedModel
from fourfold.core.services.models import Models
from fourfold.core.times import Instant
from fourfold.mlplatform.models import default_predict, loading, tabular
from fourfold.mlplatform.models.runs import capture
from fourfold.mlplatform.models.source import Collected, collect, entry_point

EXAMPLE_ROWS = 1_000
"""The most rows of an example; it is answered at every load."""
CARD_BYTES = 2**20
_LOADER = ("msgspec", "numpy", "pyarrow")
"""What loading itself needs; Fourfold's own code is the reader's, not the version's."""
SAFE_FORMATS = ("skops", "python")
"""Formats that are tried, in this order, when none is named."""

Dependencies = Callable[[Collection[str]], tuple[Environment, str]]
"""What these modules need, and its lock: `foundation.compute.environments.lock_for`."""


@dataclass(slots=True)
class _Gathered:
    """Files by path, and why what is missing is missing."""

    files: dict[str, tuple[Artifact, bytes]] = field(default_factory=dict)
    reasons: dict[Artifact, str] = field(default_factory=dict)

    def add(self, artifact: Artifact, path: str, data: bytes) -> None:
        self.files[check_path(path)] = (artifact, data)

    def missing(self) -> list[Artifact]:
        held = {artifact for artifact, _ in self.files.values()}
        return [artifact for artifact in REQUIRED if artifact not in held]


class Saver:
    """Saves models of this process into a store, embedded or behind a server."""

    def __init__(
        self,
        models: Models,
        *,
        put: Callable[[bytes], Digest],
        get: Callable[[Digest], bytes],
        dependencies: Dependencies,
        policy: LoadPolicy | None = None,
    ) -> None:
        self._models, self._put, self._get, self._dependencies = models, put, get, dependencies
        self._policy = policy or LoadPolicy()

    def save(
        self,
        run: Run,
        model: object,
        *,
        name: str,
        featurize: Callable[..., Any] | None,
        predict: Callable[..., Any] | None,
        example: Any,
        card: str | Path,
        tags: Mapping[str, str],
        data: Iterable[object] = (),
        format: str = "",  # noqa: A002  (the word that people know)
        modules: tuple[ModuleType, ...] = (),
    ) -> ModelVersion:
        """Register the next version of `name`; see `Recorder.save`."""
        check_model_name(name)
        gathered = _Gathered()
        needed = list(modules)
        entries = _functions(gathered, featurize, predict, needed)
        libraries = self._parameters(gathered, model, format, needed, entries)
        source = _source(gathered, needed, uses_default=predict is None)
        self._lock(gathered, {*source.imports, *libraries})
        _data(gathered, run, data)
        self._code(gathered, run)
        _experiment(gathered, run)
        _tags(gathered, tags)
        _card(gathered, card)
        _example(gathered, model, featurize, predict or default_predict.predict, example)
        if missing := gathered.missing():
            raise refusal(name, missing, because=gathered.reasons)
        self._prove(name, gathered)
        manifest = _manifest(gathered, self._put)
        return self._models.create_version(
            name,
            manifest=manifest,
            run=run.id,
            tags=dict(tags),
            key=context.write_key() or "",
            allow_incomplete=False,
        )

    def _parameters(
        self,
        gathered: _Gathered,
        model: object,
        wanted: str,
        needed: list[ModuleType],
        entries: tuple[str, str],
    ) -> tuple[str, ...]:
        """Definition and parameters; the libraries that loading needs."""

        def named(kind: type) -> str:
            entry, module = _class_entry(kind)
            needed.append(module)
            return entry

        try:
            if model is None:
                raise Refused("the model is None; pass the fitted model")
            writer = self._writer(model, wanted)
            saved: SavedModel = writer.save(model, named=named)
        except Refused as error:
            gathered.reasons[Artifact.definition] = gathered.reasons[Artifact.parameters] = str(error)
            return ()
        for path, content in saved.files.items():
            gathered.add(Artifact.parameters, loading.PARAMETERS + path, content)
        definition = Definition(
            format=writer.name,
            kind=saved.kind,
            hyper_parameters=saved.hyper_parameters,
            libraries=_versions(saved.libraries),
            featurize=entries[0],
            predict=entries[1],
            python=f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}",
        )
        gathered.add(Artifact.definition, loading.DEFINITION, wire.encode(definition))
        return saved.libraries

    def _writer(self, model: object, wanted: str) -> ModelFormat:
        if wanted:
            # Writing an unsafe format runs nothing; only readers need be willing.
            known = LoadPolicy(formats=self._policy.formats, allow_unsafe=True)
            if wanted not in known.formats:
                raise Refused(
                    f"there is no format '{wanted}'",
                    ways_on=did_you_mean(wanted, known.formats, what="formats"),
                )
            return loading.reader_of(wanted, known)
        for name in SAFE_FORMATS:
            if name in self._policy.formats:
                writer = loading.reader_of(name, self._policy)
                if writer.accepts(model):
                    return writer
        kind = type(model)
        raise Refused(
            f"no safe format keeps a {kind.__module__}.{kind.__qualname__}; write it as a plain class of the "
            "project, or name format='cloudpickle', which default readers refuse to load"
        )

    def _lock(self, gathered: _Gathered, imports: Collection[str]) -> None:
        outside = sorted({*imports, *_LOADER} - sys.stdlib_module_names - {"fourfold"})
        try:
            environment, lock = self._dependencies(outside)
        except FourfoldError as error:
            gathered.reasons[Artifact.dependencies] = str(error)
            return
        bare = [package.name for package in environment.packages if not package.hashes]
        if bare:
            gathered.reasons[Artifact.dependencies] = f"no hashes for {', '.join(bare[:10])}; lock them"
            return
        gathered.add(Artifact.dependencies, "environment.json", wire.encode(environment))
        gathered.add(Artifact.dependencies, "lock.txt", lock.encode())

    def _code(self, gathered: _Gathered, run: Run) -> None:
        if not run.code.is_captured:
            return
        record = {"code": run.code, "params": run.params, "seed": run.seed}
        gathered.add(Artifact.code, "code/code.json", wire.encode(record))
        for file in run.code.files:
            gathered.add(Artifact.code, f"code/files/{file.path}", self._get(file.digest))
        if run.code.diff is not None:
            gathered.add(Artifact.code, "code/changes.diff", self._get(run.code.diff))

    def _prove(self, name: str, gathered: _Gathered) -> None:
        """Load the version from its own files, as its readers will, and replay its example."""
        files = {path: data for path, (_, data) in gathered.files.items()}
        definition = wire.decode(files[loading.DEFINITION], Definition)
        draft = ModelVersion(name, 0, "", "", created_at=Instant(0))
        is_unsafe = loading.reader_of(
            definition.format, LoadPolicy(formats=self._policy.formats, allow_unsafe=True)
        ).is_unsafe
        policy = LoadPolicy(
            formats=self._policy.formats,
            trusted_types=self._policy.trusted_types,
            allow_unsafe=is_unsafe,  # its maker has the object itself; only readers must be willing
        )
        try:
            loading.load_files(draft, _manifest(gathered, lambda _: Digest("")), files, policy=policy)
        except (Denied, Refused) as error:
            raise Refused(
                f"model '{name}' cannot be loaded again from what would be kept: {error.message}",
                ways_on=error.ways_on,
                **error.facts,
            ) from error
        except Exception as error:  # stored modules are the user's code: they may raise anything
            raise Refused(
                f"model '{name}' cannot be loaded again: its stored source raised {type(error).__name__}: "
                f"{str(error)[:300]}",
                ways_on=["featurize and predict may use only what their modules import by statements"],
            ) from error


def _manifest(gathered: _Gathered, put: Callable[[bytes], Digest]) -> Manifest:
    return Manifest(
        tuple(
            ManifestFile(path, artifact, len(data), put(data), hashlib.sha256(data).hexdigest())
            for path, (artifact, data) in sorted(gathered.files.items())
        )
    )


def _functions(
    gathered: _Gathered,
    featurize: Callable[..., Any] | None,
    predict: Callable[..., Any] | None,
    needed: list[ModuleType],
) -> tuple[str, str]:
    """Entry points of featurize and predict; their modules are added to what is needed."""
    entries = []
    for what, function in (("featurize", featurize), ("predict", predict)):
        if function is None:
            entries.append(f"{_DEFAULT}:predict" if what == "predict" else "")
            continue
        try:
            entry, module = entry_point(function, what=what)
        except Refused as error:
            gathered.reasons[Artifact.functions] = str(error)
            entries.append("")
            continue
        entries.append(entry)
        needed.append(module)
    if featurize is None:
        gathered.reasons[Artifact.functions] = (
            "featurize= is missing: a function that turns rows (a pa.Table) into what the model takes"
        )
    return entries[0], entries[1]


_DEFAULT = "fourfold_default_predict"


def _source(gathered: _Gathered, needed: list[ModuleType], *, uses_default: bool) -> Collected:
    try:
        collected = collect(needed)
    except Refused as error:
        gathered.reasons[Artifact.functions] = str(error)
        return Collected({}, frozenset())
    if Artifact.functions not in gathered.reasons:
        for path, text in collected.files.items():
            gathered.add(Artifact.functions, loading.SOURCE + path, text)
        if uses_default:
            text = Path(default_predict.__file__).read_bytes()
            gathered.add(Artifact.functions, f"{loading.SOURCE}{_DEFAULT}.py", text)
    return collected


def _class_entry(kind: type) -> tuple[str, ModuleType]:
    """`module:Qualname` of a class of the project."""
    from fourfold.resources.flows import bundle

    module = sys.modules.get(kind.__module__)
    if module is None or "<locals>" in kind.__qualname__:
        raise Refused(
            f"class '{kind.__qualname__}' is defined inside a function, and cannot be found again",
            ways_on=["move it to the top of a module"],
        )
    return f"{bundle.place_of(module).module}:{kind.__qualname__}", module


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in libraries:
        distribution = {"sklearn": "scikit-learn"}.get(name, name)
        try:
            found[canonical_name(distribution)] = installed_version(distribution)
        except PackageNotFoundError:
            continue
    return found


def _data(gathered: _Gathered, run: Run, given: Iterable[object]) -> None:
    try:
        refs = tuple(dict.fromkeys([*run.data, *capture.data(given)]))
    except Refused as error:
        gathered.reasons[Artifact.data] = str(error)
        return
    if not refs and run.step is not None:
        refs = (run.step,)  # its recorded inputs lead to the tables they came from
    if refs:
        gathered.add(Artifact.data, "data.json", wire.encode(refs))


def _experiment(gathered: _Gathered, run: Run) -> None:
    if run.metrics:
        record = {
            "run": run.id,
            "name": run.name,
            "experiment": run.experiment,
            "params": run.params,
            "metrics": run.metrics,
            "tags": run.tags,
            "files": run.files,
            "environment": run.environment,
            "host": run.host,
            "step": run.step,
        }
        gathered.add(Artifact.experiment, "experiment.json", wire.encode(record))


def _tags(gathered: _Gathered, tags: Mapping[str, str]) -> None:
    try:
        for key, value in tags.items():
            check_key(key, what="tag")
            if not isinstance(value, str):
                raise Refused(f"tag '{key}' is {type(value).__name__}; a tag is text")
    except Refused as error:
        gathered.reasons[Artifact.tags] = str(error)
        return
    if tags:
        gathered.add(Artifact.tags, "tags.json", wire.encode(dict(tags)))


def _card(gathered: _Gathered, card: str | Path) -> None:
    if isinstance(card, str) and card.endswith(".md") and "\n" not in card:
        card = Path(card)
    try:
        text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card
    except (OSError, UnicodeDecodeError) as error:
        gathered.reasons[Artifact.card] = f"'{card}' cannot be read: {error}"
        return
    if len(text.encode()) > CARD_BYTES:
        gathered.reasons[Artifact.card] = f"it is longer than {CARD_BYTES} bytes"
    elif text.strip():
        gathered.add(Artifact.card, "card.md", text.encode())


def _example(
    gathered: _Gathered,
    model: object,
    featurize: Callable[..., Any] | None,
    predict: Callable[..., Any],
    example: Any,
) -> None:
    """Answer the example now: the expected answers, and the signature that they show."""
    if example is None:
        return
    problem = ""
    try:
        table = _as_example(example)
        gathered.add(Artifact.example, loading.EXAMPLE, loading.table_bytes(table))
        if featurize is None:
            problem = "it needs featurize="
        else:
            features = featurize(table)
            answers = tabular.as_table(predict(model, features), rows=table.num_rows, of="to be saved")
            signature = tabular.signature(table, features, answers)
            gathered.add(Artifact.signature, loading.SIGNATURE, wire.encode(signature))
            gathered.add(Artifact.example, loading.EXPECTED, loading.table_bytes(answers))
    except Refused as error:
        problem = str(error)
    except Exception as error:  # featurize and predict are the user's code
        problem = f"answering it raised {type(error).__name__}: {str(error)[:300]}"
    if problem:
        gathered.files.pop(loading.EXAMPLE, None)
        gathered.reasons[Artifact.example] = gathered.reasons[Artifact.signature] = problem


def _as_example(example: Any) -> pa.Table:
    if hasattr(example, "to_arrow") and not isinstance(example, pa.Table):
        example = example.to_arrow()
    elif hasattr(example, "__dataframe__") and not isinstance(example, pa.Table | pa.RecordBatch):
        example = pa.Table.from_pandas(example, preserve_index=False)
    elif isinstance(example, pa.RecordBatch):
        example = pa.Table.from_batches([example])
    elif isinstance(example, list):
        example = pa.Table.from_pylist(example)
    if not isinstance(example, pa.Table):
        raise Refused(
            f"example is a {type(example).__name__}",
            ways_on=["pass a pa.Table, a data frame or a list of rows"],
        )
    if not 0 < example.num_rows <= EXAMPLE_ROWS:
        raise Refused(f"example has {example.num_rows} rows; 1 to {EXAMPLE_ROWS} are taken")
    if len(set(example.column_names)) != len(example.column_names):
        raise Refused("example has two columns of one name")
    return example.replace_schema_metadata(None).combine_chunks()
