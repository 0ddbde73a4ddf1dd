"""The tables of model versions and aliases, and the only code that reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.database import metadata
from fourfold.core import wire
from fourfold.core.errors import Conflict, NotFound, did_you_mean
from fourfold.core.models import (
    AliasAction,
    AliasEvent,
    AliasRules,
    Artifact,
    GateResult,
    ModelInfo,
    ModelRef,
    ModelVersion,
)
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant

FORMAT = 1

name = sa.Table(
    "model_name",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("last_number", sa.Integer, nullable=False),
)

version = sa.Table(
    "model_version",
    metadata,
    sa.Column("name", sa.ForeignKey("model_name.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("format", sa.Integer, nullable=False, default=FORMAT),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("manifest", sa.String(80), nullable=False),  # its blob
    sa.Column("run", sa.ForeignKey("model_run.id"), nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),  # JSON: metrics, missing artifacts, size, environment
    sa.UniqueConstraint("name", "run", "digest"),
    sa.Index(None, "digest"),
    sa.Index(None, "run"),
)

version_tag = sa.Table(
    "model_version_tag",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["name", "number"], ["model_version.name", "model_version.number"]),
)

alias = sa.Table(
    "model_alias",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # of this row: compare and swap
    sa.ForeignKeyConstraint(["name", "number"], ["model_version.name", "model_version.number"]),
)

alias_event = sa.Table(
    "model_alias_event",
    metadata,
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("name", sa.ForeignKey("model_name.name"), nullable=False),
    sa.Column("alias", sa.String(100), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("before", sa.Integer),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("gates", sa.Text, nullable=False),  # JSON: what each gate said
    sa.Index(None, "name", "alias", "at_us"),
)

alias_rules = sa.Table(
    "model_alias_rules",
    metadata,
    sa.Column("name", sa.ForeignKey("model_name.name"), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("rules", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a version's row keeps as JSON."""

    metrics: Mapping[str, wire.Number] = field(default_factory=dict)
    missing: tuple[Artifact, ...] = ()
    size_bytes: int = 0
    environment: str = ""


# -- versions ---------------------------------------------------------------------------------------


def made_by(connection: sa.Connection, *, key: str) -> ModelVersion | None:
    """The version that a write with this key made, if one did."""
    row = connection.execute(sa.select(version).where(version.c.key == key)).one_or_none() if key else None
    return None if row is None else _values(connection, [row])[0]


def create(
    connection: sa.Connection,
    model: str,
    *,
    digest: str,
    manifest: Digest,
    run: str,
    key: str,
    by: str,
    facts: Facts,
    tags: Mapping[str, str],
    now: Instant,
) -> tuple[ModelVersion, bool]:
    """Number a manifest under a name; the version and whether it is new.

    Raising the name's counter locks its row, so that two creators stand in line and get two numbers.
    """
    rows.insert_new(connection, name, [{"name": model, "created_at_us": now, "last_number": 0}])
    number = connection.execute(
        name.update()
        .where(name.c.name == model)
        .values(last_number=name.c.last_number + 1)
        .returning(name.c.last_number)
    ).scalar_one()
    same = version.c.name == model, version.c.run == run, version.c.digest == digest
    mine = version.c.key == key if key else sa.false()
    present = connection.execute(sa.select(version).where(sa.or_(sa.and_(*same), mine))).first()
    if present is not None:
        connection.execute(name.update().where(name.c.name == model).values(last_number=number - 1))
        return _values(connection, [present])[0], False
    connection.execute(
        version.insert().values(
            name=model,
            number=number,
            format=FORMAT,
            key=key or None,
            digest=digest,
            manifest=manifest,
            run=run,
            created_at_us=now,
            by=by,
            facts=wire.encode(facts).decode(),
        )
    )
    add_tags(connection, model, number, tags)
    return get(connection, ModelRef(model, number)), True


def add_tags(connection: sa.Connection, model: str, number: int, tags: Mapping[str, str]) -> None:
    """Add tags beside the manifest; the new value of one that is there wins."""
    for key, value in sorted(tags.items()):
        rows.put(connection, version_tag, {"name": model, "number": number, "key": key, "value": value})


