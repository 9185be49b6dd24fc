"""What a connection of the store is opened with."""

from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

from model_rollouts.adapters.sql_engine import Database


class _SeenError(Exception):
    pass


def _opened_with(url: str) -> dict[str, Any]:
    """The arguments of a connection that is never made."""
    engine, seen = Database(url).engine(), {}

    @sa.event.listens_for(engine, "do_connect")
    def look(_dialect: Any, _record: Any, _args: Any, arguments: dict[str, Any]) -> None:
        seen.update(arguments)
        raise _SeenError

    with pytest.raises(_SeenError):
        engine.connect()
    return {name: value for name, value in seen.items() if name != "context"}


def test_a_postgres_host_that_vanishes_is_noticed_in_seconds() -> None:
    seen = _opened_with("postgresql://rollouts@db.example/rollouts")

    assert seen["connect_timeout"] == 5
    silence = seen["keepalives_idle"] + seen["keepalives_interval"] * seen["keepalives_count"]
    assert (seen["keepalives"], silence, seen["tcp_user_timeout"]) == (1, 11, 10_000)
    make_conninfo(**seen)  # libpq knows every name


def test_what_the_url_says_about_the_connection_goes_first() -> None:
    seen = _opened_with("postgresql://rollouts@db.example/rollouts?keepalives_idle=60&tcp_user_timeout=0")

    assert (int(seen["keepalives_idle"]), int(seen["tcp_user_timeout"]), seen["keepalives_count"]) == (60, 0, 3)
