"""The rollout store's schema: bringing it to this version, and refusing to work with another one."""

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

import model_rollouts
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_tables import SCHEMA_REVISION
from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    from alembic.config import Config

_PATIENCE_SECONDS = 30.0
_LOCK = 0x726F6C6C6F757473  # "rollouts", as the number of PostgreSQL's advisory lock
_VERSIONS = sa.table("rollouts_schema", sa.column("version_num", sa.Text))  # Alembic makes and writes it


class SchemaError(RolloutError):
    """The store's tables are missing, or of another version of this package."""


def migrate(database: Database) -> None:
    """Bring the tables to this version. Repeating it changes nothing; several at once wait for each other."""
    from alembic import command

    if database.url.get_backend_name() == "sqlite":
        _prepare_file(database)
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # changing a large table takes its time
            connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        command.upgrade(alembic_config(connection), "head")


def require_schema(database: Database) -> None:
    """Refuse tables that this version of the package does not know.

    Raises:
        SchemaError: The message says what was found and which command to run.
    """
    found = _found_revision(database)
    if found == SCHEMA_REVISION:
        return
    where = database.url.render_as_string(hide_password=True)
    if found is None:
        raise SchemaError(f"the store {where} has no tables yet; run `rollouts db upgrade`")
    if found > SCHEMA_REVISION:
        raise SchemaError(
            f"the store {where} is at revision {found}, this version of model-rollouts knows {SCHEMA_REVISION}; "
            "upgrade model-rollouts"
        )
    raise SchemaError(
        f"the store {where} is at revision {found}, this version of model-rollouts needs {SCHEMA_REVISION}; "
        "run `rollouts db upgrade`"
    )


def alembic_config(connection: sa.Connection) -> "Config":
    """Alembic's configuration for a connection that is in a transaction; Alembic leaves the commit to its owner."""
    from alembic.config import Config

    config = Config()
    scripts = Path(model_rollouts.__file__).with_name("migrations")
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _VERSIONS.name
    return config


def _found_revision(database: Database) -> str | None:
    file = database.url.database
    if database.url.get_backend_name() == "sqlite" and file and not Path(file).exists():
        return None  # looking into it would make an empty one
    with database.read() as connection:
        if not sa.inspect(connection).has_table(_VERSIONS.name):
            return None
        return connection.execute(sa.select(_VERSIONS.c.version_num)).scalar()


def _write_ahead(database: Database) -> tuple[str] | None:
    """Switch the file's journal; SQLite does not wait for another process that does the same, so it is tried again."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        connection = database.engine().raw_connection()
        try:
            mode: tuple[str] | None = connection.cursor().execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)  # bounded by the patience; the other one needs milliseconds
        else:
            return mode
        finally:
            connection.close()


def _prepare_file(database: Database) -> None:
    """Make the folder, and have readers and a writer not wait for each other (WAL is a property of the file)."""
    if database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    mode = _write_ahead(database)
    if mode is None or mode[0] != "wal":
        raise SchemaError(f"SQLite can't use a write-ahead log at {database.url.database}; use a local disk")
