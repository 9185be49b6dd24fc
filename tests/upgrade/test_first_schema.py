"""A store of the first version, in the middle of rollouts, brought to this one: nothing is lost and all goes on."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from tests.replay.past import Past, Registry
from typer.testing import CliRunner, Result

from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import migrate
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.adapters.sql_tables import SCHEMA_REVISION
from model_rollouts.cli import app
from model_rollouts.core.decision import Verdict
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.service import RolloutService

MIDDLE = "flights-canary-4-aaaa0005"  # stage 1 of 3 has two looks, and two looks of stage 0 wait for their labels
STAGE_0, STAGE_1 = datetime(2026, 11, 20, 11, 36, 30, tzinfo=UTC), datetime(2026, 11, 20, 11, 47, 35, tzinfo=UTC)
STOPPED = datetime(2026, 11, 20, 11, 49, 45, tzinfo=UTC)
TABLES = ("rollouts", "traffic", "events", "looks")


@pytest.fixture
def cli(first_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the store."""
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", first_store)
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Everything that is in the store, by plain SQL."""
    database = Database(url)
    found = {}
    with database.read() as connection:
        for table in TABLES:
            result = connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()  # noqa: S608 - constants
            found[table] = sorted((dict(row) for row in result), key=lambda row: json.dumps(row, default=str))
    database.close()
    return found


def test_every_row_reads_back_as_it_was_written(first_store: str, cli: Any) -> None:
    before = rows(first_store)
    assert [len(before[table]) for table in TABLES] == [5, 4, 23, 49]

    done = cli("db", "upgrade")

    assert (done.exit_code, done.output) == (0, f"the store is up to date: 0001 to {SCHEMA_REVISION}\n")
    after = rows(first_store)
    for traffic in after["traffic"]:
        assert (traffic.pop("mirror_percent"), bool(traffic.pop("control_group"))) == (0, False)
    assert after == before


def test_the_guards_of_the_tables_are_there_after_it(first_store: str, cli: Any) -> None:
    cli("db", "upgrade")
    database = Database(first_store)

    for statement in (
        "UPDATE events SET reason = 'another one'",
        "DELETE FROM events",
        "UPDATE looks SET counts = '{}'",
        "DELETE FROM looks",
        "UPDATE traffic SET mirror_percent = 101",
        "UPDATE traffic SET share = 101",
        "UPDATE rollouts SET state = 'baking', ended_at = NULL WHERE model = 'flights'",
    ):
        with pytest.raises(DBAPIError), database.write() as connection:
            connection.execute(sa.text(statement))
    database.close()


def test_a_rollout_in_the_middle_of_a_stage_goes_on_to_its_end(first_store: str, cli: Any, tmp_path: Path) -> None:
    cli("db", "upgrade")
    store = SqlStore(first_store)
    now = [STOPPED + timedelta(seconds=5)]
    log = DeltaPredictionLog(tmp_path / "log")
    service = RolloutService(store, Registry(), evidence=store, log=log, clock=lambda: now[0])
    kept = store.looks(MIDDLE)
    traffic = store.traffic("flights")
    assert traffic is not None
    good = {"errors": 0.005, "wrong": 0.2}
    past = Past(tmp_path / "log", {"1": good, "2": good, "4": good}, per_second=30)
    past.live(replace(traffic, share=5, stage=0), 665, STAGE_0)
    past.live(traffic, 900, STAGE_1)

    first = service.look(MIDDLE)
    assert first.verdict is Verdict.WAIT
    assert store.looks(MIDDLE)[: len(kept)] == kept  # what was known stays what it was

    while (decision := service.look(MIDDLE)).verdict is Verdict.WAIT and now[0] < STAGE_1 + timedelta(seconds=900):
        now[0] += timedelta(seconds=60)
    looks = store.looks(MIDDLE)
    assert (decision.verdict, decision.stage) == (Verdict.PASS, 1), decision.reason
    assert len(looks) > len(kept) + 2
    assert all(look.matured for look in looks if look.stage == 0)  # the labels that the first version waited for
    assert [(a.champion, a.challenger) for a in looks[: len(kept)]] == [(k.champion, k.challenger) for k in kept]
    fresh = next(look for look in looks if (look.stage, look.index) == (1, 2))
    assert 400 < fresh.challenger.requests < 500  # a quarter of a minute's requests

    service.clear(MIDDLE, 1, "test", decision.reason, decision.to_dict())
    assert service.open_stage(MIDDLE, 2, "test").stage == 2
    after = store.traffic("flights")
    assert after is not None
    assert (after.share, after.control_percent, after.revision) == (100, 10, traffic.revision + 1)
    past.live(after, 130, now[0])
    now[0] += timedelta(seconds=130)
    assert service.look(MIDDLE).verdict is Verdict.WAIT
    assert [look.index for look in store.looks(MIDDLE) if look.stage == 2] == [0, 1]
    service.clear(MIDDLE, 2, "test", "on my word", {})
    service.cut_over(MIDDLE, "test", "on my word", {})
    promoted = store.traffic("flights")
    assert promoted is not None
    assert (promoted.champion, promoted.previous) == ("4", "2")
    store.close()


def test_rollouts_in_other_states_go_on_as_well(first_store: str, cli: Any, tmp_path: Path) -> None:
    cli("db", "upgrade")
    store = SqlStore(first_store)
    service = RolloutService(store, Registry(), evidence=store, log=DeltaPredictionLog(tmp_path / "log"))

    assert service.open_stage("churn-canary-2-aaaa0003", 0, "test").state is State.BAKING
    assert service.open_stage("prices-canary-2-aaaa0004", 0, "test").state is State.BAKING
    assert service.roll_back("prices-canary-2-aaaa0004", "test", "no").state is State.ROLLED_BACK
    assert service.roll_back(MIDDLE, "test", "no").state is State.ROLLED_BACK
    row = store.traffic("flights")
    assert row is not None
    assert (row.champion, row.challenger, row.share) == ("2", None, 0)
    plan = store.rollout("flights-canary-2-aaaa0001").plan
    assert service.start("fraud-1", "fraud", "2", plan, "test", "a new one").state is State.PENDING

    newest = store.events()[-1]
    assert (newest.kind, newest.model) == (EventKind.STARTED, "fraud")
    store.close()


def test_the_history_is_shown(cli: Any) -> None:
    cli("db", "upgrade")

    told = json.loads(cli("history", "flights", "--json").output)
    status = json.loads(cli("status", "flights", "--json").output)

    assert [event["kind"] for event in told][-3:] == ["stage_opened", "cleared", "stage_opened"]
    assert "better features" in {event["reason"] for event in told}
    assert status[0]["state"] == "baking"


def test_what_is_there_is_told_before_and_after(first_store: str, cli: Any) -> None:
    old = cli("db", "check")
    assert old.exit_code == 1
    assert f"at revision 0001, this version of model-rollouts needs {SCHEMA_REVISION}; run `rollouts db upgrade`" in (
        old.output
    )
    assert json.loads(cli("db", "current", "--json").output)[0]["found"] == "0001"
    assert cli("status").exit_code == 1  # no command works on tables that it does not know

    cli("db", "upgrade")

    assert cli("db", "check").exit_code == 0
    assert cli("db", "upgrade").output == "the store is up to date\n"
    told = json.loads(cli("db", "current", "--json").output)[0]
    assert (told["found"], told["fits"]) == (SCHEMA_REVISION, True)


@pytest.mark.parametrize(
    ("revision", "said"), [("9999", "upgrade model-rollouts"), ("0000", "which is none of this package")]
)
def test_tables_of_another_version_are_left_alone(first_store: str, cli: Any, revision: str, said: str) -> None:
    database = Database(first_store)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE rollouts_schema SET version_num = :revision"), {"revision": revision})
    before = rows(first_store)

    refused = cli("db", "upgrade")

    assert refused.exit_code == 1
    assert refused.output.startswith("error: the store ")
    assert said in refused.output
    assert rows(first_store) == before
    database.close()


_DIES = """
import os, signal, sys
import sqlalchemy as sa
from model_rollouts.adapters.sql_store import SqlStore

