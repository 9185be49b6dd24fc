"""Micro-batching: what is scored together, what fails alone, what is bounded."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.payload import Column, Payload, Table
from model_rollouts.gateway.scorer import MicroBatcher

X, N = Column("x", "double"), Column("n", "long", required=False)


def table(*values: float, columns: tuple[Column, ...] = (X,)) -> Table:
    return Table(columns, [[value] * len(columns) for value in values])


class Model:
    """Doubles x; can be held in its first call, and remembers every call."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def __call__(self, payload: Payload, params: Any) -> Any:
        data = payload.data()
        self.calls.append(len(data))
        self.entered.set()
        assert self.free.wait(10)
        if (data["x"] == 13).any():
            raise ValueError("13 is unlucky")
        if (data["x"] == 99).any():
            raise SystemExit(1)
        if (data["x"] == 77).any():
            return np.zeros(len(data) + 1)
        return np.asarray(data["x"]) * 2


def texts(results: Sequence[Answer | Failure]) -> list[str]:
    return [r.prediction if isinstance(r, Answer) else f"{r.status}: {r.error}" for r in results]


async def while_busy(model: Model, scorer: MicroBatcher) -> "asyncio.Task[Any]":
    """Occupy the worker with one call."""
    model.free.clear()
    model.entered.clear()
    task = asyncio.create_task(scorer.score(table(1000), {}, 10))
    await asyncio.to_thread(model.entered.wait, 5)
    return task


def test_what_waits_is_scored_in_one_call_and_answered_as_if_alone() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 64, 256)
        first = await while_busy(model, scorer)
        waiting = [asyncio.create_task(scorer.score(table(100 + i, 0.5), {}, 5)) for i in range(20)]
        await asyncio.sleep(0)
        model.free.set()
        assert texts(await first) == ["2000"]
        for i, results in enumerate(await asyncio.gather(*waiting)):
            assert texts(results) == [str(200 + i * 2), "1"]
        assert model.calls == [1, 40]

    asyncio.run(run())


def test_a_call_holds_no_more_rows_than_the_limit_and_one_set_of_columns() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 4, 256)
        first = await while_busy(model, scorer)
        jobs = [table(1, 2), table(3, 4), table(5), table(6, columns=(X, N)), *(table(*range(6)),)]
        waiting = [asyncio.create_task(scorer.score(job, {}, 5)) for job in jobs]
        with_params = asyncio.create_task(scorer.score(table(8), {"t": 1}, 5))
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, with_params, *waiting)
        assert model.calls == [1, 4, 1, 1, 6, 1]

    asyncio.run(run())


@pytest.mark.parametrize(("bad", "says"), [(13, "13 is unlucky"), (99, "SystemExit"), (77, "2 answers, must be 1")])
def test_a_bad_row_fails_alone(bad: float, says: str) -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 64, 256)
        first = await while_busy(model, scorer)
        waiting = [asyncio.create_task(scorer.score(t, {}, 5)) for t in (table(1, bad, 2), table(3))]
        await asyncio.sleep(0)
        model.free.set()
        await first
        (one, failed, two), (three,) = await asyncio.gather(*waiting)
        assert texts([one, two, three]) == ["2", "4", "6"]
        assert isinstance(failed, Failure)
        assert says in failed.error
        assert texts(await scorer.score(table(5), {}, 5)) == ["10"], "the worker lives on"

    asyncio.run(run())


def test_payloads_that_cannot_be_joined_fail_alone_and_the_worker_lives_on() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 64, 256)
        first = await while_busy(model, scorer)
        ragged = Table((X, N), [[1.0], [2.0]])  # a column without values
        whole = table(3, columns=(X, N))
        waiting = [asyncio.create_task(scorer.score(t, {}, 5)) for t in (ragged, whole)]
        await asyncio.sleep(0)
        model.free.set()
        await first
        failed, scored = await asyncio.gather(*waiting)
        assert [r.status for r in failed if isinstance(r, Failure)] == ["error", "error"]
        assert texts(scored) == ["6"]
        assert texts(await scorer.score(table(5), {}, 5)) == ["10"]

    asyncio.run(run())


