"""A challenger that fails in a burst is out at once, and the rollout with it."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.answers import Failure
from model_rollouts.gateway.breakers import Breakers

Start = Callable[..., Any]


def fails(frame: Any) -> Any:
    raise RuntimeError("broken")


def fails_on_13(frame: Any) -> Any:
    if (frame["x"] == 13).any():
        raise RuntimeError("13 is unlucky")
    return frame["x"].to_numpy() * 2


def test_a_burst_takes_the_challenger_out_and_reports_it_once(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=5) as g:
            g.models.predicts["2"] = fails
            g.set(rollout(100.0))
            await g.routes_by(2)
            answers = [await g.score(float(i), unit=f"u{i}") for i in range(9)]
            assert [a.json() for a in answers] == [{"predictions": [2.0 * i]} for i in range(9)]
            rows = await g.rows()
            asked = [r for r in rows if r["arm"] == "challenger"]
            assert [r["status"] for r in asked] == ["error"] * 5, "after the fifth nobody asks it"
            after = [r for r in rows if r["request_id"] not in {a["request_id"] for a in asked}]
            assert [(r["arm"], r["cohort"], r["served"]) for r in after] == [("champion", None, True)] * 4
            ((rollout_id, reason, evidence),) = g.reports
            assert rollout_id == "r1"
            assert "version 2 of m failed in a burst: 5 of its 5 live answers" in reason
            assert "broken" in reason
            assert evidence["breaker"] == {"calls": 5, "failures": 5, "burst": 5, "stage": 0, "share": 100.0}

    asyncio.run(run())


def test_an_input_that_the_champion_fails_on_too_says_nothing(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=3) as g:
            g.models.predicts["3"] = g.models.predicts["2"] = fails_on_13
            g.set(replace(rollout(100.0), champion="3"))
            await g.routes_by(2)
            assert [(await g.score(13.0, unit=f"u{i}")).status_code for i in range(6)] == [500] * 6
            assert g.reports == []
            assert [r["arm"] for r in await g.rows()] == ["challenger", "champion"] * 6, "it is still asked"

    asyncio.run(run())


def test_a_new_rollout_begins_with_a_closed_breaker(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=2) as g:
            g.models.predicts["2"] = lambda frame: np.full(len(frame), np.nan)
            g.set(rollout(100.0))
            await g.routes_by(2)
            for i in range(3):
                await g.score(1.0, unit=f"u{i}")
            g.set(rollout(100.0, revision=3, rollout_id="r2"))
            await g.routes_by(3)
            await g.score(1.0, unit="u")
            rows = await g.rows()
            assert [r["rollout_id"] for r in rows if r["arm"] == "challenger"] == ["r1", "r1", "r2"]

    asyncio.run(run())


def test_mirrored_failures_do_not_trip_it(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=2) as g:
            g.models.predicts["2"] = fails
            g.set(rollout(0.0, mirror_percent=100.0))
            await g.routes_by(2)
            for i in range(5):
                await g.score(1.0, unit=f"u{i}")
            await g.happens(lambda: g.mirror.status()["mirrored"] == 5)
            assert g.reports == []

    asyncio.run(run())


def test_a_request_of_many_rows_is_one_call(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=3) as g:
            g.models.predicts["2"] = fails
            g.set(rollout(100.0))
            await g.routes_by(2)
            body = {"dataframe_records": [{"x": float(i)} for i in range(50)]}
            for n in range(3):
                assert g.reports == [], f"after {n} requests"
                answer = await g.client.post("/models/m/invocations", json=body)
                assert answer.json() == {"predictions": [2.0 * i for i in range(50)]}
            assert len(g.reports) == 1
            assert g.reports[0][2]["breaker"]["calls"] == 3

    asyncio.run(run())


def test_a_request_that_fails_in_part_says_nothing(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=2) as g:
            g.models.predicts["2"] = fails_on_13
            g.set(rollout(100.0))
            await g.routes_by(2)
            for _ in range(5):
                await g.client.post("/models/m/invocations", json={"dataframe_records": [{"x": 13.0}, {"x": 1.0}]})
            assert g.reports == []

    asyncio.run(run())


def test_requests_that_one_stall_holds_up_are_one_failure(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(breaker_failures=3, challenger_timeout_seconds=0.1) as g:
            free = threading.Event()
            g.models.predicts["2"] = lambda frame: free.wait(10) and frame["x"].to_numpy() * 2
            g.set(rollout(100.0))
            await g.routes_by(2)
            answers = await asyncio.gather(*(g.score(1.0, unit=f"u{i}") for i in range(40)))
            assert {a.headers["x-model-version"] for a in answers} == {"1"}
            late = [await g.score(1.0, unit=f"v{i}") for i in range(20)]  # refused at once: it is stuck
            assert {a.headers["x-model-version"] for a in late} == {"1"}
            assert g.reports == []
            free.set()

    asyncio.run(run())


class Watched:
    """Breakers with a clock that the test turns."""

    def __init__(self, burst: int = 3) -> None:
        self.now = 0.0
        self.reports: list[Any] = []
        self.breakers = Breakers(burst, 1.0, lambda *report: self.reports.append(report), lambda: self.now)

    def fail(self, rollout_id: str, **more: Any) -> None:
        """One request that came and failed now."""
        self.now += 0.001
        taken, self.now = self.now, self.now + 0.001
        traffic = Traffic("m", "1", "2", 50.0, rollout_id=rollout_id, stage=0, salt="s")
        self.breakers.saw(traffic, taken, Failure("timeout", "slow", **more))


def test_a_version_that_stays_stuck_fails_once_in_so_many_seconds() -> None:
    watched = Watched()
    for _ in range(100):
        watched.fail("r1", overloaded=True)
    assert watched.reports == [], "a fifth of a second"
    while not watched.reports:
        watched.fail("r1", overloaded=True)
    assert 2.0 <= watched.now < 2.1


def test_many_rollouts_do_not_close_a_breaker_that_has_tripped() -> None:
    watched = Watched()
    for _ in range(3):
        watched.fail("r0")
    for number in range(1, 2000):
        watched.fail(f"r{number}")
    assert watched.breakers.tripped("r0")
    assert len(watched.breakers._watched) <= 1024
    for _ in range(3):
        watched.fail("r1999")
    assert watched.breakers.tripped("r1999")
