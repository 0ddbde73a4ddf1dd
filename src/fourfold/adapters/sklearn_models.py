"""scikit-learn's models by skops: parameters as JSON and numpy arrays, no code in the file.

A type is loaded only if skops holds it for safe or the reader's policy names it. The file is rewritten in
one canonical form, because skops names its parts by memory addresses: the same model saved twice is then
the same bytes, and is stored once.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fourfold.core.errors import Corrupted, Denied, Missing, Refused
from fourfold.core.models import Scalar
from fourfold.core.ports.model_formats import SavedModel

FILE = "model.skops"
LARGEST_BYTES = 16 * 2**30
"""What a file may unpack to: a small zip can hold a very large nothing."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class SklearnModels:
    """Fulfils `core.ports.model_formats.ModelFormat` for scikit-learn's estimators."""

    name = "skops"
    is_unsafe = False

    def accepts(self, model: object) -> bool:
        return any(kind.__module__.partition(".")[0] == "sklearn" for kind in type(model).__mro__)

    def save(self, model: object, *, named: Callable[[type], str]) -> SavedModel:  # noqa: ARG002
        skops = _skops()
        try:
            data = skops.dumps(model)
        except Exception as error:  # skops raises whatever the type it cannot keep happens to raise
            raise Refused(
                f"skops cannot keep {type(model).__name__}: {error}",
                ways_on=["write the model as a plain Python class", "or leave out the part that is named"],
            ) from error
        kind = type(model)
        return SavedModel(
            kind=f"{kind.__module__}:{kind.__qualname__}",
            files={FILE: _canonical(data)},
            hyper_parameters=_hyper_parameters(model),
            libraries=("sklearn", "skops", "numpy", "scipy"),
        )

    def load(
        self,
        files: Mapping[str, bytes],
        *,
        kind: str,
        trusted_types: Collection[str],
        imported: Callable[[str], Any],  # noqa: ARG002  (the format keeps no code of the project)
    ) -> Any:
        skops = _skops()
        data = files.get(FILE)
        if data is None:
            raise Corrupted(f"the version has no '{FILE}'", path=FILE)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(part.file_size for part in archive.infolist()) > LARGEST_BYTES:
                    raise Refused(f"'{FILE}' would unpack to more than {LARGEST_BYTES} bytes")
            asked = skops.get_untrusted_types(data=data)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise Corrupted(f"'{FILE}' is not a skops file: {error}", path=FILE) from error
        if strange := sorted(set(asked) - set(trusted_types)):
            raise Denied(
                f"'{FILE}' holds types that this reader does not trust: {', '.join(strange)}",
                ways_on=[
                    "a type of your project: move its work into featurize, or make the model a plain class",
                    "a type of a library that you know: name it in LoadPolicy(trusted_types=...)",
                ],
                types=strange,
            )
        model = skops.loads(data, trusted=sorted(asked))
        found = f"{type(model).__module__}:{type(model).__qualname__}"
        if found != kind:
            raise Corrupted(f"'{FILE}' holds a {found}, and the definition says {kind}", path=FILE)
        return model


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise Missing(
            "scikit-learn's models need scikit-learn and skops",
            ways_on=["pip install 'fourfold[sklearn]'"],
        ) from error
    return skops.io


def _canonical(data: bytes) -> bytes:
    """The archive with its parts numbered in order of appearance, one time stamp, one compression."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    schema = json.loads(parts.pop("schema.json"))
    names: dict[str, str] = {}
    numbers: dict[int, int] = {}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                walk(each)
        elif isinstance(node, dict):
            if isinstance(node.get("__id__"), int):
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
            file = node.get("file")
            if isinstance(file, str) and file in parts:
                suffix = file.rpartition(".")[2]
                node["file"] = names.setdefault(file, f"{len(names) + 1}.{suffix}")
            for each in node.values():
                walk(each)

    walk(schema)
    renamed = {names.get(name, name): content for name, content in parts.items()}
    renamed["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(renamed):
            part = zipfile.ZipInfo(name, _EPOCH)
            archive.writestr(part, renamed[name], zipfile.ZIP_DEFLATED, compresslevel=1)
    return buffer.getvalue()


def _hyper_parameters(model: Any) -> dict[str, Scalar]:
    parameters = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    return {
        name: value if isinstance(value, str | int | float | bool | None) else str(value)[:200]
        for name, value in sorted(parameters.items())
        if not hasattr(value, "get_params")  # a part's own parameters follow, as part__name
    }