def test_a_row_that_takes_too_long_times_out_and_leaves_the_queue() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 64, 3)
        first = await while_busy(model, scorer)
        assert texts(await scorer.score(table(1, 2), {}, 0.01)) == ["timeout: no answer within 0.01 s"] * 2
        late = asyncio.create_task(scorer.score(table(4, 5, 6), {}, 5))  # there is room again
        await asyncio.sleep(0)
        model.free.set()
        assert texts(await late) == ["8", "10", "12"]
        await first
        assert model.calls == [1, 3], "rows that nobody waits for are not scored"

    asyncio.run(run())


def test_a_stuck_model_gathers_a_bounded_queue() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 64, 10)
        first = await while_busy(model, scorer)
        waiting = [asyncio.create_task(scorer.score(table(i), {}, 5)) for i in range(25)]
        await asyncio.sleep(0.01)
        refused = [task.result()[0] for task in waiting if task.done()]
        assert len(refused) == 15
        assert all(isinstance(r, Failure) and r.overloaded and "overloaded" in r.error for r in refused)
        model.free.set()
        assert [len(r) for r in await asyncio.gather(first, *waiting)] == [1] * 26

    asyncio.run(run())


def test_a_version_that_is_dropped_while_it_scores_still_answers_and_is_then_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model_rollouts.gateway.scorer._IDLE_SECONDS", 0.01)

    async def run() -> "weakref.ref[Model]":
        model = Model()
        scorer = MicroBatcher(model, "dropped", 64, 10)
        task = await while_busy(model, scorer)
        del scorer
        model.free.set()
        assert texts(await task) == ["2000"]
        return weakref.ref(model)

    gone = asyncio.run(run())
    for thread in threading.enumerate():
        if thread.name == "score dropped":
            thread.join(5)
    gc.collect()
    assert gone() is None


def test_one_bad_row_of_many_costs_few_calls() -> None:
    async def run() -> None:
        model = Model()
        scorer = MicroBatcher(model, "m", 256, 1024)
        first = await while_busy(model, scorer)
        waiting = [asyncio.create_task(scorer.score(table(13 if i == 77 else i + 100), {}, 5)) for i in range(128)]
        await asyncio.sleep(0)
        model.free.set()
        await first
        results = [r for (r,) in await asyncio.gather(*waiting)]
        assert [i for i, r in enumerate(results) if isinstance(r, Failure)] == [77]
        assert len(model.calls) < 20

    asyncio.run(run())


def test_a_quick_model_is_called_on_the_loop_and_a_bad_row_sends_the_call_to_the_thread() -> None:
    async def run() -> None:
        threads: list[str] = []
        model = Model()

        def noted(payload: Payload, params: Any) -> Any:
            threads.append(threading.current_thread().name)
            return model(payload, params)

        scorer = MicroBatcher(noted, "m", 64, 256, inline_rows=8)
        assert texts(await scorer.score(table(1), {}, 5)) == ["2"]
        assert threads == ["MainThread"]
        results = await asyncio.gather(*(scorer.score(table(x), {}, 5) for x in (1, 13, 2, 3)))
        assert [texts(r)[0][:9] for r in results] == ["2", "error: Va", "4", "6"]
        assert set(threads[1:2]) == {"MainThread"}
        assert set(threads[2:]) == {"score m"}
        assert texts(await scorer.score(table(*range(20)), {}, 5))[19] == "38"
        assert threads[-1] == "score m", "too large for the loop"
        await asyncio.sleep(0.05)
        assert texts(await scorer.score(table(4), {}, 5)) == ["8"]
        assert threads[-1] == "MainThread", "and back"

    asyncio.run(run())


def test_a_model_is_never_called_by_two_at_once() -> None:
    async def run() -> None:
        inside, most = 0, 0
        lock = threading.Lock()

        def counted(payload: Payload, _: Any) -> Any:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.0005)
            with lock:
                inside -= 1
            if (payload.data()["x"] == 13).any():
                raise ValueError("13 is unlucky")
            return payload.data()["x"].to_numpy()

        scorer = MicroBatcher(counted, "m", 64, 4096, inline_rows=4)
        await asyncio.gather(
            *(scorer.score(table(*([13 if i % 7 == 0 else i] * (i % 6 + 1))), {}, 30) for i in range(300))
        )
        assert most == 1

    asyncio.run(run())


def test_without_room_for_a_thread_rows_time_out_and_the_next_try_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        scorer = MicroBatcher(Model(), "m", 64, 256)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_room)
            assert texts(await scorer.score(table(1), {}, 0.05)) == ["timeout: no answer within 0.05 s"]
        assert texts(await scorer.score(table(1), {}, 5)) == ["2"]

    asyncio.run(run())
