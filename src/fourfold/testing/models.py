"""The conformance kit of model formats: what every adapter of `core.ports.model_formats` must keep.

from fourfold.testing.models import check_model_format
check_model_format(MyFormat(), model, ask=lambda model: model.predict(rows).tolist())
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fourfold.core.errors import Corrupted, FourfoldError
from fourfold.core.models import TRUSTED_TYPES, check_path
from fourfold.core.ports.model_formats import ModelFormat, SavedModel


def check_model_format(reader: ModelFormat, model: object, *, ask: Callable[[Any], object]) -> SavedModel:
    """Check all promises of a format with one model that it accepts; `ask` gives answers to compare."""
    check_a_model_comes_back(reader, model, ask=ask)
    if not reader.is_unsafe:
        check_equal_models_give_equal_bytes(reader, model)
    check_a_missing_file_is_corruption(reader, model)
    check_cut_files_are_refused(reader, model)
    return reader.save(model, named=named)


def check_a_model_comes_back(reader: ModelFormat, model: object, *, ask: Callable[[Any], object]) -> None:
    """Save, load, and ask the same question."""
    saved = reader.save(model, named=named)
    for path in saved.files:
        check_path(path)
    again = load(reader, saved)
    assert type(again) is type(model)
    assert ask(again) == ask(model), f"format {reader.name} changed the answers"


def check_equal_models_give_equal_bytes(reader: ModelFormat, model: object) -> None:
    """The same model saved twice is stored once; a model that was loaded is saved as it was."""
    first, second = reader.save(model, named=named), reader.save(model, named=named)
    assert first == second, f"format {reader.name} gives other bytes for the same model"


def check_a_missing_file_is_corruption(reader: ModelFormat, model: object) -> None:
    """Without any one of its files, a model is not loaded."""
    saved = reader.save(model, named=named)
    for path in saved.files:
        rest = {name: data for name, data in saved.files.items() if name != path}
        _refuses(reader, saved, rest, f"without '{path}'")


def check_cut_files_are_refused(reader: ModelFormat, model: object) -> None:
    """A file that was cut short is refused by an error of ours, never by a stranger's."""
    saved = reader.save(model, named=named)
    for path, data in saved.files.items():
        for size in {0, len(data) // 2}:
            _refuses(reader, saved, {**saved.files, path: data[:size]}, f"with '{path}' cut to {size} bytes")


def named(kind: type) -> str:
    """The entry point of a class as it is imported here."""
    return f"{kind.__module__}:{kind.__qualname__}"


def imported(entry: str) -> Any:
    """What an entry point names, imported here."""
    module, _, name = entry.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def load(reader: ModelFormat, saved: SavedModel) -> Any:
    """Load what was saved, as a reader with the default policy would."""
    return reader.load(saved.files, kind=saved.kind, trusted_types=TRUSTED_TYPES, imported=imported)


def _refuses(reader: ModelFormat, saved: SavedModel, files: dict[str, bytes], what: str) -> None:
    try:
        reader.load(files, kind=saved.kind, trusted_types=TRUSTED_TYPES, imported=imported)
    except FourfoldError as error:
        refusal = error
    else:
        raise AssertionError(f"format {reader.name} loaded a model {what}")
    assert isinstance(refusal, Corrupted), f"format {reader.name} {what}: {refusal!r} is not Corrupted"
