"""Connections of the rollout store: one way to read and one to write, for SQLite and PostgreSQL.

Airflow forks its tasks, and a database connection must not be used on both sides of a fork. So an engine belongs to
the process that made it. SQLite goes further: even a new connection is unsafe in a child that inherited an open one
(locks of a file belong to the process, and the library remembers having them), so its connections are closed after
each use.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from model_rollouts.adapters.sql_rows import dumps

BUSY_SECONDS = 10  # how long a write waits for another one; theirs take milliseconds


def store_url(text: str) -> sa.URL:
    """The URL with its driver named, and an SQLite file's path made absolute.

    Raises:
        ValueError: Neither an SQLite file nor PostgreSQL.
    """
    url = sa.make_url(text)
    match url.get_backend_name():
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
        case "sqlite":
            if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
                raise ValueError(
                    f"store URL is {text!r}: SQLite in memory can't be shared between processes; "
                    "name a file, such as sqlite:///.local/rollouts.db"
                )
            return url.set(drivername="sqlite+pysqlite", database=str(Path(url.database).expanduser().absolute()))
        case other:
            raise ValueError(
                f"store URL is of {other!r}, must be sqlite:///<file> or postgresql://<user>@<host>/<database>"
            )


class Database:
    """Transactions on one database, safe across threads and forks.

    Args:
        url: SQLAlchemy URL of an SQLite file or of PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        self.url = store_url(url)
        self._made: tuple[int, sa.Engine] | None = None
        self._inherited: list[sa.Engine] = []

    def engine(self) -> sa.Engine:
        """This process's engine.

        After a fork the parent's engine is kept but never touched: closing its connections would speak on the
        parent's sockets.
        """
        pid = os.getpid()
        if self._made is None or self._made[0] != pid:
            if self._made is not None:
                self._inherited.append(self._made[1])
            # two threads may both come here first; one engine wins and the other one is never used again
            self._made = (pid, _make_engine(self.url))
        return self._made[1]

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self.engine().connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end of the block, and undone when the block raises."""
        # SQLite: take the write lock at once. A reader that becomes a writer later is refused when another one was
        # faster, and no busy timeout helps against that.
        with (
            self.engine().connect().execution_options(sqlite_begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Give this process's connections back."""
        if self._made is not None and self._made[0] == os.getpid():
            self._made[1].dispose()


def _make_engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _make_sqlite(url)
    # a server or a lock holder that is gone must not hang whoever asks
    limits: dict[str, str | int] = {
        "connect_timeout": 5,
        # a host that vanished answers nothing, not even that it is gone: the kernel asks, and gives up after seconds
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # milliseconds
        "options": "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s",
        "application_name": "model-rollouts",
    }
    return sa.create_engine(
        url,
        pool_size=2,
        max_overflow=8,
        pool_pre_ping=True,
        json_serializer=dumps,
        connect_args={name: value for name, value in limits.items() if name not in url.query},
    )


def _make_sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=NullPool,
        json_serializer=dumps,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: SqliteConnection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see below
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a committed rollback survives a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))

    return engine
