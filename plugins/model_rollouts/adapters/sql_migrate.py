"""The rollout store's schema: bringing it to this version, and refusing to work with another one."""

import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Schema:
    """What a store's tables are, beside what this version of the package works with.

    Attributes:
        where: The store, without its password.
        found: The tables' revision; None: there are none yet.
        needed: The revision that this version works with.
    """

    where: str
    found: str | None
    needed: str = SCHEMA_REVISION

    @property
    def fits(self) -> bool:
        """Whether this version can work with them."""
        return self.found == self.needed

    @property
    def summary(self) -> str:
        """What was found, and which command mends it."""
        if self.fits:
            return f"the store {self.where} is at revision {self.found}, as this version of model-rollouts needs"
        if self.found is None:
            return f"the store {self.where} has no tables yet; run `rollouts db upgrade`"
        at = f"the store {self.where} is at revision {self.found}, this version of model-rollouts"
        if self.found > self.needed:
            return f"{at} knows {self.needed}; upgrade model-rollouts"
        return f"{at} needs {self.needed}; run `rollouts db upgrade`"


def schema_of(database: Database) -> Schema:
    """What the tables are; nothing is made or changed."""
    where = database.url.render_as_string(hide_password=True)
    file = database.url.database
    if database.url.get_backend_name() == "sqlite" and file and not Path(file).exists():
        return Schema(where, None)  # looking into it would make an empty one
    with database.read() as connection:
        return Schema(where, _found_revision(connection))


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the tables to this version. Repeating it changes nothing; several at once wait for each other.

    All of it is one transaction: a process that dies amid it leaves the tables as they were.

    Returns:
        The revision before (None: there were no tables), and the one now.

    Raises:
        SchemaError: The tables are of a newer version of this package, or of none; nothing is changed.
    """
    from alembic import command

    if database.url.get_backend_name() == "sqlite":
        _prepare_file(database)
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # changing a large table takes its time
            connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        before = _found_revision(connection)  # only now: another one may just have upgraded them
        config = alembic_config(connection)
        _require_known(config, Schema(database.url.render_as_string(hide_password=True), before))
        command.upgrade(config, "head")
    return before, SCHEMA_REVISION


def require_schema(database: Database) -> None:
    """Refuse tables that this version of the package does not know, and have an SQLite file use its write-ahead log.

    A copy that was restored does not: readers and a writer would wait for each other.

    Raises:
        SchemaError: The message says what was found and which command to run.
    """
    schema = schema_of(database)
    if not schema.fits:
        raise SchemaError(schema.summary)
    if database.url.get_backend_name() == "sqlite":
        with suppress(sqlite3.OperationalError):  # in use, or not ours to write: it works without, only slower
            _journal(database)


def _require_known(config: "Config", schema: Schema) -> None:
    """Refuse to upgrade what no migration of this package has made."""
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if schema.found is None or schema.found in known:
        return
    if schema.found > schema.needed:
        raise SchemaError(f"{schema.summary}; tables never go back to an older version, restore a backup instead")
    raise SchemaError(
        f"the store {schema.where} is at revision {schema.found}, which is none of this package "
        f"({', '.join(sorted(known))}); it was not made by `rollouts db upgrade`"
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


def _found_revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSIONS.name):
        return None
    return connection.execute(sa.select(_VERSIONS.c.version_num)).scalar()


def _write_ahead(database: Database) -> tuple[str] | None:
    """Switch the file's journal; SQLite does not wait for another process that does the same, so it is tried again."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _journal(database)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)  # bounded by the patience; the other one needs milliseconds


def _journal(database: Database) -> tuple[str] | None:
    connection = database.engine().raw_connection()
    try:
        mode: tuple[str] | None = connection.cursor().execute("PRAGMA journal_mode = WAL").fetchone()
    finally:
        connection.close()
    return mode


def _prepare_file(database: Database) -> None:
    """Make the folder, and have readers and a writer not wait for each other (WAL is a property of the file)."""
    if database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    mode = _write_ahead(database)
    if mode is None or mode[0] != "wal":
        raise SchemaError(f"SQLite can't use a write-ahead log at {database.url.database}; use a local disk")
