"""The prediction log in a real PostgreSQL: nothing lost, nothing doubled, and the rows as Delta would have them."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from model_rollouts.adapters.delta_files import LogReadError, run
from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog, LogContractError, table_path
from model_rollouts.adapters.json_lines import JsonLines
from model_rollouts.adapters.log_places import log_table
from model_rollouts.adapters.postgres_log import PostgresLog, stored_name
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.spool import Spool
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(request_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "ts": START,
        "model": "m",
        "version": "3",
        "arm": "champion",
        "served": True,
        "status": "ok",
        "latency_ms": 3.5,
        "prediction": "1",
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": {},
    } | changes


@pytest.fixture
def log(postgres_server: str, request: pytest.FixtureRequest) -> PostgresLog:
    return PostgresLog(postgres_server, schema=f"writer {id(request)} {request.node.name}"[:60])


def read(log: Any, model: str = "m", table: Any = "predictions") -> list[dict[str, Any]]:
    where = (log_table(log, model, table), START - timedelta(days=1), START + timedelta(days=400))
    result = run("SELECT * FROM {t} ORDER BY request_id, ts", {"t": where}, {})
    if result is None:
        return []
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, each, strict=True)) for each in result.fetchall()]


# --- exactly once


def test_a_batch_is_written_once_whatever_is_sent_again(log: PostgresLog) -> None:
    writer = log.appender("g1")
    assert writer.append("m", "predictions", [row("a")], 5)
    assert not writer.append("m", "predictions", [row("a")], 5)
    assert not writer.append("m", "predictions", [row("b")], 4), "versions must grow"
    assert not writer.append("m", "predictions", [], 6)
    assert writer.append("m", "predictions", [row("c")], 6)
    assert log.appender("g2").append("m", "predictions", [row("d")], 5), "of another writer"
    assert writer.append("n", "predictions", [row("e")], 1), "of another model"
    assert [each["request_id"] for each in read(log)] == ["a", "c", "d"]
    assert [each["request_id"] for each in read(log, "n")] == ["e"]


def test_a_batch_that_fails_half_way_leaves_nothing_and_can_be_written_again(log: PostgresLog) -> None:
    writer = log.appender("g1")
    writer.append("m", "outcomes", [{"request_id": "first", "ts": START, "label": "1"}], 1)
    relation = log.table("m", "outcomes").identifier
    with log.connect() as connection:
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT no CHECK (request_id <> 'bad') NOT VALID").format(relation)
        )
    rows = [{"request_id": name, "ts": START, "label": "1"} for name in ("good", "bad")]
    with pytest.raises(psycopg.errors.CheckViolation):
        writer.append("m", "outcomes", rows, 2)
    assert [each["request_id"] for each in read(log, table="outcomes")] == ["first"]
    with log.connect() as connection:
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT no").format(relation))
    assert writer.append("m", "outcomes", rows, 2)
    assert [each["request_id"] for each in read(log, table="outcomes")] == ["bad", "first", "good"]


def test_two_writers_of_one_id_and_batch_write_it_once(log: PostgresLog) -> None:
    log.appender("g0").append("m", "predictions", [row("0")], 1)
    started = threading.Barrier(6)

    def write(_: int) -> bool:
        started.wait()
        return log.appender("g1").append("m", "predictions", [row("a"), row("b")], 7)

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(write, range(6)))
    assert sorted(written) == [False] * 5 + [True]
    assert [each["request_id"] for each in read(log)] == ["0", "a", "b"]


def test_many_writers_make_tables_and_columns_at_once_and_lose_nothing(log: PostgresLog) -> None:
    started = threading.Barrier(8)

    def write(at: int) -> None:
        writer = log.appender(f"g{at}")
        started.wait()
        for version in range(5):
            features = {"all": 1.0, f"of {version}": at, f"own {at}": "text"}
            assert writer.append("m", "predictions", [row(f"{at}-{version}", features=features)], version)
        writer.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = read(log)
    assert len(found) == 40
    assert all(each["f_all"] == 1.0 and each[f"f_own {each['request_id'][0]}"] == "text" for each in found)
    assert {each["f_of 3"] for each in found if each["request_id"].endswith("-3")} == {float(at) for at in range(8)}


def test_of_two_writers_that_add_one_column_with_two_types_one_is_refused(log: PostgresLog) -> None:
    log.appender("g0").append("m", "predictions", [row("0")], 1)
    started = threading.Barrier(2)

    def write(value: Any) -> str:
        started.wait()
        try:
            log.appender(f"g {value}").append("m", "predictions", [row("a", features={"x": value})], 1)
        except LogContractError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        errors = sorted(pool.map(write, (1.0, "text")))
    assert errors[0] == ""
    assert "column f_x is" in errors[1]
    assert len(read(log)) == 2


def test_through_the_spool_a_connection_that_is_cut_costs_no_row(log: PostgresLog, tmp_path: Path) -> None:
    spool = Spool(tmp_path, "g1", lambda app_id: open_writer(log, app_id), 60, 10**9)
    line = orjson.dumps(row("0") | {"ts": int(START.timestamp()) * 1_000_000, "features": {"x": 1}})
    for i in range(4):
        spool.append_lines("m", "predictions", line.replace(b'"request_id":"0"', b'"request_id":"%d"' % i) + b"\n")
        assert spool.flush()
        with log.connect() as connection:  # as a server that restarts does
            connection.autocommit = True
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'model-rollouts log' AND pid <> pg_backend_pid()"
            )
    spool.close()
    assert [each["request_id"] for each in read(log)] == list("0123")
    assert {each["f_x"] for each in read(log)} == {1.0}


_WORKER = """
import sys, time
from pathlib import Path
from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.spool import Spool
log = PostgresLog(sys.argv[1], sys.argv[2])
spool = Spool(Path(sys.argv[3]), "g1", lambda app_id: open_writer(log, app_id), 0.01, 10**9)
spool.start()
for i in range(1_000_000):
    name = f"{sys.argv[4]}-{i}"
    spool.append("m", "outcomes", [{"request_id": name, "ts": 1_772_400_000_000_000, "label": "1"}])
    print(name, flush=True)
    time.sleep(0.001)
