"""Shadow requests: what the challenger makes of them is logged, and callers never notice."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_rollouts.core.bucketing import in_share
from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway import mirror
from model_rollouts.gateway.payload import Column

Start = Callable[..., Any]
Row = dict[str, Any]


def facts(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("cohort", "arm", "version", "served", "status", "prediction"))


def by_arm(rows: list[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


def shadow(rollout: Any, percent: float = 100.0, **more: Any) -> Traffic:
    traffic: Traffic = rollout(0.0, mirror_percent=percent, **more)
    return traffic


async def mirrored(g: Any, count: int) -> None:
    """Wait until so many requests have been mirrored or dropped."""
    await g.happens(lambda: (s := g.mirror.status("m"))["mirrored"] + s["dropped"] >= count and not s["waiting"])


def test_a_mirrored_request_is_answered_by_the_champion_and_scored_by_both(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = lambda data: data["x"].to_numpy() * 100
            g.set(shadow(rollout))
            await g.routes_by(2)
            answer = await g.score(1.5, unit="u", request_id="a")
            assert (answer.content, answer.headers["x-model-version"]) == (b'{"predictions": [3.0]}', "1")
            await mirrored(g, 1)
            champion, challenger = await g.rows()
            assert facts(champion) == ("champion", "champion", "1", True, "ok", "3")
            assert facts(challenger) == ("challenger", "challenger", "2", False, "ok", "150")
            for key in ("request_id", "ts", "unit_id", "rollout_id", "stage", "features", "traffic_revision"):
                assert champion[key] == challenger[key], key
            assert challenger["latency_ms"] > 0
            assert (await g.client.get("/models/m/status")).json()["mirror"] == {
                "waiting": 0,
                "mirrored": 1,
                "dropped": 0,
            }

    asyncio.run(run())


def test_only_the_rows_of_the_sample_are_mirrored(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(shadow(rollout, 30.0))
            await g.routes_by(2)
            body = {"dataframe_records": [{"x": float(i)} for i in range(50)]}
            headers = {"X-Request-Id": "q"}
            assert (await g.client.post("/models/m/invocations", json=body, headers=headers)).status_code == 200
            await mirrored(g, 1)
            rows = await g.rows()
            sample = [f"q:{i}" for i in range(50) if in_share("s:mirror", f"q:{i}", 30.0)]
            assert [r["request_id"] for r in by_arm(rows, "challenger")] == sample
            assert [r["prediction"] for r in by_arm(rows, "challenger")] == [str(2 * int(i[2:])) for i in sample]
            assert {facts(r)[:4] for r in by_arm(rows, "champion")} == {("champion", "champion", "1", True)}
            assert len(by_arm(rows, "champion")) == 50

    asyncio.run(run())


def test_before_a_stage_is_open_nothing_is_mirrored_and_no_row_counts(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(shadow(rollout, stage=None))
            await g.routes_by(2)
            assert (await g.score(request_id="a")).status_code == 200
            (row,) = await g.rows()
            assert facts(row)[:4] == (None, "champion", "1", True)
            assert g.mirror.status() == {"waiting": 0, "mirrored": 0, "dropped": 0}

    asyncio.run(run())


def test_a_request_that_the_champion_fails_on_is_mirrored_all_the_same(gateway: Start, rollout: Any) -> None:
    """Or the challenger would be judged on easier requests than the champion."""

    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["9"] = lambda data: data["x"] / "no number"
            g.set(Traffic("m", "9", "2", 0.0, 0.0, "r1", 0, "s", revision=2, mirror_percent=100.0))
            await g.routes_by(2)
            assert (await g.score(1.0)).status_code == 500
            await mirrored(g, 1)
            champion, challenger = await g.rows()
            assert facts(champion)[:5] == ("champion", "champion", "9", False, "error")
            assert facts(challenger)[:5] == ("challenger", "challenger", "2", False, "ok")

    asyncio.run(run())


def raises(data: Any) -> Any:
    raise ValueError("the challenger is broken")


FAILS: dict[str, tuple[Any, tuple[Column, ...], str]] = {
    "raises": (raises, (Column("x", "double"),), "ValueError: the challenger is broken"),
    "NaN": (lambda d: np.full(len(d), np.nan), (Column("x", "double"),), "not a number"),
    "one too many": (lambda d: np.zeros(len(d) + 1), (Column("x", "double"),), "2 answers, must be 1"),
    "wants more": (None, (Column("x", "double"), Column("extra", "double")), "missing inputs ['extra']"),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_challenger_that_fails_unseen_is_logged_as_an_error(gateway: Start, rollout: Any, name: str) -> None:
    async def run() -> None:
        predict, columns, says = FAILS[name]
        async with gateway() as g:
            if predict:
                g.models.predicts["2"] = predict
            g.models.columns["2"] = columns
            g.set(shadow(rollout))
            await g.routes_by(2)
            assert (await g.score(1.0)).json() == {"predictions": [2.0]}
            await mirrored(g, 1)
            (failed,) = by_arm(await g.rows(), "challenger")
            assert facts(failed) == ("challenger", "challenger", "2", False, "error", None)
            assert says in failed["error"]
            assert failed["features"] == ({} if name == "wants more" else {"x": 1.0})
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 1, "dropped": 0}

    asyncio.run(run())


def test_a_challenger_reads_the_request_by_its_own_signature_away_from_the_callers_path(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        threads: list[str] = []
        async with gateway() as g:
            g.models.columns["2"] = (Column("x", "float"), Column("n", "long", required=False))
            g.models.predicts["2"] = lambda data: np.asarray(data["x"], dtype="float64")
            g.set(shadow(rollout))
            await g.routes_by(2)
            reader = g.follower.serving("m").challenger.reader
            read = type(reader).read

            def watched(self: Any, *args: Any) -> Any:
                if self is reader:
                    threads.append(threading.current_thread().name)
                return read(self, *args)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(reader), "read", watched)
                assert (await g.score(0.1)).json() == {"predictions": [0.2]}
                assert threads == []
                await mirrored(g, 1)
            assert [name.startswith("mirror") for name in threads] == [True]
            (row,) = by_arm(await g.rows(), "challenger")
            assert row["prediction"] == repr(float(np.float32(0.1)))

    asyncio.run(run())


def test_a_challenger_that_hangs_leaves_callers_untouched_and_is_seen_to_time_out(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        free, limit = threading.Event(), 2.0
        async with gateway(mirror_timeout_seconds=limit, mirror_queue=8) as g:
            g.models.predicts["2"] = lambda data: free.wait(20)
            g.set(shadow(rollout))
            await g.routes_by(2)
            seconds = []
            for i in range(200):
                began = time.perf_counter()
                assert (await g.score(1.0, request_id=f"r{i}")).json() == {"predictions": [2.0]}
                seconds.append(time.perf_counter() - began)
            assert sorted(seconds)[-3] < limit / 4, "nobody waited for the time limit"
            await mirrored(g, 200)
            free.set()
            timed_out = by_arm(await g.rows(), "challenger")
            assert len(timed_out) >= 16
            assert {r["status"] for r in timed_out} == {"timeout"}
            waited = [r for r in timed_out if r["error"].startswith("no answer within")]
            assert len(waited) >= 16
            assert all(r["latency_ms"] >= limit * 1000 for r in waited)
            assert g.mirror.status("m") == {
                "waiting": 0,
                "mirrored": len(timed_out),
                "dropped": 200 - len(timed_out),
            }

    asyncio.run(run())


def test_a_reader_that_hangs_is_the_challengers_timeout_and_what_waits_behind_it_is_dropped(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        free = threading.Event()
        async with gateway(mirror_timeout_seconds=0.2) as g:
            g.models.columns["2"] = (Column("x", "float"),)
            g.set(shadow(rollout))
            await g.routes_by(2)
            reader = g.follower.serving("m").challenger.reader
            read = type(reader).read
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    type(reader), "read", lambda self, *a: free.wait(10) if self is reader else read(self, *a)
                )
                answers = await asyncio.gather(*[g.score(1.0) for _ in range(5)])
                assert [a.json() for a in answers] == [{"predictions": [2.0]}] * 5
                await mirrored(g, 5)
                free.set()
            (failed,) = by_arm(await g.rows(), "challenger")
            assert (failed["status"], failed["error"]) == ("timeout", "the input was not read within 0.2 s")
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 1, "dropped": 4}

    asyncio.run(run())


def held_back(g: Any) -> threading.Event:
    """Version 2 answers once the event is set."""
    free = threading.Event()
    g.models.predicts["2"] = lambda data: free.wait(10) and np.asarray(data["x"])
    return free


ENDS: dict[str, Callable[[Any], Traffic]] = {
    "rollback": lambda _: Traffic("m", "1", revision=3),
    "cut-over": lambda _: Traffic("m", "2", previous="1", revision=3),
    "the next stage": lambda rollout: rollout(50.0, revision=3, stage=1),
    "another challenger": lambda rollout: shadow(rollout, revision=3, challenger="3"),
    "another rollout": lambda rollout: shadow(rollout, revision=3, rollout_id="r2"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_waits_is_dropped_once_the_traffic_has_moved_on(gateway: Start, rollout: Any, name: str) -> None:
    async def run() -> None:
        async with gateway(mirror_timeout_seconds=5) as g:
            free = held_back(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            for i in range(30):
                assert (await g.score(1.0, request_id=f"r{i}")).status_code == 200
            assert g.mirror.status("m")["waiting"] == 30 - 16
            g.set(ENDS[name](rollout))
            await g.routes_by(3)
            free.set()
            await mirrored(g, 30)
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 16, "dropped": 14}
            assert len(by_arm(await g.rows(), "challenger")) == 16, "what had begun before"

    asyncio.run(run())


def test_a_stage_that_is_held_or_cleared_goes_on_being_mirrored(gateway: Start, rollout: Any) -> None:
    """A row that differs in its revision and its previous version only is the same traffic."""

    async def run() -> None:
        async with gateway(mirror_timeout_seconds=5) as g:
            free = held_back(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            for _ in range(20):
                await g.score(1.0)
            g.set(shadow(rollout, revision=3, previous="1"))
            await g.routes_by(3)
            free.set()
            await mirrored(g, 20)
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 20, "dropped": 0}

    asyncio.run(run())


def test_what_has_waited_too_long_to_count_is_dropped(
    gateway: Start, rollout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_MOST_WAIT_SECONDS", 0.1)

    async def run() -> None:
        async with gateway(mirror_timeout_seconds=5) as g:
            free = held_back(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            for _ in range(20):
                await g.score(1.0)
            await asyncio.sleep(0.15)  # nothing happens here but time
            free.set()
            await mirrored(g, 20)
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 16, "dropped": 4}

    asyncio.run(run())


def test_the_queue_is_bounded_by_requests_and_by_bytes_and_drops_are_counted_by_model(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        for bounds, room in ({"mirror_queue": 5}, 5), ({"max_mirror_bytes": 1024}, 1024 // 34):
            async with gateway(mirror_timeout_seconds=5, **bounds) as g:
                free = held_back(g)
                g.set(shadow(rollout))
                await g.routes_by(2)
                assert len(b'{"dataframe_records":[{"x":1.0}]}') <= 34
                for _ in range(16 + room + 30):
                    assert (await g.score(1.0)).status_code == 200
                waits = {"waiting": room, "mirrored": 0, "dropped": 30}
                if "mirror_queue" in bounds:
                    assert g.mirror.status("m") == waits
                else:
                    assert 0 < g.mirror.status("m")["waiting"] <= 1024 // 30
                    assert g.mirror.status("m")["dropped"] > 20
                assert g.mirror.status("n") == {"waiting": 0, "mirrored": 0, "dropped": 0}
                everything = (await g.client.get("/status")).json()
                assert everything["mirror"] == everything["models"]["m"]["mirror"] == g.mirror.status("m")
                free.set()

    asyncio.run(run())


def test_when_the_spool_fills_up_mirroring_stops_while_callers_are_still_answered(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(max_spool_bytes=1_048_576) as g:
            g.set(shadow(rollout))
            await g.routes_by(2)
            g.writer.away = True
            body = {"dataframe_records": [{"x": 1.0, "n": 1}] * 100}
            refused_at = None
            for i in range(200):
                status = (await g.client.post("/models/m/invocations", json=body)).status_code
                await g.happens(lambda: not g.mirror.status("m")["waiting"])
                if status == 503:
                    refused_at = i
                    break
            assert refused_at is not None
            status = g.mirror.status("m")
            assert status["dropped"] >= 3
            assert status["mirrored"] + status["dropped"] == refused_at
            g.writer.away = False
            rows = await g.rows()
            assert len(by_arm(rows, "champion")) == 100 * refused_at, "every answer that was given is in the log"

    asyncio.run(run())


def test_what_waits_when_the_spool_fills_up_is_dropped_and_nothing_more_may_wait(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(max_spool_bytes=1_048_576, mirror_timeout_seconds=10) as g:
            free = held_back(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            for _ in range(17):  # sixteen are in flight, one waits
                await g.score(1.0)
            await g.happens(lambda: g.mirror.status("m")["waiting"] == 1)
            body = {"dataframe_records": [{"x": 1.0, "n": 1}] * 100}
            while not g.spool.nearly_full:
                assert (await g.client.post("/models/m/invocations", json=body)).status_code == 200
            before = g.mirror.status("m")
            assert before["waiting"] > 1
            assert (await g.score(1.0)).status_code == 200
            assert g.mirror.status("m") == before | {"dropped": before["dropped"] + 1}
            free.set()
            await mirrored(g, 16 + before["waiting"] + before["dropped"] + 1)
            status = g.mirror.status("m")
            assert (status["mirrored"], status["dropped"]) == (16, before["waiting"] + before["dropped"] + 1)

    asyncio.run(run())


def test_while_callers_wait_for_the_champion_nothing_is_mirrored(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(max_batch_rows=4, mirror_timeout_seconds=10) as g:
            busy, entered = threading.Event(), threading.Event()

            def champion(data: Any) -> Any:
                if len(data) > 1:
                    entered.set()
                    assert busy.wait(10)
                return np.asarray(data["x"]) * 2

            g.models.predicts["7"] = champion
            free = held_back(g)
            g.set(Traffic("m", "7", "2", 0.0, 0.0, "r1", 0, "s", revision=2, mirror_percent=100.0))
            await g.routes_by(2)
            for _ in range(17):  # sixteen are in flight, one waits
                await g.score(1.0)
            two = {"dataframe_records": [{"x": 1.0}] * 2}
            callers = [asyncio.create_task(g.client.post("/models/m/invocations", json=two))]
            await asyncio.to_thread(entered.wait, 5)
            callers += [asyncio.create_task(g.client.post("/models/m/invocations", json=two)) for _ in range(3)]
            await g.happens(lambda: g.follower.serving("m").champion.scorer.waiting_rows > 4)
            free.set()
            await g.happens(lambda: not g.mirror.status("m")["waiting"])
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 16, "dropped": 1}
            busy.set()
            assert [(await c).status_code for c in callers] == [200] * 4

    asyncio.run(run())


def test_what_is_too_much_for_the_challenger_because_it_is_mirrored_is_dropped_and_no_failure(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        async with gateway(mirror_timeout_seconds=5) as g:
            free, entered = threading.Event(), threading.Event()
            g.models.predicts["2"] = lambda data: entered.set() or (free.wait(10) and np.asarray(data["x"]))
            g.models.room["2"] = 2
            g.set(shadow(rollout))
            await g.routes_by(2)
            await g.score(1.0)
            await g.happens(entered.is_set)
            for _ in range(9):
                await g.score(1.0)
            await mirrored(g, 7)  # one is scored, two wait for it
            free.set()
            await mirrored(g, 10)
            assert {r["status"] for r in by_arm(await g.rows(), "challenger")} == {"ok"}
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 3, "dropped": 7}

    asyncio.run(run())


def test_at_its_end_the_process_waits_for_the_mirror_no_longer_than_it_may(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(mirror_timeout_seconds=30) as g:
            free = held_back(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            for _ in range(20):
                await g.score(1.0)
            began = time.monotonic()
            await g.mirror.close(0.1)
            assert time.monotonic() - began < 2
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 0, "dropped": 20}
            free.set()

    asyncio.run(run())


@pytest.mark.parametrize(("share", "answers", "scores_too"), [(100.0, "2", "1"), (0.0, "1", "2")])
def test_a_second_score_is_as_late_as_it_would_have_been_as_the_answer(
    gateway: Start, rollout: Any, share: float, answers: str, scores_too: str
) -> None:
    """Or a busy gateway would make the version that callers wait for look slower than the other."""

    async def run() -> None:
        async with gateway(challenger_timeout_seconds=10.0, champion_timeout_seconds=10.0) as g:
            busy, entered = threading.Event(), threading.Event()

            def slow(data: Any) -> Any:
                if (data["x"] == 1).any():
                    entered.set()
                    assert busy.wait(10)
                return data["x"].to_numpy() * 2

            def steady(data: Any) -> Any:
                time.sleep(0.05)
                return data["x"].to_numpy() * 2

            names = {"1": "7", "2": "2"}  # the first champion is loaded before the test says what it does
            g.models.predicts[names[answers]], g.models.predicts[names[scores_too]] = slow, steady
            percent = {"mirror_percent": 100.0} if share == 0 else {}
            control = 0.0 if share == 0 else 50.0
            a, b = [name for name in map(str, range(20)) if in_share("s:control", name, 50.0)][:2]
            g.set(Traffic("m", "7", "2", share, control, "r1", 0, "s", revision=2, **percent))
            await g.routes_by(2)
            first = asyncio.create_task(g.score(1.0, request_id=a))
            await g.happens(entered.is_set)
            second = asyncio.create_task(g.score(2.0, request_id=b))
            await asyncio.sleep(0.4)  # the time that the second one waits for its turn
            busy.set()
            assert [(await each).status_code for each in (first, second)] == [200, 200]
            await mirrored(g, 2)
            answered, scored = {}, {}
            for row in await g.rows():
                (answered if row["served"] else scored)[row["request_id"]] = row["latency_ms"]
            assert min(answered.values()) > 400
            assert 50 <= scored[a] < 350, "it would have had no call to wait for but its own"
            assert answered[b] + 40 < scored[b] < answered[b] + 350, "its turn would have come as late"

    asyncio.run(run())


# --- versions that are known to be quick


def counted(g: Any, predict: Any = None) -> list[int]:
    """Version 2 is quick; the rows of each of its calls."""
    calls: list[int] = []

    def noted(data: Any) -> Any:
        calls.append(len(data))
        return predict(data) if predict else data["x"].to_numpy() * 100

    g.models.predicts["2"], g.models.quick["2"] = noted, 64
    return calls


def test_what_came_in_a_moment_is_scored_in_one_call_and_logged_with_one_write(
    gateway: Start, rollout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with gateway() as g:
            calls = counted(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            writes: list[int] = []
            append = g.mirror._sink.append
            monkeypatch.setattr(
                g.mirror._sink,
                "append",
                lambda *a: writes.append(len(a[2])) or append(*a) if not a[2][0]["served"] else append(*a),
            )
            three = {"dataframe_records": [{"x": 0.5}, {"x": 0.25}, {"x": 0.125}]}
            asked = [g.score(float(i), unit=f"u{i}", request_id=f"q{i}") for i in range(20)]
            many = g.client.post("/models/m/invocations", json=three, headers={"X-Request-Id": "many"})
            assert {a.status_code for a in await asyncio.gather(*asked, many)} == {200}
            await mirrored(g, 21)
            challenger = {r["request_id"]: r for r in by_arm(await g.rows(), "challenger")}
            assert {i: r["prediction"] for i, r in challenger.items()} == {
                **{f"q{i}": str(100 * i) for i in range(20)},
                **{"many:0": "50", "many:1": "25", "many:2": "12.5"},
            }
            for i in range(20):
                assert facts(challenger[f"q{i}"])[:5] == ("challenger", "challenger", "2", False, "ok")
                assert (challenger[f"q{i}"]["unit_id"], challenger[f"q{i}"]["features"]) == (f"u{i}", {"x": float(i)})
            assert sum(calls) == sum(writes) == 23
            assert len(calls) == len(writes) < 10
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 21, "dropped": 0}

    asyncio.run(run())


def test_a_row_that_a_quick_version_fails_on_fails_alone(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            calls = counted(g, lambda data: raises(data) if (data["x"] == 3).any() else data["x"].to_numpy())
            g.set(shadow(rollout))
            await g.routes_by(2)
            await asyncio.gather(*[g.score(float(i), request_id=f"q{i}") for i in range(8)])
            await mirrored(g, 8)
            statuses = {r["request_id"]: r["status"] for r in by_arm(await g.rows(), "challenger")}
            assert statuses == {f"q{i}": "error" if i == 3 else "ok" for i in range(8)}
            assert max(calls) > 1

    asyncio.run(run())


def test_requests_that_a_quick_version_can_not_score_together_are_scored_apart(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            calls = counted(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            bodies = [
                {"dataframe_records": [{"x": 1.0}]},
                {"dataframe_records": [{"x": 2.0, "n": 1}]},
                {"dataframe_records": [{"x": 3.0}], "params": {"a": 1}},
                {"dataframe_records": [{"x": 4.0}] * 65},  # more than is known to be quick
            ]
            asked = [g.client.post("/models/m/invocations", json=body) for body in bodies]
            assert {a.status_code for a in await asyncio.gather(*asked)} == {200}
            await mirrored(g, 4)
            assert sorted(calls) == [1, 1, 1, 65]
            assert [r["status"] for r in by_arm(await g.rows(), "challenger")] == ["ok"] * 68

    asyncio.run(run())


@pytest.mark.parametrize("name", ENDS)
def test_what_was_gathered_is_dropped_once_the_traffic_has_moved_on(
    gateway: Start, rollout: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.gathering._MOMENT_SECONDS", 1.0)

    async def run() -> None:
        async with gateway() as g:
            calls = counted(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            await asyncio.gather(*[g.score(1.0) for _ in range(5)])
            assert g.mirror.status("m")["waiting"] == 5
            g.set(ENDS[name](rollout))
            await g.routes_by(3)
            await mirrored(g, 5)
            assert g.mirror.status("m") == {"waiting": 0, "mirrored": 0, "dropped": 5}
            assert calls == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("seconds", "counts"), [(5.0, {"mirrored": 3, "dropped": 2}), (0.05, {"mirrored": 0, "dropped": 5})]
)
def test_what_is_gathered_is_bounded_and_done_before_the_process_ends(
    gateway: Start, rollout: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, counts: dict[str, int]
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.gathering._MOMENT_SECONDS", 0.5)

    async def run() -> None:
        async with gateway(mirror_queue=3) as g:
            counted(g)
            g.set(shadow(rollout))
            await g.routes_by(2)
            await asyncio.gather(*[g.score(1.0) for _ in range(5)])
            assert g.mirror.status("m") == {"waiting": 3, "mirrored": 0, "dropped": 2}
            await g.mirror.close(seconds)
            assert g.mirror.status("m") == {"waiting": 0, **counts}
            assert len(by_arm(await g.rows(), "challenger")) == counts["mirrored"]

    asyncio.run(run())