def get(connection: sa.Connection, ref: ModelRef) -> ModelVersion:
    """The version that a reference means now."""
    last = connection.execute(
        sa.select(name.c.last_number).where(name.c.name == ref.name)
    ).scalar_one_or_none()
    if last is None:
        known = connection.execute(sa.select(name.c.name).order_by(name.c.name)).scalars().all()
        raise NotFound(
            f"model '{ref.name}' does not exist",
            ways_on=did_you_mean(ref.name, known, what="models"),
            name=ref.name,
        )
    number = ref.number or last
    if ref.alias:
        pointed = holder(connection, ref.name, ref.alias)
        if pointed is None:
            others = connection.execute(sa.select(alias.c.alias).where(alias.c.name == ref.name)).scalars()
            raise NotFound(
                f"model '{ref.name}' has no alias '{ref.alias}'",
                ways_on=did_you_mean(ref.alias, others, what="aliases"),
                name=ref.name,
                alias=ref.alias,
            )
        number = pointed[0]
    row = connection.execute(
        sa.select(version).where(version.c.name == ref.name, version.c.number == number)
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"model '{ref.name}' has no version {number}",
            ways_on=[f"its versions run from 1 to {last}" if last else "it has no version yet"],
            name=ref.name,
            number=number,
        )
    return _values(connection, [row])[0]


def manifest_blob(connection: sa.Connection, found: ModelVersion) -> Digest:
    """The blob that holds a version's manifest."""
    return Digest(
        connection.execute(
            sa.select(version.c.manifest).where(
                version.c.name == found.name, version.c.number == found.number
            )
        ).scalar_one()
    )


