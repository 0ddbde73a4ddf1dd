"""What people write: `ff.dataset("training").release(why="fresh labels")`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.datasets import DatasetDiff, DatasetInfo, DatasetVersion, Definition, dataset_name
from fourfold.core.errors import Refused
from fourfold.foundation.storage.api import Table
from fourfold.foundation.storage.folders.api import Files

if TYPE_CHECKING:
    from fourfold.core.expectations import Check
    from fourfold.core.services.datasets import Datasets

Thing = str | Table | Files | Ref
"""A table by its name, a handle on a table or on files, or anything else by its reference."""


class Dataset:
    """A named bundle of tables and files: releasing makes a version that pins each of them.

    The handle itself touches nothing. `version` and `tagged` give handles on one version.

        training = ff.dataset("training")
        training.define(["flights", "weather", ff.files("maps")], owner="ada", description="Late or not?")
        training.release(why="with March")
        training.version(0).table("flights").read()
        training.diff(0, 1).drift
    """

    def __init__(self, name: str, *, version: int | None = None, tag: str | None = None) -> None:
        self.name = dataset_name(name)
        self._pin: dict[str, Any] = {"version": version, "tag": tag}

    def __repr__(self) -> str:
        pinned = "".join(f" {key}={value!r}" for key, value in self._pin.items() if value is not None)
        return f"<Dataset {self.name}{pinned}>"

    def version(self, number: int) -> Dataset:
        """The dataset as it was at a version."""
        return Dataset(self.name, version=number)

    def tagged(self, tag: str) -> Dataset:
        """The version that carries a tag."""
        return Dataset(self.name, tag=tag)

    # Making

    def define(
        self,
        members: Iterable[Thing] | Mapping[str, Thing],
        *,
        description: str = "",
        owner: str = "",
        labels: Iterable[str] = (),
        why: str = "",
    ) -> DatasetInfo:
        """Say what it is made of, in place of what was said; a mapping gives members names of their own.

        A handle on a version is that version for good; what has none is taken as it is at each release.
        """
        self._check_not_pinned("define")
        definition = Definition(
            members=_members(members), description=description, owner=owner, labels=tuple(labels)
        )
        return self._service.define(self.name, definition, why=why)

    def release(self, *, why: str = "") -> DatasetVersion:
        """Make a version of it as it is now; where all members are as in the newest, that is the answer.

        Refused where a table is not as expected of it.
        """
        self._check_not_pinned("release")
        return self._service.release(self.name, why=why)

    def tag(self, tag: str, *, why: str = "") -> DatasetVersion:
        """Give this version (the newest, if the handle pins none) a name of its own."""
        return self._service.tag_release(self.name, tag, version=self.released().version, why=why)

    # Looking

    def describe(self) -> DatasetInfo:
        """What it is made of, who owns it, its newest version and its tags."""
        return self._service.dataset(self.name)

    def released(self) -> DatasetVersion:
        """The version: what it pins, when, by whom and why."""
        return self._service.released(self.name, **self._pin)

    def table(self, member: str) -> Table:
        """A member table, at the version that is pinned."""
        return Table(self._ref(member, "table").name, version=int(self._ref(member, "table").version))

    def files(self, member: str) -> Files:
        """Member files, at the version that is pinned."""
        ref = self._ref(member, "files")
        return Files(ref.name, version=int(ref.version))

    def history(self, *, limit: int = 1000) -> tuple[DatasetVersion, ...]:
        """The versions, newest first."""
        return self._service.releases(self.name, limit=limit)

    def diff(self, before: int, after: int | None = None) -> DatasetDiff:
        """What differs from one version to another (the newest, if not said), and how far columns moved."""
        return self._service.diff_releases(self.name, before=before, after=after)

    def check(self) -> tuple[Check, ...]:
        """Its tables held against what is expected of them: those pinned, or as they are now."""
        pinned = None if self._pin == {"version": None, "tag": None} else self.released().version
        return self._service.check_dataset(self.name, version=pinned)

    @property
    def _service(self) -> Datasets:
        return context.services().datasets

    def _ref(self, member: str, kind: str) -> Ref:
        found = self.released().member(member).ref
        if found.kind != kind:
            raise Refused(
                f"member '{member}' of {self!r} is a {found.kind}, not a {kind}",
                ways_on=[f"it is {found}"],
                member=member,
            )
        return found

    def _check_not_pinned(self, what: str) -> None:
        if any(value is not None for value in self._pin.values()):
            raise Refused(
                f"cannot {what} an older version: {self!r}", ways_on=[f"use dataset({self.name!r}) itself"]
            )


def dataset(name: str) -> Dataset:
    """The dataset of this name in the present project; it need not exist yet."""
    return Dataset(name)


def _members(given: Iterable[Thing] | Mapping[str, Thing]) -> dict[str, Ref]:
    if isinstance(given, str):
        raise Refused(f"members is the text {given!r}", ways_on=[f"write [{given!r}]"])
    if isinstance(given, Mapping):
        return {name: _ref(thing) for name, thing in given.items()}
    found: dict[str, Ref] = {}
    for thing in given:
        ref = _ref(thing)
        if ref.name in found:
            raise Refused(
                f"two members are called '{ref.name}'", ways_on=["give names: {'old': ..., 'new': ...}"]
            )
        found[ref.name] = ref
    return found


def _ref(thing: Thing) -> Ref:
    match thing:
        case str():
            return Ref("table", thing)
        case Table() | Files():
            return thing.ref
        case Ref():
            return thing
        case _:
            raise Refused(f"a {type(thing).__name__} cannot be a member of a dataset")
