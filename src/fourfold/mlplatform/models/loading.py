"""From verified files to a model that answers: no catalog, no database, no files of the present project.

The order is the safety: every byte is compared with the manifest, the reader's policy is asked, and only
then is any code of the version run. What was verified is what is used: files are read once.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fourfold.core import wire
from fourfold.core.errors import Corrupted, Denied, FourfoldError, Refused, did_you_mean
from fourfold.core.models import Definition, LoadPolicy, Manifest, ModelVersion, Replay, Signature
from fourfold.mlplatform.models import tabular
from fourfold.mlplatform.models.source import StoredSource
from fourfold.mlplatform.models.versions import folder as folders

if TYPE_CHECKING:
    from fourfold.core.ports.model_formats import ModelFormat

DEFINITION = "definition.json"
SIGNATURE = "signature.json"
EXAMPLE = "example.arrow"
EXPECTED = "expected.arrow"
SOURCE = "source/"
PARAMETERS = "parameters/"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to answer."""

    version: ModelVersion
    manifest: Manifest
    definition: Definition
    signature: Signature
    example: pa.Table
    """A few input rows, as given when the version was saved."""
    expected: pa.Table
    """The answers to them then."""
    replay: Replay
    """How the example came out at this load."""
    _model: Any
    _featurize: Any
    _predict: Any
    _source: StoredSource
    """Held, because the stored modules live as long as it does."""

    def __repr__(self) -> str:
        return f"<model {self.version}: {self.definition.kind.rpartition(':')[2]}>"

    def featurize(self, table: pa.Table) -> Any:
        """Rows to what the model takes: a `pa.Table` or a numpy array with as many rows."""
        return self._featurize(tabular.conform(table, self.example.schema, of=str(self.version)))

    def answer(self, features: Any) -> pa.Table:
        """Featurized rows to answers."""
        rows = features.num_rows if isinstance(features, pa.Table) else len(features)
        return tabular.as_table(self._predict(self._model, features), rows=rows, of=str(self.version))

    def predict(self, table: pa.Table) -> pa.Table:
        """Rows to answers: `featurize`, then `answer`. One row out for each row in, in order."""
        features = self.featurize(table)
        answers = self._predict(self._model, features)
        return tabular.as_table(answers, rows=table.num_rows, of=str(self.version))


def load_folder(folder: Path, *, policy: LoadPolicy | None = None, digest: str | None = None) -> LoadedModel:
    """Load the version that `materialize` wrote into `folder`.

    Give `digest` (a `ModelVersion.digest`) to be sure that it is that version and no other.
    """
    version, manifest, files = folders.read(folder, digest=digest)
    return load_files(version, manifest, files, policy=policy or LoadPolicy())


def load_files(
    version: ModelVersion, manifest: Manifest, files: Mapping[str, bytes], *, policy: LoadPolicy
) -> LoadedModel:
    """Load a version from bytes that were verified against its manifest."""
    missing = manifest.missing()
    if missing and not policy.allow_incomplete:
        raise Denied(
            f"{version} is incomplete: it lacks {', '.join(missing)}",
            ways_on=["load it with LoadPolicy(allow_incomplete=True), or save it again, whole"],
        )
    definition = _decoded(files, DEFINITION, Definition)
    reader = reader_of(definition.format, policy)
    source = StoredSource(
        {
            path.removeprefix(SOURCE): data
            for path, data in files.items()
            if path.startswith(SOURCE) and path.endswith(".py")
        },
        label=str(version),
    )
    model = reader.load(
        {path.removeprefix(PARAMETERS): data for path, data in files.items() if path.startswith(PARAMETERS)},
        kind=definition.kind,
        trusted_types=policy.trusted_types,
        imported=source.imported,
    )
    loaded = LoadedModel(
        version=version,
        manifest=manifest,
        definition=definition,
        signature=_decoded(files, SIGNATURE, Signature),
        example=table_from(files, EXAMPLE),
        expected=table_from(files, EXPECTED),
        replay=Replay(True, "not run: the reader's policy says so"),
        _model=model,
        _featurize=source.imported(definition.featurize),
        _predict=source.imported(definition.predict),
        _source=source,
    )
    if not policy.replay:
        return loaded
    outcome = replay(loaded)
    if not outcome.matched:
        raise Refused(
            f"{version} does not answer its stored example as it did: {outcome.reason}",
            ways_on=["load it in its own environment: the libraries here differ from those it was made with"]
            + [f"{name} {was} then, {now} now" for name, was, now in _changed(definition)],
            name=str(version),
        )
    return _with_replay(loaded, outcome)


def replay(model: LoadedModel) -> Replay:
    """Answer the stored example again and compare with the stored answers."""
    began = time.perf_counter()
    try:
        found = model.predict(model.example)
    except Exception as error:  # whatever the model's own code raises is the answer
        if isinstance(error, FourfoldError):
            return Replay(False, str(error), model.example.num_rows, time.perf_counter() - began)
        reason = f"{type(error).__name__}: {str(error)[:500]}"
        return Replay(False, reason, model.example.num_rows, time.perf_counter() - began)
    reason = tabular.difference(model.expected, found)
    return Replay(not reason, reason, model.example.num_rows, time.perf_counter() - began)


def reader_of(name: str, policy: LoadPolicy) -> ModelFormat:
    """The adapter of a format, if the reader's policy allows it."""
    address = policy.formats.get(name)
    if address is None:
        raise Denied(
            f"format '{name}' is not among those that this reader loads",
            ways_on=did_you_mean(name, policy.formats, what="formats"),
            format=name,
        )
    module, _, kind = address.partition(":")
    reader: ModelFormat = getattr(importlib.import_module(module), kind)()
    if reader.is_unsafe and not policy.allow_unsafe:
        raise Denied(
            f"format '{name}' can run code hidden in the file, and this reader does not allow that",
            ways_on=[
                "save the model as skops or as a plain Python class",
                "or, for models whose makers you trust, load with LoadPolicy(allow_unsafe=True)",
            ],
            format=name,
        )
    return reader


def table_from(files: Mapping[str, bytes], path: str) -> pa.Table:
    """An Arrow file among a version's files."""
    try:
        with pa.ipc.open_file(pa.py_buffer(files[path])) as reader:
            return reader.read_all()
    except (KeyError, pa.ArrowInvalid) as error:
        raise Corrupted(f"'{path}' is not an Arrow file of the version", path=path) from error


def table_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())


def _decoded(files: Mapping[str, bytes], path: str, kind: type[Any]) -> Any:
    if path not in files:
        raise Corrupted(f"the version has no '{path}'", path=path)
    return wire.decode(files[path], kind, what=path)


def _changed(definition: Definition) -> list[tuple[str, str, str]]:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    changed = []
    for name, was in sorted(definition.libraries.items()):
        try:
            now = installed(name)
        except PackageNotFoundError:
            now = "not installed"
        if now != was:
            changed.append((name, was, now))
    return changed


def _with_replay(model: LoadedModel, outcome: Replay) -> LoadedModel:
    from dataclasses import replace

    return replace(model, replay=outcome)
