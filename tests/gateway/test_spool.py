"""From the answer to the log, exactly once, whatever dies in between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.segments import SegmentLog
from model_rollouts.gateway.shipments import Orphans
from model_rollouts.gateway.spool import Spool, SpoolInUseError


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written here without answers, so there is none to wait for."""
    monkeypatch.setattr("model_rollouts.gateway.shipments._SENDING_SECONDS", 0.0)


def row(request_id: str, **more: Any) -> dict[str, Any]:
    return {"request_id": request_id, **more}


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [r["request_id"] for r in rows]


@pytest.fixture
def spool(tmp_path: Path, writer: Any) -> Callable[..., Spool]:
    def make(gateway_id: str = "g1", max_bytes: int = 1_000_000, **options: Any) -> Spool:
        return Spool(tmp_path, gateway_id, writer.open, 0.01, max_bytes, **options)

    return make


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rows"))


def test_rows_are_on_disk_when_append_returns_and_in_the_log_once_after_a_flush(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    s = spool()
    s.append("m", "predictions", [row("a"), row("b")])
    assert [line for path in segments(tmp_path) for line in path.read_text().splitlines()] == [
        '{"request_id":"a"}',
        '{"request_id":"b"}',
    ]
    assert s.flush()
    assert s.flush()
    assert ids(writer.of()) == ["a", "b"]
    assert segments(tmp_path) == []
    s.close()


def test_models_and_tables_are_kept_apart_and_names_stay_inside_the_folder(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    s = spool("../../evil")
    s.append("..", "predictions", [row("a")])
    s.append("a/b c", "outcomes", [row("b")])
    assert all(path.is_relative_to(tmp_path) for path in segments(tmp_path))
    s.close()
    assert ids(writer.of("..")) == ["a"]
    assert ids(writer.of("a/b c", "outcomes")) == ["b"]


def test_the_thread_commits_by_itself(spool: Callable[..., Spool], writer: Any, until: Any) -> None:
    s = spool()
    s.start()
    s.append("m", "predictions", [row("a")])
    until(lambda: ids(writer.of()) == ["a"])
    s.close()


def test_a_log_that_is_away_keeps_the_rows_in_order_and_takes_them_when_it_is_back(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    s = spool()
    writer.away = True
    for i in range(5):
        s.append("m", "predictions", [row(str(i))])
        assert not s.flush()
    assert len(segments(tmp_path)) == 2, "one that failed, and one that grows behind it"
    assert "the log is away" in s.status()["error"]
    assert s.status()["bytes"] > 0
    writer.away = False
    assert s.flush()
    assert ids(writer.of()) == list("01234")
    assert s.status()["error"] is None
    assert s.status()["bytes"] == 0
    s.close()


def test_what_the_log_took_though_the_call_failed_is_not_written_twice(
    spool: Callable[..., Spool], writer: Any
) -> None:
    s = spool()
    s.append("m", "predictions", [row("a")])
    writer.fails_after_commit = True
    assert not s.flush()
    assert s.flush()
    assert ids(writer.of()) == ["a"]
    s.close()


def test_beyond_its_bound_the_spool_refuses(spool: Callable[..., Spool], writer: Any) -> None:
    s = spool(max_bytes=1000)
    writer.away = True
    while s.status()["bytes"] < 1000:
        s.append("m", "predictions", [row("fits", pad="x" * 100)])
    with pytest.raises(LogUnavailableError, match="must be below 1000"):
        s.append("m", "predictions", [row("too much")])
    with pytest.raises(LogUnavailableError):
        s.check()
    kept = s.status()["bytes"]
    writer.away = False
    s.flush()
    s.check()
    assert 1000 <= kept < 1200
    assert len(writer.of()) == 8
    assert "too much" not in ids(writer.of())
    s.close()


def test_a_disk_that_takes_a_part_of_a_write_takes_none(
    spool: Callable[..., Spool], writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = spool()
    s.append("m", "predictions", [row("a")])
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(LogUnavailableError, match="took 5 of"):
        s.append("m", "predictions", [row("b")])
    monkeypatch.undo()
    s.append("m", "predictions", [row("c")])
    s.close()
    assert ids(writer.of()) == ["a", "c"]
    assert s.status()["torn_lines"] == 0


def test_what_a_process_left_behind_is_committed_first_and_a_torn_line_is_cut_and_reported(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    dead = SegmentLog(tmp_path / "g1" / "m" / "predictions", 10_000)
    dead.append([row("a"), row("b")])
    dead.seal()
    with segments(tmp_path)[0].open("ab") as file:
        file.write(b'{"request_id": "tor')
    s = spool()
    s.append("m", "predictions", [row("c")])
    s.flush()
    assert ids(writer.of()) == ["a", "b", "c"]
    assert s.status()["torn_lines"] == 1
    s.close()


def test_a_damaged_line_is_reported_and_kept_aside_and_the_rest_is_logged(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    dead = SegmentLog(tmp_path / "g1" / "m" / "predictions", 10_000)
    dead.append([row("a"), row("b")])
    path = segments(tmp_path)[0]
    path.write_bytes(b"\x00\x00\n" + path.read_bytes())
    s = spool()
    s.flush()
    assert ids(writer.of()) == ["a", "b"]
    assert s.status()["damaged_lines"] == 1
    assert len(list(tmp_path.rglob("*.damaged"))) == 1
    s.close()


def test_damage_in_a_segment_that_the_log_has_already_is_kept_aside_too(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    dead = SegmentLog(tmp_path / "g1" / "m" / "predictions", 10_000)
    dead.append_lines(b'{"request_id":"a"}\n{"reques\n')
    writer.open("g1").append("m", "predictions", [row("a")], int(segments(tmp_path)[0].stem))
    s = spool()
    assert s.flush()
    assert ids(writer.of()) == ["a"]
    assert s.status()["damaged_lines"] == 1
    assert len(list(tmp_path.rglob("*.damaged"))) == 1
    s.close()


def test_a_segment_that_was_committed_before_the_crash_is_recognised(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    dead = SegmentLog(tmp_path / "g1" / "m" / "predictions", 10_000)
    dead.append([row("a")])
    number = dead.sealed() or [int(segments(tmp_path)[0].stem)]
    writer.open("g1").append("m", "predictions", [row("a")], number[0])
    s = spool()
    assert s.flush()
    assert ids(writer.of()) == ["a"]
    assert segments(tmp_path) == []
    s.close()


def test_numbers_only_grow_over_restarts_deleted_files_and_a_clock_that_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    for clock in (10**18, 10**18 - 10**15, 10**18 + 10**9, 5):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        log = SegmentLog(tmp_path, 10_000)
        for _ in range(1500):  # more than one reserved block
            log.append([row("a")])
            log.seal()
            (number,) = log.sealed()
            used.append(number)
            log.drop(number)
    assert used == sorted(set(used))


def test_numbers_go_on_from_the_clock_when_the_folder_is_lost(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "one", 10_000)
    log.append([row("a")])
    log.seal()
    again = SegmentLog(tmp_path / "two", 10_000)
    again.append([row("a")])
    again.seal()
    assert again.sealed() > log.sealed()


def test_a_number_that_the_log_knows_from_elsewhere_is_no_silent_loss(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    writer.last["g1", "m", "predictions"] = 2**62
    s = spool()
    s.append("m", "predictions", [row("a")])
    assert not s.flush()
    assert not s.flush()
    assert "was never sent" in s.status()["error"]
    assert len(segments(tmp_path)) == 1
    s.close()


def test_two_processes_cannot_share_a_gateway_id(spool: Callable[..., Spool]) -> None:
    first = spool()
    with pytest.raises(SpoolInUseError, match="MODEL_ROLLOUTS_GATEWAY_ID"):
        spool()
    other = spool("g2")
    first.close()
    spool().close()
    other.close()


def test_rows_of_an_id_that_is_gone_are_committed_under_that_id(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    living = spool("living")
    living.append("m", "predictions", [row("l")])
    SegmentLog(tmp_path / "gone" / "m" / "predictions", 10_000).append([row("a")])
    s = spool("new")
    assert s.status()["inherited_from"] == ["gone"]
    assert s.flush()
    assert ids(writer.of()) == ["a"]
    assert [key[0] for key in writer.last] == ["gone"]
    assert s.status()["inherited_from"] == []
    s.close()
    living.close()


def test_what_another_id_left_is_let_go_of_while_the_log_is_away_and_tried_again_later(
    writer: Any, tmp_path: Path
) -> None:
    now = [0.0]
    for name in ("back", "gone"):
        SegmentLog(tmp_path / name / "m" / "predictions", 10_000).append([row(name)])
    orphans = Orphans(tmp_path, {"new"}, writer.open, lambda: now[0])
    with pytest.raises(SpoolInUseError):
        Spool(tmp_path, "back", writer.open, 60, 1_000_000)
    writer.away = True
    assert len(orphans.ship()) == 2
    back = Spool(tmp_path, "back", writer.open, 60, 1_000_000, siblings=["gone"])
    writer.away = False
    now[0] = 29.0
    assert len(orphans.ship()) == 2, "it is not tried yet"
    assert writer.of() == []
    now[0] = 31.0
    assert orphans.ship() == []
    assert ids(writer.of()) == ["gone"]
    assert list(orphans) == []
    back.close()
    assert ids(writer.of()) == ["gone", "back"]


def test_what_siblings_left_behind_is_theirs(spool: Callable[..., Spool], writer: Any, tmp_path: Path) -> None:
    for name in ("g-1", "gone"):
        SegmentLog(tmp_path / name / "m" / "predictions", 10_000).append([row(name)])
    s = spool("g-0", siblings=("g-0", "g-1"))
    assert s.status()["inherited_from"] == ["gone"]
    assert s.flush()
    assert ids(writer.of()) == ["gone"]
    spool("g-1", siblings=("g-0", "g-1")).close()
    assert ids(writer.of()) == ["gone", "g-1"]
    s.close()


def test_answers_under_way_are_waited_for_once_and_not_for_each_model(
    spool: Callable[..., Spool], writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.shipments._SENDING_SECONDS", 0.2)
    s = spool()
    for model in "abcdef":
        s.append(model, "predictions", [row(model, served=True)])
    began = time.monotonic()
    assert s.flush()
    assert 0.2 <= time.monotonic() - began < 0.6
    assert [writer.of(model)[0]["served"] for model in "abcdef"] == [False] * 6
    s.close()


def test_a_log_that_hangs_is_told_and_holds_up_no_end(
    writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.spool._LONG_SECONDS", 0.2)
    hangs, goes_on = threading.Event(), threading.Event()

    class Hanging:
        def append(self, *batch: Any) -> bool:
            hangs.set()
            return goes_on.wait(60) and bool(writer.open("g1").append(*batch))

    s = Spool(tmp_path, "g1", lambda _: Hanging(), 0.01, 1_000_000)
    s.append("m", "outcomes", [row("a")])
    s.start()
    assert hangs.wait(5)
    until(lambda: "has not answered for" in (s.status()["error"] or ""))
    s.append("m", "outcomes", [row("b")])
    began = time.monotonic()
    s.close(0.2)
    assert time.monotonic() - began < 2
    assert len(segments(tmp_path)) == 2, "for the next start"
    goes_on.set()
    until(lambda: ids(writer.of(table="outcomes")) == ["a", "b"])
    assert s.status()["error"] is None


def test_lines_that_are_json_already_are_rows_like_others(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    s = spool()
    s.append_lines("m", "predictions", b'{"request_id":"a"}\n{"request_id":"b"}\n')
    s.append("m", "predictions", [row("c")])
    with pytest.raises(ValueError, match="must end with a newline"):
        s.append_lines("m", "predictions", b'{"request_id":"d"}')
    assert len(segments(tmp_path)) == 1
    s.close()
    assert ids(writer.of()) == ["a", "b", "c"]


def test_what_piled_up_in_an_outage_goes_out_in_pieces(
    spool: Callable[..., Spool], writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    append = type(writer.open("g1")).append

    def noting(self: Any, model: str, table: str, rows: Any, version: int) -> bool:
        sizes.append(len(rows.data))
        return bool(append(self, model, table, rows, version))

    s = spool(max_bytes=100_000_000)
    line = orjson.dumps(row("x", pad="x" * 1000)) + b"\n"
    for _ in range(20):
        s.append_lines("m", "predictions", line * 1000)
    monkeypatch.setattr(type(writer.open("g1")), "append", noting)
    assert s.flush()
    assert len(writer.of()) == 20_000
    assert len(sizes) == 3
    assert max(sizes) < 8 * 1024 * 1024 + len(line) * 1000
    s.close()


# --- when logging fails


def test_where_answers_go_before_the_log_a_full_spool_counts_what_it_misses(
    spool: Callable[..., Spool], writer: Any
) -> None:
    told: list[tuple[str, int, str]] = []
    before = datetime.now(UTC)
    s = spool(max_bytes=1000, on_failure="serve", on_unlogged=lambda *what: told.append(what))
    writer.away = True
    s.append("m", "predictions", [row("kept", pad="x" * 1000)])
    assert s.unlogged() == {}
    s.check()
    s.append("m", "predictions", [row("lost"), row("lost too")])
    s.append("m", "predictions", [row("lost")])
    s.append("n", "predictions", [row("lost")])
    with pytest.raises(LogUnavailableError, match="must be below 1000"):
        s.append("m", "outcomes", [row("never lost")])
    lost = s.unlogged()
    assert {model: each.rows for model, each in lost.items()} == {"m": 3, "n": 1}
    assert before <= lost["m"].first < lost["m"].last <= datetime.now(UTC)
    assert "must be below 1000" in lost["m"].reason
    assert [(model, rows) for model, rows, _ in told] == [("m", 2), ("m", 1), ("n", 1)]
    assert s.status()["unlogged"]["m"]["rows"] == 3
    writer.away = False
    assert s.flush()
    s.append("m", "predictions", [row("again")])
    s.close()
    assert ids(writer.of()) == ["kept", "again"]
    assert s.unlogged()["m"].rows == 3, "what the log misses it still misses"


def test_who_listens_for_unlogged_rows_cannot_cost_the_answer(spool: Callable[..., Spool]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no store")

    s = spool(max_bytes=1, on_failure="serve", on_unlogged=fail)
    s.append("m", "predictions", [row("a")])
    s.append("m", "predictions", [row("b")])
    assert s.unlogged()["m"].rows == 1
    s.close()


def test_answers_and_outcomes_are_refused_where_the_folder_takes_no_file(
    spool: Callable[..., Spool], tmp_path: Path
) -> None:
    s = spool()
    (tmp_path / "g1" / "m").write_text("in the way, as a read-only file system is")
    with pytest.raises(LogUnavailableError, match="the answer can't be logged"):
        s.append("m", "predictions", [row("a")])
    with pytest.raises(LogUnavailableError, match="the outcome can't be logged"):
        s.append("m", "outcomes", [row("a")])
    assert s.unlogged() == {}
    (tmp_path / "g1" / "m").unlink()
    s.append("m", "predictions", [row("a")])
    s.close()


_SMALL_DISK = """
import json, resource, sys
from pathlib import Path
from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.spool import Spool

class Kept:
    rows = []
    def append(self, model, table, rows, version):
        self.rows += [(table, row["request_id"]) for row in rows]
        return True

kept = Kept()
spool = Spool(Path(sys.argv[1]), "g1", lambda _: kept, 60, 10**6, on_failure="serve")
line = lambda name: b'{"request_id":"%s"}\\n' % name  # 21 bytes
spool.append_lines("m", "predictions", line(b"a001"))
spool.append_lines("m", "outcomes", line(b"o001"))
resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.RLIM_INFINITY))  # the kernel takes a part, and then nothing
for name in (b"a002", b"a003", b"a004"):
    spool.append_lines("m", "predictions", line(name))
    try:
        spool.append_lines("m", "outcomes", line(name.replace(b"a", b"o")) * 3)
        raise SystemExit("the outcomes were taken")
    except LogUnavailableError:
        pass
unlogged = spool.unlogged()["m"]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append_lines("m", "predictions", line(b"a005"))
spool.append_lines("m", "outcomes", line(b"o005"))
spool.flush()
print(json.dumps([kept.rows, unlogged.rows, spool.status()["torn_lines"], spool.status()["damaged_lines"]]))
spool.close()
"""


def test_a_disk_that_is_really_full_loses_counted_answers_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SMALL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows, unlogged, torn, damaged = json.loads(done.stdout.splitlines()[-1])
    assert sorted(map(tuple, rows)) == [
        ("outcomes", "o001"),
        ("outcomes", "o005"),
        ("predictions", "a001"),
        ("predictions", "a002"),
        ("predictions", "a005"),
    ]
    assert (unlogged, torn, damaged) == (2, 0, 0)


def test_what_can_not_even_be_cut_off_is_never_read_and_nothing_is_written_behind_it(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = spool()
    s.append("m", "predictions", [row("a")])
    real = os.write

    def broken(fd: int, data: bytes) -> int:
        real(fd, data[:30])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", broken)
    monkeypatch.setattr(os, "ftruncate", lambda *_: os.stat(tmp_path / "not there"))
    with pytest.raises(LogUnavailableError, match="Input/output error"):
        s.append("m", "predictions", [row("b"), row("b2")])
    monkeypatch.undo()
    s.append("m", "predictions", [row("c")])
    assert len(segments(tmp_path)) == 2
    s.close()
    assert ids(writer.of()) == ["a", "c"]
    assert (s.status()["torn_lines"], s.status()["damaged_lines"]) == (0, 0)


def test_the_status_tells_the_slowest_write_of_late_to_everybody_who_asks(
    spool: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    s = spool()
    s.append("m", "predictions", [row("a")])
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: time.sleep(0.05) or real(fd, data))
    s.append("m", "outcomes", [row("a")])
    monkeypatch.undo()
    s.append("m", "outcomes", [row("a")])
    assert s.status()["slowest_write_ms"] >= 50
    assert s.status()["slowest_write_ms"] >= 50, "it is told to the next one, too"
    monkeypatch.setattr("model_rollouts.gateway.segments._LATELY_SECONDS", 0.02)
    until(lambda: s.status()["slowest_write_ms"] == 0)
    s.close()


_WORKER = """
import sys, time
from functools import partial
from pathlib import Path
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.spool import Spool
root, life = Path(sys.argv[1]), sys.argv[2]
spool = Spool(root / "spool", "g1", partial(open_writer, root / "log"), 0.02, 10**9)
spool.start()
for i in range(1_000_000):
    spool.append("m", "outcomes", [{"request_id": f"{life}-{i}", "ts": 1_700_000_000_000_000, "label": "1"}])
    print(f"{life}-{i}", flush=True)
    time.sleep(0.001)
"""


def test_after_kill_9_at_any_moment_every_acknowledged_row_is_in_the_real_log_once(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    acknowledged: set[str] = set()
    log = tmp_path / "log" / "m" / "outcomes" / "_delta_log"
    for life in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path), str(life)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        before = len(list(log.glob("*.json")))
        for line in process.stdout:
            acknowledged.add(line.strip())
            if len(list(log.glob("*.json"))) >= before + 4:
                break
        process.send_signal(signal.SIGKILL)
        acknowledged.update(line.strip() for line in process.stdout if line.endswith("\n"))
        process.wait()
        process.stdout.close()
    s = Spool(tmp_path / "spool", "g1", lambda app_id: open_writer(tmp_path / "log", app_id), 60, 10**9)
    left = s.status()["bytes"]
    assert s.flush()
    s.close()
    table = DeltaTable(str(tmp_path / "log" / "m" / "outcomes")).to_pyarrow_table()
    logged = [row["request_id"] for row in table.to_pylist()]
    assert left > 0, "the last kill left rows that only the spool had"
    assert len(acknowledged) > 20
    assert len(logged) == len(set(logged))
    assert acknowledged <= set(logged)
    assert len(set(logged) - acknowledged) <= 3, "written, and killed before it could be said"


def test_inputs_that_the_log_cannot_hold_do_not_hold_up_the_rows(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    base = {
        "ts": 1_700_000_000_000_000,
        "model": "m",
        "version": "1",
        "arm": "champion",
        "served": True,
        "status": "ok",
        "latency_ms": 1.0,
        "prediction": "1",
        "gateway_id": "g",
        "traffic_revision": 1,
    }
    appender = open_writer(tmp_path, "g")
    assert appender.append("m", "predictions", [base | {"request_id": "a", "features": {"x": 1.0}}], 1)
    assert appender.append("m", "predictions", [base | {"request_id": "b", "features": {"x": "text"}}], 2)
    rows = DeltaTable(str(tmp_path / "m" / "predictions")).to_pyarrow_table().to_pylist()
    assert {r["request_id"]: r["f_x"] for r in rows} == {"a": 1.0, "b": None}


def test_how_long_the_oldest_row_of_a_model_has_waited_is_known(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("model_rollouts.gateway.segments.time.monotonic", lambda: now[0])
    s = spool()
    assert s.backlog_seconds("m") == 0
    writer.away = True
    s.append("m", "predictions", [row("a")])
    now[0] += 5
    s.append("m", "predictions", [row("b")])
    s.append("m", "outcomes", [row("a", label="1")])
    assert (s.backlog_seconds("m"), s.backlog_seconds("other")) == (5, 0)
    assert not s.flush()  # sealed now, and not taken
    now[0] += 5
    s.append("m", "predictions", [row("c")])
    assert s.backlog_seconds("m") == 10
    writer.away = False
    assert s.flush()
    assert s.backlog_seconds("m") == 0
    s.append("m", "outcomes", [row("b", label="1")])
    now[0] += 2
    assert s.backlog_seconds("m") == 2
    s.close()


def test_what_earlier_processes_left_has_waited_since_its_first_row(
    spool: Callable[..., Spool], writer: Any, tmp_path: Path
) -> None:
    taken_us = int((time.time() - 300) * 1e6)
    for name, first in (("g1", row("a", ts=taken_us)), ("gone", row("b", ts=taken_us - 100_000_000))):
        SegmentLog(tmp_path / name / "m" / "predictions", 10_000).append([first, row(f"{name}-2")])
    SegmentLog(tmp_path / "g1" / "damaged" / "predictions", 10_000).append([row("c")])
    writer.away = True
    s = spool()
    assert 400 <= s.backlog_seconds("m") < 430
    assert 0 < s.backlog_seconds("damaged") < 30
    writer.away = False
    assert s.flush()
    assert s.backlog_seconds("m") == 0
    s.close()
