"""The migrations make what the code expects, and the code refuses anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import SchemaError, alembic_config, migrate, require_schema
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.adapters.sql_tables import SCHEMA_REVISION, metadata

_TABLES = ("rollouts", "traffic", "events", "looks", "registry_seen", "registry_changes")


def _rules(connection: sa.Connection) -> dict[str, Any]:
    """What Alembic's comparison does not look at: checks, conditions of indexes, foreign keys."""
    inspector = sa.inspect(connection)

    def plain(found: list[Any]) -> list[str]:
        return sorted(json.dumps(each, sort_keys=True, default=str) for each in found)

    return {
        table: (
            plain(inspector.get_check_constraints(table)),
            plain(inspector.get_indexes(table)),
            plain(inspector.get_foreign_keys(table)),
        )
        for table in _TABLES
    }


def test_migrations_and_tables_agree(empty_url: str) -> None:
    database = Database(empty_url)
    migrate(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "rollouts_schema"})
        assert compare_metadata(context, metadata) == []
        migrated = _rules(connection)

    with database.write() as connection:
        command.downgrade(alembic_config(connection), "base")
        metadata.create_all(connection)
        assert _rules(connection) == migrated
    database.close()


def test_the_code_names_the_newest_migration(empty_url: str) -> None:
    database = Database(empty_url)
    migrate(database)
    with database.read() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_heads() == [SCHEMA_REVISION]
    database.close()


def test_a_downgrade_leaves_nothing_and_can_be_undone(empty_url: str) -> None:
    database = Database(empty_url)
    migrate(database)

    with database.write() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert sa.inspect(connection).get_table_names() == ["rollouts_schema"]
        if connection.dialect.name == "postgresql":
            left = "SELECT count(*) FROM pg_proc WHERE proname = 'rollouts_refuse'"
            assert connection.exec_driver_sql(left).scalar() == 0
    migrate(database)

    assert SqlStore(empty_url).all_traffic() == []
    database.close()


def test_migrating_again_keeps_what_is_there(steps: Any, store: SqlStore) -> None:
    steps.start()

    store.migrate()

    assert store.rollout("r1").id == "r1"


def test_a_store_without_tables_says_which_command_makes_them(empty_url: str) -> None:
    store = SqlStore(empty_url)

    with pytest.raises(SchemaError, match="has no tables yet; run `rollouts db upgrade`"):
        store.all_traffic()
    store.migrate()

    assert store.all_traffic() == []


@pytest.mark.parametrize(
    ("revision", "advice"), [("0000", "run `rollouts db upgrade`"), ("9999", "upgrade model-rollouts")]
)
def test_a_store_of_another_version_is_refused(store_url: str, revision: str, advice: str) -> None:
    with Database(store_url).write() as connection:
        connection.execute(sa.text("UPDATE rollouts_schema SET version_num = :revision"), {"revision": revision})

    with pytest.raises(SchemaError, match=f"at revision {revision}, .* {SCHEMA_REVISION}; {advice}"):
        SqlStore(store_url).all_traffic()


def test_looking_into_a_store_that_is_not_there_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no tables yet"):
        SqlStore(f"sqlite:///{tmp_path / 'absent.db'}").traffic("flights")

    assert list(tmp_path.iterdir()) == []


def test_a_password_is_not_told(monkeypatch: pytest.MonkeyPatch, empty_url: str) -> None:
    database = Database(empty_url)
    monkeypatch.setattr(database, "url", database.url.set(password="secret"))

    with pytest.raises(SchemaError) as caught:
        require_schema(database)

    assert "secret" not in str(caught.value)
