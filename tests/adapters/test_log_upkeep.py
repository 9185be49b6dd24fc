"""Upkeep of real logs of both kinds, beside a writer and a reader that do not stop for it."""

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from psycopg import sql
from tests.adapters.log_kinds import damage
from tests.adapters.unit_log import label_counts

from model_rollouts.adapters import delta_compaction, delta_writer, log_upkeep_delta
from model_rollouts.adapters.delta_compaction import compact
from model_rollouts.adapters.delta_files import current_files
from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog
from model_rollouts.adapters.delta_schema import LogContractError, table_path
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import EngineLog, LogRoot, log_appender
from model_rollouts.adapters.log_upkeep import Care, LogUpkeep, TableUpkeep
from model_rollouts.adapters.log_upkeep_delta import DeltaCaretaker
from model_rollouts.adapters.postgres_log import COMMITS, PostgresLog
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as core
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause
from model_rollouts.ports import Window

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MODEL = "late flights"
FAR = (NOW - 400 * DAY, NOW + DAY)
CAUSE = Cause("test", NOW - DAY, "a test")


def row(number: int, at: datetime, **changes: Any) -> dict[str, Any]:
    arm = ("champion", "challenger")[number % 2]
    return {
        "request_id": f"r{number}",
        "ts": at,
        "model": MODEL,
        "version": "1",
        "arm": arm,
        "cohort": arm,
        "served": True,
        "rollout_id": "ro",
        "stage": 0,
        "status": "ok" if number % 5 else "error",
        "latency_ms": 1.0 + number % 7,
        "prediction": "1",
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {"x": number},
    } | changes


def fill(root: LogRoot, ages: tuple[int, ...] = (40, 39, 2), commits: int = 6) -> int:
    """Some commits of five rows for each day of so many days ago, and an outcome each; returns the rows' number."""
    writer, number = log_appender(root, "g1"), 0
    for age in ages:
        for commit in range(commits):
            at = NOW - age * DAY + timedelta(minutes=commit)
            features = {"x": 1} if commit < commits // 2 else {"x": 1, "added": "later"}
            rows = [row(number + i, at + timedelta(seconds=i), features=features) for i in range(5)]
            writer.append(MODEL, "predictions", rows, number)
            writer.append(
                MODEL, "outcomes", [{"request_id": r["request_id"], "ts": at, "label": "1"} for r in rows], number
            )
            number += 5
    return number


@pytest.fixture
def known(tmp_path: Path) -> Iterator[SqlStore]:
    """A store that knows the model."""
    store = SqlStore(f"sqlite:///{tmp_path / 'known.db'}")
    store.migrate()
    store.apply(core.adopt(MODEL, "1", CAUSE))
    yield store
    store.close()


def start_rollout(store: SqlStore, data_rollback: tuple[DataRollback, ...] = ()) -> None:
    from dataclasses import replace

    traffic = store.traffic(MODEL)
    assert traffic is not None
    plan = replace(plan_canary(CanaryParameters(steps=(5, 100))), data_rollback=data_rollback)
    store.apply(core.start("ro", plan, "2", "salt", traffic, CAUSE))


def cared(root: LogRoot, store: SqlStore, days: int = 0, **options: Any) -> dict[str, TableUpkeep]:
    done = LogUpkeep(root, store, days, clock=lambda: NOW).run(**options)
    assert [each.error for each in done] == [""] * len(done)
    return {each.table: each for each in done}


def evidence(root: LogRoot) -> Any:
    """What verdicts are made of, in windows of the days that stay."""
    log = DeltaPredictionLog(root)
    windows = [Window(i, NOW - age * DAY, NOW - (age - 1) * DAY) for i, age in enumerate((2, 1))]
    return (
        log.request_counts(MODEL, "ro", 0, windows),
        label_counts(log, MODEL, "ro", 0, windows, timedelta(hours=1)),
        log.stage_frame(MODEL, "ro", 0, None, NOW - 3 * DAY, NOW).sort_index(axis=1).to_json(date_unit="us"),
    )