"""


def last_commit(log: PostgresLog) -> int:
    """The highest number of a batch; -1 before the first."""
    with log.connect() as connection:
        commits = sql.Identifier(log.schema, "commits")
        try:
            found = connection.execute(sql.SQL("SELECT max(version) FROM {}").format(commits)).fetchone()
        except psycopg.errors.UndefinedTable:
            return -1
    return -1 if found is None or not isinstance(found[0], int) else found[0]


def test_after_kill_9_every_acknowledged_row_is_in_the_database_once(log: PostgresLog, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    left = 0
    for life in range(3):
        before = last_commit(log)
        command = [sys.executable, "-c", _WORKER, log.url, log.schema, str(tmp_path), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                acknowledged.add(line.strip())
                if line.endswith("00\n") and last_commit(log) > before:
                    break
            acknowledged.update(line.strip() for line in islice(process.stdout, 50))
            process.kill()
            acknowledged.update(line.strip() for line in process.stdout if line.endswith("\n"))
        spool = Spool(tmp_path, "g1", lambda app_id: open_writer(log, app_id), 60, 10**9)
        left += spool.status()["bytes"]
        assert spool.flush()
        spool.close()
    logged = [each["request_id"] for each in read(log, table="outcomes")]
    assert left > 0, "they had not committed everything when they were killed"
    assert len(logged) == len(set(logged))
    assert acknowledged <= set(logged)
    assert len(set(logged) - acknowledged) <= 3, "written, and killed before it could be said"


def test_a_reader_that_holds_the_table_makes_a_new_column_wait_and_not_for_ever(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_rollouts.adapters import postgres_log_writer

    monkeypatch.setattr(postgres_log_writer, "_LOCK_SECONDS", 0.05)
    writer = log.appender("g1")
    writer.append("m", "predictions", [row("a")], 1)
    relation = log.table("m", "predictions").identifier
    with log.connect() as connection:
        connection.execute(sql.SQL("SELECT * FROM {}").format(relation))
        assert writer.append("m", "predictions", [row("b")], 2), "rows go in beside it"
        with pytest.raises(psycopg.errors.LockNotAvailable):
            writer.append("m", "predictions", [row("c", features={"x": 1})], 3)
    assert writer.append("m", "predictions", [row("c", features={"x": 1})], 3)
    assert [each["f_x"] for each in read(log)] == [None, None, 1.0]


def test_a_lock_that_is_never_given_back_holds_up_no_commit_for_ever(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_rollouts.adapters import postgres_log_writer

    monkeypatch.setattr(postgres_log_writer, "_LOCK_SECONDS", 0.05)
    with log.connect() as connection:
        connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(postgres_log_writer._LOCK)))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            log.appender("g1").append("m", "predictions", [row("a")], 1)
    assert log.appender("g1").append("m", "predictions", [row("a")], 1)


def test_a_backend_that_stops_answering_is_given_up_and_costs_no_row(log: PostgresLog, tmp_path: Path) -> None:
    writer = log.appender("g1")
    writer.append("m", "predictions", [row("a")], 1)
    log.no_answer_seconds = 2.0
    assert writer._connection is not None
    backend = writer._connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert writer.append("m", "predictions", [row("b")], 2), "through another connection"
        assert time.monotonic() - began >= 2.0
    finally:
        os.kill(backend, signal.SIGCONT)
    assert [each["request_id"] for each in read(log)] == ["a", "b"]


def test_a_backend_that_stops_in_mid_commit_is_an_error_and_the_batch_is_written_once(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_rollouts.adapters import postgres_log_writer

    writer = log.appender("g1")
    writer.append("m", "predictions", [row("a")], 1)
    log.no_answer_seconds = 2.0
    stopped: list[int] = []
    copy = postgres_log_writer._copy

    def stopping(connection: Any, *rest: Any) -> None:
        copy(connection, *rest)
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)

    monkeypatch.setattr(postgres_log_writer, "_copy", stopping)
    try:
        with pytest.raises(psycopg.OperationalError, match=r"not done after 2 s .* given up"):
            writer.append("m", "predictions", [row("b")], 2)
        assert [each["request_id"] for each in read(log)] == ["a"]
        monkeypatch.undo()
        with pytest.raises(psycopg.errors.OperationalError):  # the stopped one holds the line in `commits`
            writer.append("m", "predictions", [row("b")], 2)
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    writer.append("m", "predictions", [row("b")], 2)
    assert [each["request_id"] for each in read(log)] == ["a", "b"]


def test_a_statement_that_takes_too_long_is_ended_by_the_server(log: PostgresLog) -> None:
    log.no_answer_seconds = 1.0
    writer = log.appender("g1")
    with log.connect() as connection:
        connection.execute("SELECT 1")
        with connection.transaction():
            writer._wait_at_most(connection)
            with pytest.raises(psycopg.errors.QueryCanceled), connection.transaction():
                connection.execute("SELECT pg_sleep(20)")


# --- what is in it


TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=8)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prediction": st.none() | TEXTS,
                "error": st.sampled_from(
                    [None, "", '"', ",", "\n", "\r\n", "\\N", "\\.", "NaN", "t", "ü\U0001f600", " "]
                ),
                "score": st.none() | NUMBERS,
                "latency_ms": NUMBERS,
                "stage": st.none() | st.integers(-(2**31), 2**31 - 1),
                "served": st.booleans(),
                "traffic_revision": st.integers(-(2**63), 2**63 - 1),
                "ts": st.integers(0, 10**13).map(lambda us: START + timedelta(microseconds=us)),
                "features": st.fixed_dictionaries(
                    {}, optional={"x": NUMBERS | st.none(), "y": TEXTS | st.none(), 'q"%{}s': st.integers()}
                ),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_rows_come_back_as_from_delta(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, rows: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("log")
    log = PostgresLog(postgres_server, root.name + str(root.parent.name[-8:]))
    rows = [row(f"{at:03}") | each for at, each in enumerate(rows)]
    for at in (0, 1):  # in two commits, so that the second one may bring columns
        half = rows[at::2]
        if half:
            assert DeltaLogWriter(root, "g").append("m", "predictions", half, at)
            assert log.appender("g").append("m", "predictions", half, at)

    def plain(found: list[dict[str, Any]]) -> list[list[tuple[str, str]]]:
        return [sorted((name, repr(value)) for name, value in each.items()) for each in found]

    assert plain(read(log)) == plain(read(root))
    with log.connect() as connection:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(log.schema)))


def test_the_tables_are_those_of_the_contract(log: PostgresLog, tmp_path: Path) -> None:
    for appender in (log.appender("g"), DeltaLogWriter(tmp_path, "g")):
        appender.append("m", "predictions", [row("a", features={"x": 1, "y": "t"})], 1)
        appender.append("m", "outcomes", [{"request_id": "a", "ts": START, "label": "1"}], 1)
    for table in ("predictions", "outcomes"):
        delta = DeltaTable(str(table_path(tmp_path, "m", table)))  # type: ignore[arg-type]
        with log.connect() as connection:
            found = [column.name for column in log.table("m", table).columns(connection)]  # type: ignore[arg-type]
            day = connection.execute(
                sql.SQL("SELECT day FROM {}").format(log.table("m", table).identifier)  # type: ignore[arg-type]
            ).fetchall()
        assert sorted(found) == sorted(field.name for field in delta.schema().fields)
        assert day == [(START.date(),)]


@pytest.mark.parametrize(
    "model",
    [
        "a b",
        'q"uote',
        "percent%s {} %(x)s",
        "a.b",
        "Case",
        "case",
        "ü" * 40,
        "x" * 255,
        "x" * 254 + "y",
        "commits",
        "..",
        "'",
    ],
)
def test_models_of_any_name_have_tables_of_their_own(log: PostgresLog, model: str) -> None:
    writer = log.appender("g1")
    others = [
        "m",
        model + "2",
        model.swapcase() + "3",
        stored_name(model),
        stored_name(model, ".predictions").removesuffix(".predictions"),
    ]
    for at, each in enumerate([model, *others]):
        assert writer.append(each, "predictions", [row(f"of {each}", model=each)], at)
    for each in {model, *others}:
        assert {found["request_id"] for found in read(log, each)} == {f"of {each}"}


def test_a_text_of_many_lines_is_one_text_wherever_a_block_of_the_copy_ends(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_rollouts.adapters import postgres_log_reader

    monkeypatch.setattr(postgres_log_reader, "_BLOCK", 600)
    text = 'x,"\n' * 40
    log.appender("g1").append("m", "predictions", [row(f"{at:02}", error=text) for at in range(20)], 1)
    assert [(each["request_id"], each["error"]) for each in read(log)] == [(f"{at:02}", text) for at in range(20)]


def test_inputs_with_long_names_are_kept_apart_and_come_back_under_them(log: PostgresLog) -> None:
    names = ["n" * 100 + end for end in ("a", "b")] + ["ü" * 62]
    writer = log.appender("g1")
    features = {name: float(at) for at, name in enumerate(names)}
    assert writer.append("m", "predictions", [row("a", features=features)], 1)
    assert writer.append("m", "predictions", [row("b", features=features)], 2)
    assert [{name: each[f"f_{name}"] for name in names} for each in read(log)] == [features, features]


def test_a_nul_in_a_text_is_replaced_and_one_in_a_name_costs_the_inputs_alone(log: PostgresLog) -> None:
    writer = open_writer(log, "g1")
    assert writer.append("m", "predictions", [row("a", error="x\x00y", features={"t": "\x00"})], 1)
    assert writer.append("m", "predictions", [row("b", features={"na\x00me": 1.0})], 2)
    found = read(log)
    assert [(each["error"], each["f_t"]) for each in found] == [("x\ufffdy", "\ufffd"), (None, None)]


def test_a_row_that_is_too_wide_is_logged_without_its_inputs(log: PostgresLog) -> None:
    wide = {f"x{at}": 1.5 for at in range(1700)}
    with pytest.raises(LogContractError, match="log fewer inputs"):
        log.appender("g1").append("m", "predictions", [row("a", features=wide)], 1)
    assert open_writer(log, "g1").append("m", "predictions", [row("a", features=wide)], 1)
    assert [each["request_id"] for each in read(log)] == ["a"]


def test_an_input_that_changes_its_type_is_refused_as_by_delta(log: PostgresLog, tmp_path: Path) -> None:
    messages = []
    for appender in (log.appender("g"), DeltaLogWriter(tmp_path, "g")):
        assert appender.append("m", "predictions", [row("a", features={"x": 1.0})], 1)
        for at, features in enumerate([{"x": "text"}, {"X": 1.0}, {"y": 1, "Y": 2}]):
            with pytest.raises(LogContractError) as error:
                appender.append("m", "predictions", [row("b", features=features)], 2 + at)
            messages.append(str(error.value))
    assert messages[:3] == messages[3:]
    assert len(read(log)) == 1


def test_segments_are_taken_as_they_are(log: PostgresLog) -> None:
    lines = b"".join(
        orjson.dumps(row(f"{at}", features={"x": at / 7}) | {"ts": int(START.timestamp()) * 1_000_000}) + b"\n"
        for at in range(3)
    )
    damaged = JsonLines(b"\x00\n" + lines.replace(b'"request_id":"', b'"request_id":"d'))
    writer = log.appender("g")
    assert writer.append("m", "predictions", JsonLines(lines), 1)
    assert writer.append("m", "predictions", damaged, 2)
    assert not writer.append("m", "predictions", JsonLines(b"\x00\n"), 3)
    assert writer.append("m", "predictions", [row("later")], 3), "nothing was claimed for a batch of nothing"
    assert [each["f_x"] for each in read(log)][:3] == [0.0, 1 / 7, 2 / 7]
    assert damaged.damaged == 1


# --- silence and damage


def test_what_was_never_written_is_empty_and_what_can_not_be_reached_is_an_error(log: PostgresLog) -> None:
    assert read(log) == []
    log.appender("g").append("m", "outcomes", [{"request_id": "a", "ts": START}], 1)
    assert read(log) == []
    away = PostgresLog("postgresql://postgres@/postgres?host=/nowhere&connect_timeout=2", log.schema)
    with pytest.raises(LogReadError, match="can't be read"):
        read(away)
    with pytest.raises(psycopg.OperationalError):
        away.appender("g").append("m", "outcomes", [{"request_id": "a", "ts": START}], 2)


def test_another_table_of_that_name_is_an_error(log: PostgresLog) -> None:
    with log.connect() as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(log.schema)))
        connection.execute(sql.SQL("CREATE TABLE {} (x text)").format(log.table("m", "predictions").identifier))
    with pytest.raises(LogReadError, match="it is no table of this log"):
        read(log)


def test_a_query_gets_no_more_columns_than_it_names(log: PostgresLog) -> None:
    log.appender("g").append("m", "predictions", [row("a", features={"x": 1, "y": 2})], 1)
    where = {"t": (log.table("m", "predictions"), START, START + timedelta(seconds=1))}
    for query, names in (
        ("SELECT count(*), max(f_x) FROM {t}", {"ts", "f_x"}),
        ("SELECT * FROM {t}", None),
        ("SELECT *, 1 AS one FROM {t}", None),
    ):
        connection = run(query, where, {})
        assert connection is not None
        found = {
            name for (name,) in connection.execute("SELECT column_name FROM information_schema.columns").fetchall()
        }
        assert found == names if names else {"f_x", "f_y", "unit_id"} < found


@pytest.mark.parametrize("model", ["", "a\x00b"])
def test_a_name_that_can_not_be_is_refused(log: PostgresLog, model: str) -> None:
    with pytest.raises(LogContractError, match="model name"):
        log.appender("g").append(model, "predictions", [row("a")], 1)


# --- choosing it


def test_the_settings_choose_the_log(postgres_server: str, tmp_path: Path) -> None:
    parts = Wiring(Settings(log_url=postgres_server, log_dir=tmp_path))
    assert isinstance(parts.log_root, PostgresLog)
    assert isinstance(parts.log, DeltaPredictionLog)
    roots: list[Callable[[], Any]] = [
        lambda: parts.log.root,
        lambda: parts.report_log.root,
        lambda: parts.monitoring_log.root,  # type: ignore[attr-defined]
    ]
    assert all(root() is parts.log_root for root in roots)
    assert Wiring(Settings(log_dir=tmp_path)).log_root == tmp_path
    with pytest.raises(ValueError, match=r"must be postgresql://"):
        Settings(log_url="mysql://x")


def test_numbers_that_are_none_are_kept(log: PostgresLog) -> None:
    log.appender("g").append("m", "predictions", [row("a", latency_ms=math.nan), row("b", latency_ms=-math.inf)], 1)
    assert math.isnan(read(log)[0]["latency_ms"])
    assert read(log)[1]["latency_ms"] == -math.inf
