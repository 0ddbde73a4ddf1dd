"""How a fitted model becomes files, and files a model again: one adapter per format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fourfold.core.models import Scalar


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a format made of a model: its files (relative path to bytes), and what defines it."""

    kind: str
    """Its class, `module:Qualname`."""
    files: Mapping[str, bytes]
    hyper_parameters: Mapping[str, Scalar]
    libraries: tuple[str, ...]
    """Top-level modules that loading needs (`sklearn`, `numpy`)."""


class ModelFormat(Protocol):
    """Reads and writes the parameters of one kind of model.

    `save` then `load` gives a model with the same answers. Equal models give equal bytes. `load` never runs
    code that the bytes bring along, unless `is_unsafe` says so; a type that is neither safe for the
    format nor in `trusted_types` is `Denied` by name. Bytes that cannot be read are `Corrupted`.
    """

    name: str
    is_unsafe: bool

    def accepts(self, model: object) -> bool:
        """Whether `save` can keep this model; it imports no library that the model does not use."""
        ...

    def save(self, model: object, *, named: Callable[[type], str]) -> SavedModel:
        """The model's files. What cannot be kept faithfully is `Refused`, naming the part.

        `named(kind)` gives `module:Qualname` of a class of the project and keeps its source with the
        version; `load` finds the class again by `imported(...)`.
        """
        ...

    def load(
        self,
        files: Mapping[str, bytes],
        *,
        kind: str,
        trusted_types: Collection[str],
        imported: Callable[[str], Any],
    ) -> Any:
        """The model again. `imported("module:Name")` finds a name in the version's stored source."""
        ...