def rows_of(root: LogRoot) -> int:
    return DeltaPredictionLog(root).count_rows(MODEL, "ro", 0, None, *FAR)


# --- both kinds


def test_old_days_go_and_the_evidence_of_those_that_stay_is_the_same(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root)
    before = evidence(log_root)
    done = cared(log_root, known, 10)
    assert evidence(log_root) == before
    assert (done["predictions"].days_dropped, done["predictions"].rows_dropped) == (2, 60)
    assert (done["outcomes"].days_dropped, done["outcomes"].rows_dropped) == (2, 60)
    assert rows_of(log_root) == 30
    again = cared(log_root, known, 10)["predictions"]
    assert (again.days_dropped, again.rows_dropped, again.files_merged) == (0, 0, 0)


def test_a_day_that_an_open_rollout_is_judged_by_stays(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root, ages=(40, 29, 2), commits=2)
    start_rollout(known)  # began a day ago: holds the month before
    done = cared(log_root, known, 10)["predictions"]
    assert (done.days_dropped, rows_of(log_root)) == (1, 20)
    assert "ro is pending" in done.note


def test_a_dry_run_says_the_same_and_changes_nothing(log_root: LogRoot, known: SqlStore) -> None:
    rows = fill(log_root)
    told = cared(log_root, known, 10, dry_run=True)["predictions"]
    assert (told.days_dropped, told.rows_dropped, rows_of(log_root)) == (2, 60, rows)
    done = cared(log_root, known, 10)["predictions"]
    assert (done.days_dropped, done.rows_dropped, done.files_merged) == (2, 60, told.files_merged)


def test_a_model_that_the_store_does_not_know_loses_no_row(log_root: LogRoot, tmp_path: Path) -> None:
    rows = fill(log_root)
    empty = SqlStore(f"sqlite:///{tmp_path / 'empty.db'}")
    empty.migrate()
    done = cared(log_root, empty, 10)["predictions"]
    assert (done.rows_dropped, rows_of(log_root)) == (0, rows)
    assert "does not know the model" in done.note


def test_without_a_store_nothing_is_done(log_root: LogRoot, tmp_path: Path) -> None:
    rows = fill(log_root, commits=1)
    with pytest.raises(Exception, match="rollouts db upgrade"):
        LogUpkeep(log_root, SqlStore(f"sqlite:///{tmp_path / 'none.db'}"), 10, clock=lambda: NOW).run()
    assert rows_of(log_root) == rows


def test_batches_that_are_sent_again_after_upkeep_are_still_known(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root, ages=(2,))
    cared(log_root, known, 10)
    assert log_appender(log_root, "g1").append(MODEL, "predictions", [row(1, NOW)], 25) is False
    assert log_appender(log_root, "g1").append(MODEL, "predictions", [row(1, NOW)], 26) is True
    assert rows_of(log_root) == 31


def test_an_input_that_came_later_stays_null_before_and_one_of_another_type_stays_refused(
    log_root: LogRoot, known: SqlStore
) -> None:
    fill(log_root, ages=(2,))
    cared(log_root, known)
    frame = DeltaPredictionLog(log_root).stage_frame(MODEL, "ro", 0, None, NOW - 3 * DAY, NOW)
    assert [value if isinstance(value, str) else None for value in frame["f_added"]] == [None] * 15 + ["later"] * 15
    with pytest.raises(LogContractError, match="f_added is string in the log"):
        log_appender(log_root, "g2").append(MODEL, "predictions", [row(1, NOW, features={"added": 1.5})], 0)


