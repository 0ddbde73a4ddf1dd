"""Migrations and the rooms' tables agree, and a database is brought up to date once."""

from __future__ import annotations

import ast
import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.conftest import fresh_postgres, import_all_tables

import fourfold.catalog
from fourfold.catalog import upgrade
from fourfold.catalog.database import Catalog
from fourfold.core.errors import Refused

MIGRATIONS = Path(fourfold.catalog.__file__).parent / "migrations" / "versions"


@pytest.fixture
def other_catalog_url(catalog_url: str, tmp_path: Path) -> Iterator[str]:
    """The address of a second empty database of the same kind."""
    if catalog_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/other.db"
    else:
        with fresh_postgres() as url:
            yield url


def shape(connection: sa.Connection) -> list[str]:
    """All that a database knows of its tables, one line each: columns, keys, indexes, triggers."""
    inspector = sa.inspect(connection)
    lines: list[str] = []
    for table in inspector.get_table_names():
        if table == "alembic_version":
            continue
        primary = inspector.get_pk_constraint(table)
        lines.append(f"{table}: primary key {primary['name']} {primary['constrained_columns']}")
        for column in inspector.get_columns(table):
            null = "null" if column["nullable"] else "not null"
            default = column.get("default")
            lines.append(f"{table}.{column['name']}: {column['type']!r} {null} default {default}")
        for key in inspector.get_foreign_keys(table):
            to = f"{key['referred_table']}{key['referred_columns']} {key['options']}"
            lines.append(f"{table}: foreign key {key['name']} {key['constrained_columns']} to {to}")
        keys, indexes = inspector.get_unique_constraints(table), inspector.get_indexes(table)
        checks = inspector.get_check_constraints(table)
        lines += [f"{table}: unique {key['name']} {key['column_names']}" for key in keys]
        lines += [f"{table}: index {ix['name']} {ix['column_names']} {ix['unique']}" for ix in indexes]
        lines += [f"{table}: check {check['name']} {check['sqltext']}" for check in checks]
    if connection.dialect.name == "sqlite":  # what the inspector leaves out: AUTOINCREMENT, WITHOUT ROWID
        query = "SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        lines += [
            f"{name}: {' '.join(line.split())}"
            for name, sql in connection.exec_driver_sql(query)
            for line in (sql.splitlines() if sql.startswith("CREATE TABLE") else [sql])
            if name != "alembic_version" and line.strip()
        ]
    else:
        query = """SELECT tgrelid::regclass::text, pg_get_triggerdef(t.oid) FROM pg_trigger t
            JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
            WHERE NOT tgisinternal AND nspname = current_schema()"""
        lines += [f"{name}: {definition}" for name, definition in connection.exec_driver_sql(query)]
    return sorted(line.replace(inspector.default_schema_name or "main", "SCHEMA") for line in lines)


def made(url: str, *, by_migrations: bool) -> list[str]:
    catalog = Catalog.open(url) if by_migrations else Catalog(url)
    if not by_migrations:
        catalog.create_all()
    with catalog.read() as connection:
        found = shape(connection)
    catalog.close()
    return found


def test_the_migrations_make_exactly_the_tables_of_the_rooms(
    catalog_url: str, other_catalog_url: str
) -> None:
    import_all_tables()
    tables, migrated = (
        made(other_catalog_url, by_migrations=False),
        made(catalog_url, by_migrations=True),
    )
    assert len(tables) > 300
    differences = [line for line in difflib.ndiff(tables, migrated) if line[0] in "-+"]
    assert not differences, (
        "catalog/migrations/versions and the rooms' tables.py differ "
        "(- only in tables.py, + only in the migrations):\n" + "\n".join(differences)
    )


def test_a_migration_imports_no_room() -> None:
    for path in MIGRATIONS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith("fourfold")], path.name


def test_the_newest_migration_is_the_one_that_the_code_knows() -> None:
    assert max(path.name[1:5] for path in MIGRATIONS.glob("v*.py")) == upgrade.HEAD


def test_opening_again_changes_nothing(catalog_url: str) -> None:
    Catalog.open(catalog_url).close()
    first = made(catalog_url, by_migrations=True)
    assert made(catalog_url, by_migrations=True) == first


def test_a_newer_catalog_is_refused(catalog_url: str) -> None:
    catalog = Catalog.open(catalog_url)
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    catalog.close()
    with pytest.raises(Refused, match=rf"newer Fourfold \(its tables are at 0999, ours at {upgrade.HEAD}\)"):
        Catalog.open(catalog_url)


def test_tables_of_unknown_origin_are_refused_and_left_as_they_are(catalog_url: str) -> None:
    catalog = Catalog(catalog_url)
    with catalog.write() as connection:
        connection.exec_driver_sql("CREATE TABLE catalog_project (anything INTEGER)")
    with pytest.raises(Refused, match="not the record of which version"):
        Catalog.open(catalog_url)
    with catalog.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["catalog_project"]
    catalog.close()


@pytest.mark.slow
def test_a_migration_that_fails_leaves_nothing(catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate = upgrade.migrate

    def migrate_then_fail(connection: sa.Connection) -> None:
        migrate(connection)
        raise ZeroDivisionError

    monkeypatch.setattr(upgrade, "migrate", migrate_then_fail)
    with pytest.raises(ZeroDivisionError):
        Catalog.open(catalog_url)
    monkeypatch.undo()
    catalog = Catalog(catalog_url)
    with catalog.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    catalog.close()
    Catalog.open(catalog_url).close()


def test_opening_a_catalog_that_is_up_to_date_does_not_load_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    Catalog.open(url).close()
    code = (
        "import sys; from fourfold.catalog.database import Catalog; "
        f"Catalog.open({url!r}).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
