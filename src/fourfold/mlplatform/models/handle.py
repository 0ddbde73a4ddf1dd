"""What people hold of a registered model: load it, promote it, look at its past."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from fourfold.core.context import write_key
from fourfold.core.errors import NotFound, Refused
from fourfold.core.models import (
    AliasEvent,
    AliasRules,
    GateResult,
    Manifest,
    MetricRule,
    ModelRef,
    ModelVersion,
)
from fourfold.core.services.models import LoadedModel, Models
from fourfold.core.times import instant
from fourfold.core.wire import Number


class ModelHandle:
    """A model as its reference names it. Each use asks what the reference means at that moment."""

    def __init__(self, models: Models, ref: str) -> None:
        self._models = models
        self._ref = ModelRef.parse(ref)

    def __repr__(self) -> str:
        return f"<model '{self._ref}'>"

    @property
    def name(self) -> str:
        return self._ref.name

    @property
    def version(self) -> ModelVersion:
        """The version that the reference means now."""
        return self._models.resolve(str(self._ref))

    @property
    def exists(self) -> bool:
        """Whether the reference means anything yet (a first champion, for instance)."""
        try:
            self._models.resolve(str(self._ref))
        except NotFound:
            return False
        return True

    @property
    def metrics(self) -> Mapping[str, Number]:
        """The metrics that its run had when it was saved."""
        return self.version.metrics

    @property
    def tags(self) -> Mapping[str, str]:
        return self.version.tags

    @property
    def card(self) -> str:
        """What it is for, its limits, its owner: the text that was given when it was saved."""
        return self.file("card.md").decode()

    @property
    def manifest(self) -> Manifest:
        version = self.version
        return self._models.manifest(version.name, version.number)

    def file(self, path: str) -> bytes:
        """One of the version's files."""
        version = self.version
        return self._models.version_file(version.name, version.number, path=path)

    def load(self) -> LoadedModel:
        """The model, verified, checked by this reader's policy, its example replayed."""
        return self._models.load(str(self._ref))

    def versions(self, *, limit: int = 100) -> tuple[ModelVersion, ...]:
        """The name's versions, newest first."""
        return self._models.list_versions(self.name, limit=limit)

    def promote(self, version: ModelVersion | int, alias: str, *, why: str) -> AliasEvent:
        """Let `alias` point at a version, if its gates pass; else refused with every gate that failed."""
        return self._models.promote(
            self.name, alias, number=self._number(version), why=why, key=write_key() or ""
        )

    def check(self, version: ModelVersion | int, alias: str) -> tuple[GateResult, ...]:
        """What promotion would say."""
        return self._models.check(self.name, alias, number=self._number(version))

    def rollback(self, alias: str = "", *, why: str) -> AliasEvent:
        """Let an alias point at what it pointed at before its last promotion."""
        return self._models.rollback(self.name, self._alias(alias), why=why, key=write_key() or "")

    def history(self, alias: str = "", *, limit: int = 1000) -> tuple[AliasEvent, ...]:
        """Who moved which alias, when, why and from what; newest first."""
        return self._models.history(self.name, alias=alias or self._ref.alias, limit=limit)

    def held_at(self, moment: datetime, alias: str = "") -> ModelVersion:
        """The version that the alias pointed at then: what was in production."""
        return self._models.held_at(self.name, self._alias(alias), at=instant(moment))

    def protect(self, alias: str, *metrics: MetricRule) -> AliasRules:
        """Let an alias take only complete versions that replay and whose metrics meet these rules."""
        return self._models.set_rules(self.name, alias, rules=AliasRules(alias, True, tuple(metrics)))

    def _number(self, version: ModelVersion | int) -> int:
        if isinstance(version, int):
            return version
        if version.name != self.name:
            raise Refused(
                f"{version} is not a version of '{self.name}'",
                ways_on=[f'use ff.model("{version.name}")'],
            )
        return version.number

    def _alias(self, alias: str) -> str:
        if not (alias or self._ref.alias):
            raise Refused(f"which alias of '{self.name}'?", ways_on=["name one, for example 'champion'"])
        return alias or self._ref.alias