def test_gateways_write_on_and_readers_see_whole_commits(log_root: LogRoot, known: SqlStore) -> None:
    """Five rows a commit, so every count of the new day is a multiple of five, and only ever grows."""
    fill(log_root)
    before, stop, failures = evidence(log_root), threading.Event(), []
    written, seen = [0], [0]

    def write() -> None:
        writer, number = log_appender(log_root, "g2"), 0
        while not stop.is_set():
            at = NOW - timedelta(minutes=1)
            rows = [row(100_000 + number * 5 + i, at, rollout_id="new") for i in range(5)]
            assert writer.append(MODEL, "predictions", rows, number)
            number += 1
            written[0] = number * 5

    def read() -> None:
        last, log = 0, DeltaPredictionLog(log_root)
        while not stop.is_set():
            known_by_now = written[0]
            found = log.count_rows(MODEL, "new", 0, None, *FAR)
            assert found % 5 == 0
            assert found >= max(last, known_by_now), (found, last, known_by_now)
            assert evidence(log_root) == before
            last, seen[0] = found, seen[0] + 1

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            cared(log_root, known, 10)
        until = time.monotonic() + 30
        while not failures and seen[0] < 2 and time.monotonic() < until:
            stop.wait(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    assert not failures
    assert seen[0] >= 2
    assert DeltaPredictionLog(log_root).count_rows(MODEL, "new", 0, None, *FAR) == written[0] > 0
    assert evidence(log_root) == before


def test_a_table_that_fails_does_not_hold_up_the_others(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root, ages=(2,))
    if isinstance(log_root, Path):
        damage(log_root, MODEL, "predictions")
    else:
        assert isinstance(log_root, PostgresLog)
        with log_root.connect() as connection:
            name = log_root.table(MODEL, "predictions").identifier
            connection.execute(sql.SQL("ALTER TABLE {} RENAME COLUMN ts TO gone").format(name))
    done = {each.table: each for each in LogUpkeep(log_root, known, 10, clock=lambda: NOW).run()}
    assert done["predictions"].error
    assert not done["outcomes"].error


def test_a_model_that_is_not_in_the_log_is_refused(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root, ages=(2,), commits=1)
    with pytest.raises(NotReadyError, match="no table of 'other'; it has: late flights"):
        LogUpkeep(log_root, known).run("other")


def test_a_log_that_is_not_there_yet_needs_no_care(log_root: LogRoot, known: SqlStore) -> None:
    assert LogUpkeep(log_root, known).run() == []


def test_it_is_the_same_whichever_engine_the_log_is_asked_by(log_root: LogRoot, known: SqlStore) -> None:
    fill(log_root, commits=2)
    assert not isinstance(log_root, EngineLog)
    engine: Any = None  # upkeep asks none
    assert cared(EngineLog(log_root, engine), known, 10)["predictions"].rows_dropped == 20


def test_files_must_stay_for_an_hour(tmp_path: Path, known: SqlStore) -> None:
    with pytest.raises(ValueError, match="vacuum_hours is 0, must be at least 1"):
        LogUpkeep(tmp_path, known, vacuum_hours=0)


# --- Delta


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A log's predictions; the log is at `tmp_path`."""
    fill(tmp_path)
    return table_path(tmp_path, MODEL, "predictions")


def care(table: Path, **changes: Any) -> TableUpkeep:
    options = {"since": None, "retention_hours": 24, "pinned": (), "dry_run": False, "now": NOW} | changes
    done = DeltaCaretaker(table.parents[1]).care(MODEL, "predictions", Care(**options))
    assert done is not None
    return done


def log_from_three_days_ago(table: Path) -> None:
    """Make the commits so far old enough to be cleaned up."""
    DeltaTable(str(table)).create_checkpoint()
    expired = time.time() - 3 * 86_400
    for file in (table / "_delta_log").iterdir():
        os.utime(file, (expired, expired))


def test_each_closed_day_becomes_one_file_and_reading_still_takes_only_the_days_that_are_asked_for(table: Path) -> None:
    done = care(table)
    assert (done.files_before, done.files_after, done.files_merged) == (18, 3, 18)
    assert len(current_files(table, NOW - 3 * DAY, NOW)) == 1
    assert len(current_files(table, NOW - 41 * DAY, NOW)) == 3
    assert current_files(table, NOW - 1 * DAY, NOW) == []
    assert DeltaTable(str(table)).metadata().partition_columns == ["day"]


def test_the_day_that_is_written_to_is_left_to_its_writers_until_it_has_very_many_files(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOW - 2 * DAY + timedelta(minutes=10)
    assert (done := care(table, now=now)).files_after == 8, done
    monkeypatch.setattr(log_upkeep_delta, "_OPEN_FILES", 6)
    assert care(table, now=now).files_after == 3


def test_a_day_is_closed_an_hour_after_it_ended(table: Path) -> None:
    midnight = datetime(2026, 6, 29, tzinfo=UTC)
    assert care(table, now=midnight + timedelta(minutes=59)).files_after == 8
    assert care(table, now=midnight + timedelta(minutes=61)).files_after == 3


def test_files_that_a_reader_has_listed_stay_for_the_hours_and_then_go(table: Path) -> None:
    listed = [Path(file.removeprefix("file://")) for file in DeltaTable(str(table)).file_uris()]
    orphan = listed[0].parent / "part-left-by-a-crash.parquet"
    orphan.write_bytes(b"half a file")
    assert care(table).files_removed == 0
    assert all(file.exists() for file in listed)
    listed.append(orphan)
    size = sum(file.stat().st_size for file in listed)
    told = care(table, retention_hours=0, dry_run=True)
    assert all(file.exists() for file in listed)
    done = care(table, retention_hours=0)
    assert (done.files_removed, done.bytes_freed) == (told.files_removed, told.bytes_freed) == (19, size)
    assert not any(file.exists() for file in listed)
    assert rows_of(table.parents[1]) == 90


def test_on_a_full_disk_dead_files_go_though_nothing_can_be_written(table: Path) -> None:
    """Every write fails, also those of deltalake itself, as a file may have no byte; removing needs none."""
    orphan = next(table.glob("day=*")) / "part-left-by-a-crash.parquet"
    orphan.write_bytes(b"x" * 1000)
    expired = time.time() - 3 * 86_400
    os.utime(orphan, (expired, expired))
    before, held = sorted(table.rglob("*")), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, held[1]))
    try:
        done = care(table, since=date(2026, 6, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not orphan.exists()
    assert (done.files_removed, done.bytes_freed) == (1, 1000)
    assert (done.days_dropped, done.files_merged) == (0, 0)
    assert "large" in done.error
    left = [file for file in sorted(table.rglob("*")) if not file.name.endswith("#1")]
    assert left == [file for file in before if file != orphan]
    assert rows_of(table.parents[1]) == 90


def test_a_merge_that_fails_leaves_no_file_and_what_was_done_before_is_told(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = pq.ParquetWriter.write_table, []

    def full(self: pq.ParquetWriter, *arguments: Any, **options: Any) -> None:
        write(self, *arguments, **options)
        written.append(1)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    before = set(table.glob("day=*/*"))
    done = care(table, since=(NOW - 39 * DAY).date())
    assert (done.days_dropped, done.files_merged) == (1, 6)
    assert "No space left on device" in done.error
    assert len(set(table.glob("day=*/*")) - before) == 1, "the first day's file, which is committed"


def test_a_version_that_a_data_rollback_names_stays_readable(
    tmp_path: Path, table: Path, known: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = 10
    rows = DeltaTable(str(table), version=version).to_pyarrow_table().num_rows
    start_rollout(known, (DataRollback(DataRollbackKind.DELTA_RESTORE, str(table), version),))
    upkeep = LogUpkeep(tmp_path, known, clock=lambda: NOW)
    monkeypatch.setattr(upkeep, "_vacuum_hours", 0)
    upkeep.run()  # merges; those that were merged are dead from now on
    done = upkeep.run()[0]
    assert (done.error, done.files_after) == ("", 3)
    assert done.files_removed > 0
    assert f"version {version} is kept for a data rollback" in done.note
    assert DeltaTable(str(table), version=version).to_pyarrow_table().num_rows == rows


def test_a_version_whose_log_is_gone_is_told_and_holds_nothing_up(table: Path) -> None:
    log_from_three_days_ago(table)
    done = care(table, pinned=(10,), retention_hours=0)
    done = care(table, pinned=(10,), retention_hours=0)
    assert "version 10 can no longer be read by a data rollback" in done.note
    assert rows_of(table.parents[1]) == 90


def test_the_numbers_of_batches_outlive_the_log_of_commits(table: Path) -> None:
    log_from_three_days_ago(table)
    before = DeltaTable(str(table)).transaction_version(f"g1/{MODEL}/predictions")
    care(table, retention_hours=0)
    assert not (table / "_delta_log" / "00000000000000000000.json").exists()
    assert DeltaTable(str(table)).transaction_version(f"g1/{MODEL}/predictions") == before == 85


def test_a_deletion_that_was_faster_is_no_failure(table: Path) -> None:
    tries: list[DeltaTable] = []

    def merge() -> int:
        delta = DeltaTable(str(table))
        if not tries:
            DeltaTable(str(table)).delete(f"day = '{(NOW - 40 * DAY).date()}'")
        tries.append(delta)
        return int(delta.optimize.compact()["numFilesRemoved"])

    assert log_upkeep_delta._again(merge) == 12
    assert len(tries) == 2
    assert rows_of(table.parents[1]) == 60


def test_rows_are_never_doubled_by_two_who_compact_at_once(table: Path) -> None:
    start, merged = threading.Barrier(4), []

    def run() -> None:
        start.wait(timeout=30)
        merged.append(compact(table, 1 << 27))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(each or 0 for each in merged) == 18
    assert rows_of(table.parents[1]) == 90


def test_who_died_while_compacting_holds_others_up_until_its_lease_ends(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert delta_compaction._claim(table) is not None
    assert compact(table, 1 << 27) is None
    done = care(table)
    assert (done.files_merged, done.files_after) == (0, 18)
    assert "another process merges files" in done.note
    later = time.time_ns() + 3_601 * 10**9
    monkeypatch.setattr(delta_compaction.time, "time_ns", lambda: later)
    assert compact(table, 1 << 27) == 18


def test_a_lease_that_ended_is_not_given_back_for_another_process(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = delta_compaction._claim(table)
    assert first is not None
    later = time.time_ns() + 3_601 * 10**9
    monkeypatch.setattr(delta_compaction.time, "time_ns", lambda: later)
    assert delta_compaction._claim(table) is not None
    delta_compaction._release(table, first)
    assert delta_compaction._claim(table) is None


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Something happens once, while a compaction is writing its first file."""
    merged = delta_compaction._merged

    def merge(*where: Any) -> Any:
        monkeypatch.setattr(delta_compaction, "_merged", merged)
        happens()
        return merged(*where)

    monkeypatch.setattr(delta_compaction, "_merged", merge)


@pytest.mark.parametrize("finishes", [False, True], ids=["still at it", "finished"])
def test_who_is_slower_than_its_lease_does_not_commit_beside_the_next_one(
    table: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    later = time.time_ns() + 3_601 * 10**9

    def rival() -> None:
        monkeypatch.setattr(delta_compaction.time, "time_ns", lambda: later)
        assert (compact(table, 1 << 27) == 18) if finishes else delta_compaction._claim(table)

    meanwhile(monkeypatch, rival)
    with pytest.raises(CommitFailedError):
        compact(table, 1 << 27)
    assert DeltaTable(str(table)).count() == rows_of(table.parents[1]) == 90
    assert len(DeltaTable(str(table)).file_uris()) == (3 if finishes else 18)


def test_rows_that_are_written_while_files_are_merged_are_kept_and_those_that_are_deleted_are_gone(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DeltaLogWriter(table.parents[1], "g2")
    meanwhile(monkeypatch, lambda: writer.append(MODEL, "predictions", [row(900, NOW - 2 * DAY)], 0))
    assert compact(table, 1 << 27) == 18
    assert rows_of(table.parents[1]) == 91
    writer.append(MODEL, "predictions", [row(901, NOW - 2 * DAY)], 1)
    meanwhile(monkeypatch, lambda: DeltaTable(str(table)).delete("request_id = 'r900'"))
    with pytest.raises(CommitFailedError):
        compact(table, 1 << 27)
    assert compact(table, 1 << 27) == 2
    assert rows_of(table.parents[1]) == 91
    assert "r900" not in DeltaTable(str(table)).to_pyarrow_table()["request_id"].to_pylist()


def test_every_value_is_the_same_after_files_were_merged(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_compaction, "_GROUP_ROWS", 7)
    before = DeltaTable(str(table)).to_pyarrow_table().sort_by("request_id")
    assert compact(table, 1 << 27, (NOW - 39 * DAY).date()) == 6
    assert compact(table, 1 << 27) == 12
    after = DeltaTable(str(table)).to_pyarrow_table().sort_by("request_id")
    assert after.equals(before.cast(after.schema))


def test_large_files_stay_and_small_ones_become_as_large_as_is_asked_for(table: Path) -> None:
    sizes = [file.stat().st_size for file in table.glob("day=*/*.parquet")]
    assert compact(table, min(sizes)) == 0
    assert compact(table, 2 * max(sizes)) == 18
    assert len(DeltaTable(str(table)).file_uris()) == 9


def test_a_table_whose_files_do_not_tell_all_is_left_alone(table: Path) -> None:
    from deltalake import TableFeatures

    DeltaTable(str(table)).alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    with pytest.raises(DeltaError, match=r"uses Delta features .*eletion.*; compact it with the tool"):
        compact(table, 1 << 27)


def test_writers_that_compact_in_turn_keep_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_writer, "_COMPACT_EVERY", 3)
    commits, failures = 12, []

    def write(name: str) -> None:
        try:
            writer = DeltaLogWriter(tmp_path, name)
            for number in range(commits):
                writer.append(MODEL, "predictions", [row(number, NOW, request_id=f"{name}{number}")], number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(f"g{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures
    assert rows_of(tmp_path) == 3 * commits


def test_a_file_of_no_day_stops_the_upkeep(table: Path) -> None:
    one = DeltaTable(str(table)).to_pyarrow_table().slice(0, 1)
    nowhere = one.set_column(one.schema.get_field_index("day"), "day", pa.array([None], pa.date32()))
    write_deltalake(str(table), nowhere, mode="append")
    with pytest.raises(LogReadError, match="is of no day"):
        care(table, since=date(2026, 6, 1))
    assert DeltaTable(str(table)).to_pyarrow_table().num_rows == 91


# --- PostgreSQL


def test_postgresql_keeps_the_numbers_of_batches_and_knows_the_sizes(postgres_server: str, known: SqlStore) -> None:
    log = PostgresLog(postgres_server, schema="upkeep of commits")
    fill(log)
    done = cared(log, known, 10)["predictions"]
    assert done.bytes_before > 0
    assert done.files_before == 0
    with log.connect() as connection:
        counted = connection.execute(
            sql.SQL("SELECT max(version) FROM {}").format(sql.Identifier(log.schema, COMMITS))
        ).fetchone()
        relation = log.table(MODEL, "predictions").relation
        dead = connection.execute(
            "SELECT last_vacuum IS NOT NULL, last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = %s "
            "AND schemaname = %s",
            (relation, log.schema),
        ).fetchone()
    assert counted == (85,)
    assert dead == (True, True)