def page(connection: sa.Connection, model: str, *, limit: int, offset: int) -> tuple[ModelVersion, ...]:
    """A name's versions, newest first."""
    found = connection.execute(
        sa.select(version)
        .where(version.c.name == model)
        .order_by(version.c.number.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    if not found and not offset:
        get(connection, ModelRef(model))  # refuses a name that does not exist
    return _values(connection, found)


def names(connection: sa.Connection) -> tuple[ModelInfo, ...]:
    """All names, sorted."""
    aliases: dict[str, dict[str, int]] = {}
    for row in connection.execute(sa.select(alias).order_by(alias.c.name, alias.c.alias)):
        aliases.setdefault(row.name, {})[row.alias] = row.number
    counted = connection.execute(
        sa.select(name, sa.func.count(version.c.number).label("versions"))
        .join_from(name, version, isouter=True)
        .group_by(name.c.name, name.c.created_at_us, name.c.last_number)
        .order_by(name.c.name)
    )
    return tuple(
        ModelInfo(
            row.name, Instant(row.created_at_us), row.versions, row.last_number, aliases.get(row.name, {})
        )
        for row in counted
    )


def _values(connection: sa.Connection, found: Sequence[sa.Row[Any]]) -> tuple[ModelVersion, ...]:
    tags: dict[tuple[str, int], dict[str, str]] = {}
    aliases: dict[tuple[str, int], list[str]] = {}
    for chunk in rows.chunks([(row.name, row.number) for row in found]):
        key = sa.tuple_(version_tag.c.name, version_tag.c.number)
        for row in connection.execute(
            sa.select(version_tag).where(key.in_(chunk)).order_by(version_tag.c.key)
        ):
            tags.setdefault((row.name, row.number), {})[row.key] = row.value
        key = sa.tuple_(alias.c.name, alias.c.number)
        for row in connection.execute(sa.select(alias).where(key.in_(chunk)).order_by(alias.c.alias)):
            aliases.setdefault((row.name, row.number), []).append(row.alias)
    return tuple(_value(row, tags, aliases) for row in found)


def _value(
    row: sa.Row[Any],
    tags: Mapping[tuple[str, int], Mapping[str, str]],
    aliases: Mapping[tuple[str, int], Iterable[str]],
) -> ModelVersion:
    facts = wire.decode(row.facts, Facts, what=f"model {row.name}/{row.number}")
    return ModelVersion(
        name=row.name,
        number=row.number,
        digest=row.digest,
        run=row.run,
        created_at=Instant(row.created_at_us),
        by=row.by,
        metrics=facts.metrics,
        tags=tags.get((row.name, row.number), {}),
        aliases=tuple(aliases.get((row.name, row.number), ())),
        missing=facts.missing,
        size_bytes=facts.size_bytes,
        environment=facts.environment,
    )


# -- aliases ----------------------------------------------------------------------------------------


def holder(connection: sa.Connection, model: str, word: str) -> tuple[int, int] | None:
    """The number that an alias points at and the version of its row (for compare and swap)."""
    row = connection.execute(
        sa.select(alias.c.number, alias.c.version).where(alias.c.name == model, alias.c.alias == word)
    ).one_or_none()
    return None if row is None else (row.number, row.version)


def move(
    connection: sa.Connection, event: AliasEvent, *, seen: tuple[int, int] | None, key: str
) -> AliasEvent:
    """Let an alias point elsewhere (or nowhere) and note it, if it is still as it was `seen`."""
    here = [alias.c.name == event.name, alias.c.alias == event.alias]
    if seen is not None:  # the number too: an alias that was removed and set again counts anew
        here += [alias.c.number == seen[0], alias.c.version == seen[1]]
    if seen is None:
        values = {"name": event.name, "alias": event.alias, "number": event.number, "version": 1}
        changed = rows.insert_new(connection, alias, [values])
    elif event.number is None:
        changed = connection.execute(alias.delete().where(*here)).rowcount
    else:
        changed = connection.execute(
            alias.update().where(*here).values(number=event.number, version=seen[1] + 1)
        ).rowcount
    if changed != 1:
        raise Conflict(
            f"alias '{event.alias}' of '{event.name}' was moved by somebody else meanwhile",
            ways_on=[f"look at its history, then decide again: fourfold model history {event.name}"],
            name=event.name,
            alias=event.alias,
        )
    connection.execute(
        alias_event.insert().values(
            key=key or None,
            name=event.name,
            alias=event.alias,
            action=event.action.value,
            number=event.number,
            before=event.before,
            by=event.by,
            why=event.why,
            at_us=event.at,
            gates=wire.encode(event.gates).decode(),
        )
    )
    return event


def event_of(connection: sa.Connection, *, key: str) -> AliasEvent | None:
    """The move that a write with this key made, if one did."""
    if not key:
        return None
    row = connection.execute(sa.select(alias_event).where(alias_event.c.key == key)).one_or_none()
    return None if row is None else _event(row)


def events(
    connection: sa.Connection, model: str, *, word: str = "", until: Instant | None = None, limit: int
) -> tuple[AliasEvent, ...]:
    """The moves of a name's aliases, newest first; those up to an instant if one is given."""
    query = sa.select(alias_event).where(alias_event.c.name == model)
    if word:
        query = query.where(alias_event.c.alias == word)
    if until is not None:
        query = query.where(alias_event.c.at_us <= until)
    query = query.order_by(alias_event.c.row.desc()).limit(limit)
    return tuple(_event(row) for row in connection.execute(query))


def rules_of(connection: sa.Connection, model: str, word: str) -> AliasRules | None:
    """What was set for an alias, if anything was."""
    text = connection.execute(
        sa.select(alias_rules.c.rules).where(alias_rules.c.name == model, alias_rules.c.alias == word)
    ).scalar_one_or_none()
    return None if text is None else wire.decode(text, AliasRules, what=f"rules of {model}@{word}")


def put_rules(connection: sa.Connection, model: str, rules: AliasRules) -> None:
    """Set what an alias asks."""
    text = wire.encode(rules).decode()
    rows.put(connection, alias_rules, {"name": model, "alias": rules.alias, "rules": text})


def _event(row: sa.Row[Any]) -> AliasEvent:
    return AliasEvent(
        name=row.name,
        alias=row.alias,
        action=AliasAction(row.action),
        number=row.number,
        before=row.before,
        by=row.by,
        why=row.why,
        at=Instant(row.at_us),
        gates=wire.decode(row.gates, tuple[GateResult, ...], what="gates"),
    )
