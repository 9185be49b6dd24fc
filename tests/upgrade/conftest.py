"""Stores as the first version made them, from frozen dumps."""

import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

HERE = Path(__file__).parent
_numbers = count()


@pytest.fixture
def new_database(postgres_server: str) -> Callable[[], str]:
    """Makes an empty database on a real PostgreSQL, and gives its URL."""
    server = sa.make_url(postgres_server)

    def make() -> str:
        name = f"upgrade_{next(_numbers)}"
        engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return server.set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def first_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store of the first schema, with rollouts in every state, on each engine."""
    script = (HERE / f"first_schema.{request.param}.sql").read_text()
    if request.param == "sqlite":
        file = tmp_path / "store.db"
        with sqlite3.connect(file) as made:
            made.execute("PRAGMA journal_mode = WAL")
            made.executescript(script)
        made.close()
        return f"sqlite:///{file}"
    url: str = request.getfixturevalue("new_database")()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(script.encode())
    return url
