import asyncio

from model_rollouts.triggers import watch
from model_rollouts.triggers.watch import WatchTrigger


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
    found = iter([None, None, {"decision": {"verdict": "fail"}}])
    asked = []

    def look(rollout_id, stage, held, after):
        asked.append((rollout_id, stage))
        return next(found)

    monkeypatch.setattr(watch, "look_once", look)
    assert run(WatchTrigger("r-1", 2, 0.01)) == [{"decision": {"verdict": "fail"}}]
    assert asked == [("r-1", 2)] * 3


def test_looking_does_not_block_the_event_loop(monkeypatch):
    import threading

    gate = threading.Event()
    monkeypatch.setattr(watch, "look_once", lambda *_: gate.wait(5) and {"ended": "rolled_back"})

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


def test_a_store_that_is_away_is_asked_again(monkeypatch):
    from types import SimpleNamespace

    from model_rollouts import wiring
    from model_rollouts.core.rollout import State

    answers = [OSError("store is away"), SimpleNamespace(state=State.ROLLED_BACK, stage=0)]

    def rollout(_):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    store = SimpleNamespace(rollout=rollout)
    monkeypatch.setattr(wiring, "shared", lambda: SimpleNamespace(service=SimpleNamespace(store=store)))
    assert run(WatchTrigger("r", 0, 0.01)) == [{"ended": "rolled_back", "stage": 0}]
    assert answers == []
