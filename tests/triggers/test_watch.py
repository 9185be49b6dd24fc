import asyncio
import contextvars
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

from structlog.contextvars import get_contextvars

from model_rollouts import wiring
from model_rollouts.core.decision import Verdict
from model_rollouts.core.rollout import State
from model_rollouts.logs import about
from model_rollouts.triggers import watch
from model_rollouts.triggers.watch import Looked, WatchTrigger
from model_rollouts.triggers.workers import Workers


def test_serialize_gives_exactly_what_makes_the_trigger_again():
    path, arguments = WatchTrigger(rollout_id="r-1", stage=2, poll_seconds=0.5).serialize()
    assert path == f"{WatchTrigger.__module__}.{WatchTrigger.__qualname__}"
    assert arguments == {"rollout_id": "r-1", "stage": 2, "poll_seconds": 0.5, "held": False, "after": False}
    again = WatchTrigger(**arguments)
    assert again.serialize() == (path, arguments)


def run(trigger: WatchTrigger) -> list[dict]:
    async def collect() -> list[dict]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), timeout=10))


def test_fires_once_when_there_is_a_verdict(monkeypatch):
    found = iter([Looked(), Looked(), Looked({"decision": {"verdict": "fail"}})])
    asked = []

    def look(rollout_id, stage, held, after):
        asked.append((rollout_id, stage))
        return next(found)

    monkeypatch.setattr(watch, "look_once", look)
    assert run(WatchTrigger("r-1", 2, 0.01)) == [{"decision": {"verdict": "fail"}}]
    assert asked == [("r-1", 2)] * 3


def test_looking_does_not_block_the_event_loop(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(
        watch, "look_once", lambda *_: Looked({"ended": "rolled_back"} if gate.wait(5) else {"ended": "too late"})
    )

    async def main() -> list[dict]:
        events: list[dict] = []

        async def fire() -> None:
            events.extend([event.payload async for event in WatchTrigger("r", 0, 0.01).run()])

        task = asyncio.create_task(fire())
        await asyncio.sleep(0)
        gate.set()  # only reached while look_once waits in its thread
        await asyncio.wait_for(task, 5)
        return events

    assert asyncio.run(main()) == [{"ended": "rolled_back"}]


def of_service(monkeypatch, threads=2, **parts):
    service = SimpleNamespace(**parts)
    shared = SimpleNamespace(service=service, settings=SimpleNamespace(watch_threads=threads))
    monkeypatch.setattr(wiring, "shared", lambda: shared)


def test_a_store_that_is_away_is_asked_again(monkeypatch):
    answers = [OSError("store is away"), SimpleNamespace(state=State.ROLLED_BACK, stage=0)]

    def rollout(_):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    of_service(monkeypatch, store=SimpleNamespace(rollout=rollout))
    assert run(WatchTrigger("r", 0, 0.01)) == [{"ended": "rolled_back", "stage": 0}]
    assert answers == []


def test_the_next_look_is_made_when_it_is_due_and_not_when_the_poll_comes_round(monkeypatch):
    due = time.time() + 0.4
    found = iter([Looked(None, due, 1), Looked({"ended": "promoted"})])
    times = []

    def look(*_):
        times.append(time.time())
        return next(found)

    monkeypatch.setattr(watch, "look_once", look)
    asked = []
    monkeypatch.setattr(watch, "moved", lambda *args: bool(asked.append(args)))

    assert run(WatchTrigger("r", 0, 60.0)) == [{"ended": "promoted"}]
    assert 0 <= times[1] - due < 0.3
    assert asked == []  # it was due before the first question


def test_what_somebody_does_meanwhile_is_seen_at_the_poll(monkeypatch):
    far = time.time() + 3600
    found = iter([Looked(None, far, 7), Looked({"ended": "rolled_back"})])
    monkeypatch.setattr(watch, "look_once", lambda *_: next(found))
    answers = iter([7, OSError("the store is away"), 8])

    def rollout(_):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return SimpleNamespace(revision=answer)

    of_service(monkeypatch, store=SimpleNamespace(rollout=rollout))
    assert run(WatchTrigger("r", 0, 0.02)) == [{"ended": "rolled_back"}]
    assert next(answers, None) is None


def test_a_clock_that_is_set_forward_does_not_keep_a_look_waiting(monkeypatch):
    start = time.time()
    found = iter([Looked(None, start + 3600, 7), Looked({"ended": "promoted"})])
    monkeypatch.setattr(watch, "look_once", lambda *_: next(found))
    ticks = iter([start, start + 7200])
    monkeypatch.setattr(watch, "time", SimpleNamespace(time=lambda: next(ticks)))
    monkeypatch.setattr(watch, "moved", lambda *_: False)

    assert run(WatchTrigger("r", 0, 0.02)) == [{"ended": "promoted"}]


def test_a_look_tells_when_the_next_one_is_due_and_a_log_that_is_away_is_tried_at_the_poll(monkeypatch):
    due = datetime(2026, 5, 1, tzinfo=UTC)
    rollout = SimpleNamespace(state=State.BAKING, stage=0, revision=4)
    wait = SimpleNamespace(verdict=Verdict.WAIT, unreadable="", waits_for="")
    answers = iter([(wait, due), (wait, None)])
    of_service(monkeypatch, store=SimpleNamespace(rollout=lambda _: rollout), look_ahead=lambda _: next(answers))

    assert watch.look_once("r", 0) == Looked(None, due.timestamp(), 4)
    assert watch.look_once("r", 0) == Looked(None, None, 4)


def test_looks_are_made_in_turn_by_a_few_threads_and_questions_do_not_wait_behind_them():
    gate, running, most, order = threading.Event(), [0], [0], []

    def slow(number):
        running[0] += 1
        most[0] = max(most[0], running[0])
        order.append(number)
        assert gate.wait(10)
        running[0] -= 1

    async def main():
        workers = Workers(2)
        looks = [asyncio.ensure_future(workers.look(slow, number)) for number in range(8)]
        await asyncio.wait_for(workers.ask(lambda: None), 5)  # both threads are taken
        gate.set()
        await asyncio.gather(*looks)

    asyncio.run(main())
    assert most == [2]
    assert sorted(order) == list(range(8))
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))  # two begin at the same moment


def test_a_triggerer_that_has_just_started_leaves_a_thread_to_what_is_due():
    gate = threading.Event()

    async def main():
        workers = Workers(3)
        first = [asyncio.ensure_future(workers.first_look(gate.wait, 10)) for _ in range(20)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(workers.look(lambda: "made"), 5) == "made"
        gate.set()
        assert await asyncio.gather(*first) == [True] * 20

    asyncio.run(main())


def test_what_a_thread_logs_belongs_to_its_trigger():
    """Airflow knows by the context whose log a line belongs to."""

    async def main():
        with about(trigger_id=7):
            return await Workers(2).look(get_contextvars)

    # what tests before this one have bound is not of this context
    assert contextvars.Context().run(asyncio.run, main()) == {"trigger_id": 7}
