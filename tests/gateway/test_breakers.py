"""A challenger that fails in a burst is out at once, and the rollout with it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

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
