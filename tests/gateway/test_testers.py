"""Testers choose the arm; nobody else does, and nothing of it is evidence."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.front import Front
from model_rollouts.gateway.settings import GatewaySettings

Start = Callable[..., Any]
TOKEN = "let-me-in-0123456789"


async def ask(g: Any, arm: str, token: str | None = TOKEN) -> Any:
    headers = {"X-Rollouts-Route": arm} | ({"X-Rollouts-Token": token} if token is not None else {})
    body = {"dataframe_records": [{"x": 1.0}]}
    return await g.client.post("/models/m/invocations", json=body, headers=headers)


@pytest.mark.parametrize(("share", "arm", "version"), [(1.0, "challenger", "2"), (100.0, "champion", "1")])
def test_the_arm_that_was_asked_for_answers_and_is_no_evidence(
    gateway: Start, rollout: Any, share: float, arm: str, version: str
) -> None:
    async def run() -> None:
        async with gateway(tester_token=TOKEN) as g:
            g.set(rollout(share, control_percent=50.0 if share == 100 else 0.0))
            await g.routes_by(2)
            answers = [await ask(g, arm) for _ in range(20)]
            assert {a.headers["x-model-version"] for a in answers} == {version}
            rows = await g.rows()
            assert {(r["arm"], r["cohort"], r["served"]) for r in rows} == {(arm, None, True)}
            assert len(rows) == 20

    asyncio.run(run())


@pytest.mark.parametrize("token", [None, "", "let-me-in", TOKEN + "x"])
def test_without_the_token_nobody_chooses(gateway: Start, rollout: Any, token: str | None) -> None:
    async def run() -> None:
        async with gateway(tester_token=TOKEN) as g:
            g.set(rollout(50.0))
            await g.routes_by(2)
            answer = await ask(g, "challenger", token)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
            assert await g.rows() == []

    asyncio.run(run())


def test_without_a_setting_no_token_is_good(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(50.0))
            await g.routes_by(2)
            assert (await ask(g, "challenger")).status_code == 401

    asyncio.run(run())


@pytest.mark.parametrize("token", ["", " " * 16, "fifteen-letters"])
def test_a_token_that_is_short_or_empty_is_no_setting(token: str) -> None:
    with pytest.raises(ValueError, match=r"token has \d+ characters, must have 16 or more; set a random text"):
        GatewaySettings(tester_token=token)
    assert GatewaySettings(tester_token="sixteen-letters-").tester_token is not None


def test_a_token_that_is_empty_all_the_same_is_nobodys(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            loose = g.settings.model_copy(update={"tester_token": SecretStr(""), "gateway_token": SecretStr("")})
            g.set(rollout(50.0))
            await g.routes_by(2)
            untold = loose.model_copy(update={"gateway_token": None})
            front, open_front = (
                Front(g.app.inner, g.app._plane, g.follower, g.recorder, each, Callers.of(each))
                for each in (loose, untold)
            )
            for app, headers in ((front, {"Authorization": "Bearer "}), (open_front, {})):
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://g") as client:
                    asked = {"X-Rollouts-Route": "challenger", "X-Rollouts-Token": ""} | headers
                    answer = await client.post("/models/m/invocations", content=b"{}", headers=asked)
                    assert answer.status_code == 401
            assert await g.rows() == []

    asyncio.run(run())


def test_an_arm_that_there_is_not_is_refused(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(tester_token=TOKEN) as g:
            assert (await ask(g, "previous")).status_code == 400
            answer = await ask(g, "challenger")
            assert answer.status_code == 404
            assert "no challenger of m is ready" in answer.json()["message"]

    asyncio.run(run())


def test_testers_failures_do_not_trip_the_breaker(gateway: Start, rollout: Any) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("broken")

    async def run() -> None:
        async with gateway(tester_token=TOKEN, breaker_failures=2) as g:
            g.models.predicts["2"] = fails
            g.set(rollout(1.0))
            await g.routes_by(2)
            answers = [await ask(g, "challenger") for _ in range(5)]
            assert {(a.status_code, a.headers["x-model-version"]) for a in answers} == {(200, "1")}
            assert g.reports == []

    asyncio.run(run())
