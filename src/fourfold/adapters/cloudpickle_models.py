"""Any Python object by cloudpickle: the last resort. Loading one runs whatever code it brings along.

Readers refuse it unless their policy says `allow_unsafe`. It also breaks when libraries change, so a version
in this format lives and dies with its lock.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fourfold.core.errors import Corrupted, Missing, Refused
from fourfold.core.ports.model_formats import SavedModel

FILE = "model.cloudpickle"


class CloudpickleModels:
    """Fulfils `core.ports.model_formats.ModelFormat` for whatever cloudpickle takes, unsafely."""

    name = "cloudpickle"
    is_unsafe = True

    def accepts(self, model: object) -> bool:  # noqa: ARG002
        return False  # never chosen by itself: people name it, knowing what it is

    def save(self, model: object, *, named: Callable[[type], str]) -> SavedModel:  # noqa: ARG002
        try:
            data = _cloudpickle().dumps(model)
        except Exception as error:  # pickling calls the object's own code
            raise Refused(f"cloudpickle cannot keep {type(model).__name__}: {error}") from error
        kind = type(model)
        top = kind.__module__.partition(".")[0]
        return SavedModel(
            kind=f"{kind.__module__}:{kind.__qualname__}",
            files={FILE: data},
            hyper_parameters={},
            libraries=("cloudpickle", top),
        )

    def load(
        self,
        files: Mapping[str, bytes],
        *,
        kind: str,  # noqa: ARG002
        trusted_types: Collection[str],  # noqa: ARG002
        imported: Callable[[str], Any],  # noqa: ARG002
    ) -> Any:
        if FILE not in files:
            raise Corrupted(f"the version has no '{FILE}'", path=FILE)
        try:
            return _cloudpickle().loads(files[FILE])
        except Exception as error:  # unpickling runs the object's own code
            raise Corrupted(f"'{FILE}' cannot be unpickled here: {error}", path=FILE) from error


def _cloudpickle() -> Any:
    try:
        return importlib.import_module("cloudpickle")
    except ImportError as error:
        raise Missing("this format needs cloudpickle", ways_on=["pip install cloudpickle"]) from error