left = int(sys.argv[2])

@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def count(connection, cursor, statement, parameters, context, many):
    global left
    if statement.lstrip().upper().startswith(("ALTER", "CREATE", "DROP", "INSERT", "UPDATE")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

SqlStore(sys.argv[1]).migrate()
"""


@pytest.mark.parametrize("statements", [2, 7])
def test_an_upgrade_that_is_killed_amid_it_changes_nothing_and_can_be_done_again(
    first_store: str, cli: Any, statements: int
) -> None:
    before = rows(first_store)

    killed = subprocess.run(
        [sys.executable, "-c", _DIES, first_store, str(statements)], timeout=60, check=False, capture_output=True
    )

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rows(first_store) == before
    assert json.loads(cli("db", "current", "--json").output)[0]["found"] == "0001"
    done = cli("db", "upgrade")
    assert done.output == f"the store is up to date: 0001 to {SCHEMA_REVISION}\n"
    assert len(rows(first_store)["events"]) == len(before["events"])


def test_two_that_upgrade_at_once_wait_for_each_other(first_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Database(first_store), Database(first_store)
    amid, go_on = threading.Event(), threading.Event()
    done: dict[str, Any] = {}

    @sa.event.listens_for(first.engine(), "after_cursor_execute")
    def pause(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("ALTER"):
            amid.set()
            assert go_on.wait(30)

    def upgrade(name: str, database: Database) -> None:
        try:
            done[name] = migrate(database)
        except BaseException as error:
            done[name] = error

    one = threading.Thread(target=upgrade, args=("first", first))
    other = threading.Thread(target=upgrade, args=("second", second))
    one.start()
    assert amid.wait(30)
    other.start()
    _wait_until_it_waits(first_store, other)
    assert done == {}  # the second one has neither failed nor overtaken the first
    go_on.set()
    one.join(30)
    other.join(30)

    assert done == {"first": ("0001", SCHEMA_REVISION), "second": (SCHEMA_REVISION, SCHEMA_REVISION)}
    first.close()
    second.close()


def _wait_until_it_waits(url: str, other: threading.Thread) -> None:
    """PostgreSQL says who waits; SQLite's lock says nothing, and is given a moment."""
    until = time.monotonic() + (10 if url.startswith("postgresql") else 0.5)
    watch = Database(url)
    while time.monotonic() < until:
        if url.startswith("postgresql"):
            with watch.read() as connection:
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                if connection.exec_driver_sql(waiting + "AND wait_event_type = 'Lock'").scalar():
                    break
        time.sleep(0.02)
    assert other.is_alive()
    watch.close()
