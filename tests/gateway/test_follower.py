"""Following the traffic table: what is in force, and when."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.errors import NotServingError, UnknownModelError


def test_a_challenger_gets_no_traffic_before_it_is_loaded(gateway: Callable[..., Any], rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            hold = g.models.held["2"] = threading.Event()
            g.set(rollout(100.0))
            await g.happens(lambda: g.follower.status("m")["routed_revision"] == 2)
            assert g.follower.status("m")["versions"] == {"1": "ready", "2": "loading"}
            answer = await g.score()
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
            hold.set()
            await g.routes_by(2)
            assert (await g.score()).headers["x-model-version"] == "2"
            first, second = await g.rows()
            assert (first["arm"], first["cohort"], first["rollout_id"]) == ("champion", None, "r1")
            assert (second["arm"], second["cohort"]) == ("challenger", "challenger")

    asyncio.run(run())


def test_a_challenger_is_called_ready_only_once_requests_are_routed_to_it(
    gateway: Callable[..., Any], rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            keeper = g.follower._keeper
            keeper._changed_callback = lambda: None  # loaded, and nobody was told yet
            g.set(rollout(100.0))
            await g.happens(lambda: keeper.get("m", "2") is not None)
            assert g.follower.status("m")["versions"] == {"1": "ready", "2": "loading"}
            assert (await g.score()).headers["x-model-version"] == "1"
            g.follower._loaded()
            assert g.follower.status("m")["versions"] == {"1": "ready", "2": "ready"}
            assert (await g.score()).headers["x-model-version"] == "2"

    asyncio.run(run())


def test_a_challenger_that_cannot_be_loaded_says_why_and_is_tried_again(
    gateway: Callable[..., Any], rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.errors["2"] = OSError("MLflow is away")
            g.set(rollout(100.0))
            await g.routes_by(2)
            assert g.follower.status("m")["versions"]["2"] == "failed: OSError: MLflow is away"
            assert (await g.score()).headers["x-model-version"] == "1"
            del g.models.errors["2"]
            await g.happens(lambda: g.follower.status("m")["versions"]["2"] == "ready")
            assert (await g.score()).headers["x-model-version"] == "2"

    asyncio.run(run())


def test_a_model_whose_code_exits_does_not_end_the_loader(gateway: Callable[..., Any], rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.errors["2"] = SystemExit(3)
            g.set(rollout(50.0))
            await g.routes_by(2)
            g.set(rollout(50.0, revision=3, challenger="5"))
            await g.routes_by(3)
            assert g.follower.status("m")["versions"]["5"] == "ready"

    asyncio.run(run())


def test_until_a_new_champion_is_loaded_the_last_state_stays_in_force(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            hold = g.models.held["9"] = threading.Event()
            g.set(Traffic("m", "9", previous="1", revision=4))
            await g.happens(lambda: g.follower.status("m")["revision"] == 4)
            assert g.follower.status("m")["routed_revision"] == 1
            assert (await g.score()).headers["x-model-version"] == "1"
            hold.set()
            await g.routes_by(4)
            assert (await g.score()).headers["x-model-version"] == "9"
            assert [row["traffic_revision"] for row in await g.rows()] == [1, 4]

    asyncio.run(run())


def test_a_state_that_stays_in_force_keeps_both_its_versions(gateway: Callable[..., Any], rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(100.0))
            await g.routes_by(2)
            g.models.errors["9"] = OSError("gone")
            g.set(Traffic("m", "9", revision=3))
            await g.happens(lambda: "failed" in g.follower.status("m")["versions"].get("9", ""))
            g.set(Traffic("n", "1"))  # a change elsewhere puts everything in force anew
            await g.routes_by(1, "n")
            assert (await g.score()).headers["x-model-version"] == "2"

    asyncio.run(run())


def test_a_cut_over_and_a_rollback_take_force_at_once_because_both_versions_are_warm(
    gateway: Callable[..., Any], rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(50.0))
            await g.routes_by(2)
            loads = list(g.models.loads)
            g.set(Traffic("m", "2", previous="1", revision=3))
            await g.routes_by(3)
            assert (await g.score()).headers["x-model-version"] == "2"
            g.set(Traffic("m", "1", revision=4))
            await g.routes_by(4)
            assert (await g.score()).headers["x-model-version"] == "1"
            assert g.models.loads == loads == [("1", True), ("2", False)], "nothing was loaded for it"

    asyncio.run(run())


def test_versions_that_are_no_longer_named_are_unloaded(gateway: Callable[..., Any], rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(50.0))
            await g.routes_by(2)
            g.set(Traffic("m", "1", revision=3))
            await g.routes_by(3)
            g.set(rollout(50.0, revision=4))
            await g.routes_by(4)
            assert [version for version, _ in g.models.loads] == ["1", "2", "2"]

    asyncio.run(run())


def test_while_the_store_is_away_the_last_state_serves_and_the_status_says_so(
    gateway: Callable[..., Any], rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(100.0))
            await g.routes_by(2)
            g.store_error = ConnectionError("no route to the store")
            await g.happens(lambda: not g.follower.store_status()["ok"])
            status = (await g.client.get("/status")).json()
            assert "no route to the store" in status["store"]["error"]
            assert status["store"]["polled_seconds_ago"] >= 0
            assert (await g.score()).headers["x-model-version"] == "2"
            g.set(rollout(0.0, revision=3))
            g.store_error = None
            await g.routes_by(3)
            assert (await g.score()).headers["x-model-version"] == "1"

    asyncio.run(run())


def test_a_row_that_vanishes_from_the_table_stays_in_force(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.table.clear()
            before = g.follower._polled_at
            await g.happens(lambda: g.follower._polled_at != before)
            assert (await g.score()).status_code == 200

    asyncio.run(run())


def test_a_store_that_was_emptied_is_followed_once_somebody_has_adopted_the_model(
    gateway: Callable[..., Any], rollout: Any
) -> None:
    """docs/runbook.md: until then a challenger keeps its share, whatever the store says."""

    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(100.0))
            await g.routes_by(2)
            g.table.clear()
            g.set(Traffic("n", "1"))
            await g.routes_by(1, "n")
            assert (await g.score()).headers["x-model-version"] == "2"
            g.set(Traffic("m", "1"))  # adopted anew, at an older revision
            await g.routes_by(1)
            assert (await g.score()).headers["x-model-version"] == "1"

    asyncio.run(run())


def test_configured_models_are_adopted_and_others_are_not_followed(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway(models=("m", "other")) as g:
            g.set(Traffic("stranger", "1"))
            await g.routes_by(1, "other")
            assert g.follower.models == ["m", "other"]
            assert g.follower.healthy
            with pytest.raises(UnknownModelError, match="no model stranger"):
                g.follower.serving("stranger")

    asyncio.run(run())


def test_a_model_that_cannot_be_adopted_yet_is_not_unknown(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway(models=("m",)) as g:
            g.follower._models = ("m", "new")
            with pytest.raises(NotServingError):
                g.follower.serving("new")
            assert not g.follower.healthy

    asyncio.run(run())
