"""From verified files to a model that answers: no catalog, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.models import Definition, LoadPolicy, Manifest, ModelVersion, Signature
from fourfold.core.ports.blobs import Digest

if TYPE_CHECKING:
    import pyarrow as pa


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
    """Its answers to them then."""

    def featurize(self, table: pa.Table) -> Any:
        """Rows to what the model takes: a `pa.Table` or a numpy array with as many rows."""
        raise NotImplementedError

    def answer(self, features: Any) -> pa.Table:
        """Featurized rows to answers."""
        raise NotImplementedError

    def predict(self, table: pa.Table) -> pa.Table:
        """Rows to answers: `featurize`, then `answer`. One row out for each row in, in order."""
        raise NotImplementedError


def load_folder(
    folder: Path, *, policy: LoadPolicy | None = None, digest: Digest | None = None
) -> LoadedModel:
    """Load the version that `materialize` wrote into `folder`.

    Every file is verified before anything of it is used, then policy, then imports, then the replay.
    Give `digest` (a `ModelVersion.digest`) to be sure that it is that version and no other.
    """
    raise NotImplementedError


def load_files(
    version: ModelVersion, manifest: Manifest, files: Mapping[str, bytes], *, policy: LoadPolicy
) -> LoadedModel:
    """Load a version from verified bytes."""
    raise NotImplementedError
