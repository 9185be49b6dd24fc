"""The prediction log in PostgreSQL: the tables of docs/contracts.md in a schema of their own, and how to reach them."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from model_rollouts.adapters.delta_schema import SCHEMAS, LogContractError, TableName

if TYPE_CHECKING:
    import pyarrow as pa

    from model_rollouts.adapters.postgres_log_writer import PostgresLogWriter

SCHEMA = "model_rollouts_log"
COMMITS = "commits"
_MOST_BYTES = 63  # of a name; PostgreSQL cuts longer ones off, so that two become one
_HASHED = re.compile(r"~[0-9a-f]{32}")
_CONNECT_SECONDS = 10
_NO_ANSWER_SECONDS = 30.0
# A watch has few threads, which all its rollouts share: a read that never ends would end all watches. Whoever holds the
# table for longer is at work on it; a look over a large log takes minutes at the most, and is tried again.
_READ_LOCK_SECONDS = 10.0
_READ_SECONDS = 600.0
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), coalesce(col_description(attrelid, attnum), attname)
FROM pg_attribute
WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_LOG_TYPES = {"double precision": "double", "text": "string"}


@dataclass(frozen=True, slots=True)
class PostgresColumn:
    """A column as it is.

    Attributes:
        name: In the log; `stored` may be a shorter one.
        stored: In PostgreSQL.
        kind: "double", "string", or PostgreSQL's name of another type.
    """

    name: str
    stored: str
    kind: str


class PostgresLog:
    """A log in a database.

    Args:
        url: `postgresql://` URL of the database, as libpq has it.
        schema: The schema of its tables; made with the first rows.
        no_answer_seconds: After so long a connection is given up, and with it the commit or the query: a query when
            the server's machine is silent, a commit also when only the server's process is.
    """

    def __init__(self, url: str, schema: str = SCHEMA, no_answer_seconds: float = _NO_ANSWER_SECONDS) -> None:
        self.url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self.schema = schema
        self.no_answer_seconds = no_answer_seconds

    def table(self, model: str, table: TableName) -> "PostgresTable":
        """A model's table, whether it is there yet or not.

        Raises:
            LogContractError: The model name is empty, or the table unknown.
        """
        if not model or "\x00" in model:
            raise LogContractError(f"the model name is {model!r}; give the registered model's name")
        if table not in SCHEMAS:
            raise LogContractError(f"table is {table!r}, must be one of {', '.join(SCHEMAS)}")
        return PostgresTable(self, table, stored_name(model, f".{table}"))

    def appender(self, app_id: str) -> "PostgresLogWriter":
        """A writer of this log."""
        from model_rollouts.adapters.postgres_log_writer import PostgresLogWriter

        return PostgresLogWriter(self, app_id)

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection.

        Raises:
            psycopg.OperationalError: The server can't be reached.
        """
        third = max(1, int(self.no_answer_seconds / 3))
        return psycopg.connect(
            self.url,
            connect_timeout=_CONNECT_SECONDS,
            client_encoding="utf-8",
            application_name="model-rollouts log",
            keepalives_idle=third,
            keepalives_interval=third,
            tcp_user_timeout=int(self.no_answer_seconds * 1000),
        )


@dataclass(frozen=True, slots=True)
class PostgresTable:
    """A model's table.

    Attributes:
        log: Where it is.
        table: "predictions" or "outcomes".
        relation: Its name in the schema.
    """

    log: PostgresLog
    table: TableName
    relation: str

    @property
    def identifier(self) -> sql.Identifier:
        """Its name for a statement."""
        return sql.Identifier(self.log.schema, self.relation)

    def columns(self, connection: "psycopg.Connection[tuple[object, ...]]") -> list[PostgresColumn]:
        """Its columns, in order; none where there is no table."""
        name = self.identifier.as_string(connection)
        found = connection.execute(sql.SQL(_COLUMNS).format(sql.Literal(name))).fetchall()
        return [
            PostgresColumn(str(name), str(stored), _LOG_TYPES.get(str(kind), str(kind))) for stored, kind, name in found
        ]

    @contextmanager
    def fetched(
        self, start: datetime, end: datetime, wanted: Callable[[str], bool], limit: int | None = None
    ) -> "Iterator[pa.RecordBatchReader | None]":
        """See `LogTable`."""
        from model_rollouts.adapters.postgres_log_reader import fetched

        with fetched(self, start, end, wanted, limit) as reader:
            yield reader

    def __str__(self) -> str:
        return f"{self.log.schema}.{self.relation}"


def limit_reading(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Let no statement of this transaction wait for a lock, or take, longer than a read may."""
    for name, seconds in {"lock_timeout": _READ_LOCK_SECONDS, "statement_timeout": _READ_SECONDS}.items():
        value = sql.Literal(f"{round(seconds * 1000)}ms")
        connection.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), value))


def stored_name(name: str, suffix: str = "") -> str:
    """A name that PostgreSQL keeps apart from all others: as it is, or its beginning and a hash."""
    if len((name + suffix).encode()) <= _MOST_BYTES and not _HASHED.search(name):
        return name + suffix
    end = f"~{hashlib.sha256(name.encode()).hexdigest()[:32]}{suffix}"
    return name.encode()[: _MOST_BYTES - len(end.encode())].decode(errors="ignore") + end
