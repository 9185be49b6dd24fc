"""Rows say "served" only of answers that went out."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_rollouts.gateway import sent_marks
from model_rollouts.gateway.segments import SegmentLog
from model_rollouts.gateway.sent_marks import SentMarks, as_sent
from model_rollouts.gateway.spool import Spool

Start = Callable[..., Any]


def row(number: int, *, served: bool = True, **features: Any) -> dict[str, Any]:
    return {"request_id": str(number), "served": served, "features": features}


def served(log: SegmentLog) -> dict[str, bool]:
    (number,) = log.sealed()
    return {r["request_id"]: r["served"] for r in log.read(number).rows}


def test_rows_without_a_mark_are_not_served_and_change_in_nothing_else(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 10_000, marked=True)
    receipts = [log.append([row(i, served=i != 2, said='"served":true', served_meal=True)]) for i in range(4)]
    for i in (0, 2):
        receipts[i].sent()
    log.seal()
    assert served(log) == {"0": True, "1": False, "2": False, "3": False}
    (number,) = log.sealed()
    assert all(r["features"] == {"said": '"served":true', "served_meal": True} for r in log.read(number).rows)


def test_a_process_that_died_leaves_its_marks_behind(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 10_000, marked=True)
    log.append([row(0), row(1)]).sent()
    log.append([row(2)])
    del log
    assert served(SegmentLog(tmp_path, 10_000, marked=True)) == {"0": True, "1": True, "2": False}


def test_a_segment_without_marks_is_taken_at_its_word(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 10_000, marked=True)
    log.append([row(0)])
    log.seal()
    next(tmp_path.glob("*.sent")).unlink()
    assert served(SegmentLog(tmp_path, 10_000, marked=True)) == {"0": True}


def test_marks_go_with_their_segment(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 10_000, marked=True)
    receipt = log.append([row(0)])
    log.seal()
    log.drop(log.sealed()[0])
    assert [p.name for p in tmp_path.iterdir()] == ["next"]
    receipt.sent()  # an answer that was very slow to go out
    (tmp_path / f"{5:020d}.sent").write_bytes(b"\0")
    SegmentLog(tmp_path, 10_000, marked=True)
    assert [p.name for p in tmp_path.iterdir()] == ["next"], "marks of a segment that is gone"


def test_a_segment_ends_when_its_marks_are_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_marks, "_LINES", 4)
    log = SegmentLog(tmp_path, 10_000_000, marked=True)
    receipts = [log.append([row(10 * i + j) for j in range(3)]) for i in range(3)]
    receipts.append(log.append([row(100 + j) for j in range(9)]))  # more than fit at all
    for receipt in receipts:
        receipt.sent()
    log.seal()
    assert [len(log.read(number).rows) for number in log.sealed()] == [3, 3, 3, 9]
    assert all(r["served"] for number in log.sealed() for r in log.read(number).rows)


def test_a_disk_without_room_for_marks_takes_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    log = SegmentLog(tmp_path, 10_000, marked=True)
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            log.append([row(0)])
    log.append([row(1)]).sent()
    log.seal()
    assert served(log) == {"1": True}


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.dictionaries(st.text(max_size=9), st.booleans())), min_size=1)
)
def test_only_the_flag_of_unmarked_rows_changes(tmp_path_factory: Any, rows: list[tuple[bool, bool, Any]]) -> None:
    path = tmp_path_factory.mktemp("marks") / "1.sent"
    marks = SentMarks(path, len(rows))
    lines = [orjson.dumps({"features": f, "served": s}, option=orjson.OPT_APPEND_NEWLINE) for _, s, f in rows]
    for sent, _, _ in rows:
        receipt = marks.add(1)
        if sent:
            receipt.sent()
    assert marks.complete is all(sent for sent, _, _ in rows)
    found = [orjson.loads(line) for line in as_sent(b"".join(lines), path).splitlines()]
    assert found == [{"features": f, "served": s and sent} for sent, s, f in rows]


def test_a_commit_waits_for_answers_that_are_on_their_way(tmp_path: Path, writer: Any) -> None:
    spool = Spool(tmp_path, "g1", writer.open, 60, 1_000_000)
    receipt = spool.append("m", "predictions", [row(0)])
    timer = threading.Timer(0.1, receipt.sent)
    timer.start()
    assert spool.flush()
    assert [r["served"] for r in writer.of()] == [True]
    spool.append("m", "predictions", [row(1)])
    assert spool.flush()
    assert [r["served"] for r in writer.of()] == [True, False], "and then no longer"
    spool.close()


def test_an_answer_that_is_known_not_to_go_out_is_not_waited_for(tmp_path: Path, writer: Any) -> None:
    spool = Spool(tmp_path, "g1", writer.open, 60, 1_000_000)
    lost, sent = spool.append("m", "predictions", [row(0), row(1)]), spool.append("m", "predictions", [row(2)])
    assert lost is not None
    assert sent is not None
    lost.lost()
    sent.sent()
    began = time.monotonic()
    assert spool.flush()
    assert time.monotonic() - began < 0.9
    assert [r["served"] for r in writer.of()] == [False, False, True]
    spool.close()


def test_an_answer_that_can_not_be_written_leaves_no_row(gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_rollouts.gateway.protocols import MlflowCodec

    def breaks(*_: Any) -> bytes:
        raise RuntimeError("a bug")

    async def run() -> None:
        async with gateway() as g:
            with monkeypatch.context() as patch:
                patch.setattr(MlflowCodec, "encode", breaks)
                assert (await g.score(1.0, request_id="lost")).status_code == 500
            assert (await g.score(1.0, request_id="given")).status_code == 200
            assert {r["request_id"]: r["served"] for r in await g.rows()} == {"given": True}

    asyncio.run(run())
