"""Calls over HTTP: answers, rows, promises."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_rollouts.core.bucketing import in_share
from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.reading import Reading
from model_rollouts.gateway.settings import GatewaySettings

Start = Callable[..., Any]
UNITS = [f"u{i}" for i in range(60)]
EXPOSED = [u for u in UNITS if in_share("s", u, 50.0)]
SPARED = [u for u in UNITS if not in_share("s", u, 50.0)]


def raises(data: Any) -> Any:
    raise ValueError("the challenger is broken")


def once_more(reader: Any, payload: Any) -> Any:
    """A `read` that gives this payload when it is this reader's, and reads for the others."""
    read = type(reader).read
    return lambda self, *args: Reading(payload, ()) if self is reader else read(self, *args)


def facts(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("cohort", "arm", "version", "served", "status", "prediction"))


def test_without_a_rollout_the_champion_answers_and_one_row_is_logged(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_id="gate") as g:
            answer = await g.score(1.5, unit="u1", request_id="req-1")
            assert answer.content == b'{"predictions": [3.0]}'
            assert (answer.headers["x-request-id"], answer.headers["x-model-version"]) == ("req-1", "1")
            (row,) = await g.rows()
            assert row.pop("latency_ms") > 0
            assert abs(row.pop("ts") / 1e6 - time.time()) < 60
            assert row == {
                "request_id": "req-1",
                "model": "m",
                "version": "1",
                "arm": "champion",
                "cohort": None,
                "served": True,
                "rollout_id": None,
                "stage": None,
                "unit_id": "u1",
                "status": "ok",
                "error": None,
                "prediction": "3",
                "score": 3.0,
                "gateway_id": "gate",
                "traffic_revision": 1,
                "features": {"x": 1.5},
            }

    asyncio.run(run())


def test_a_row_is_in_the_spool_before_its_answer_is_given(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            await g.score(request_id="a")
            (segment,) = g.settings.spool_dir.rglob("*.rows")
            assert [json.loads(line)["request_id"] for line in segment.read_text().splitlines()] == ["a"]

    asyncio.run(run())


def test_units_are_sticky_and_counted_in_their_own_cohort(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(50.0))
            await g.routes_by(2)
            for unit in UNITS:
                versions = {(await g.score(unit=unit)).headers["x-model-version"] for _ in range(3)}
                assert versions == ({"2"} if unit in EXPOSED else {"1"})
            for row in await g.rows():
                arm = "challenger" if row["unit_id"] in EXPOSED else "champion"
                assert facts(row)[:4] == (arm, arm, "2" if arm == "challenger" else "1", True)

    asyncio.run(run())


def test_a_challenger_that_fails_is_answered_for_by_the_champion_with_two_rows(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = raises
            g.set(rollout(50.0))
            await g.routes_by(2)
            answer = await g.score(2.0, unit=EXPOSED[0], request_id="a")
            assert (answer.content, answer.headers["x-model-version"]) == (b'{"predictions": [4.0]}', "1")
            failed, served = await g.rows()
            assert facts(failed) == ("challenger", "challenger", "2", False, "error", None)
            assert failed["error"] == "ValueError: the challenger is broken"
            assert facts(served) == ("challenger", "champion", "1", True, "ok", "4")
            assert failed["request_id"] == served["request_id"] == "a"
            assert served["latency_ms"] >= failed["latency_ms"]

    asyncio.run(run())


def test_a_challenger_that_is_slow_is_answered_for_in_the_same_request(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        free = threading.Event()
        async with gateway(challenger_timeout_seconds=0.6) as g:
            g.models.predicts["2"] = lambda data: free.wait(10)
            g.models.room["2"] = 32
            g.set(rollout(50.0))
            await g.routes_by(2)
            answers = await asyncio.gather(*[g.score(float(i), unit=EXPOSED[0]) for i in range(300)])
            free.set()
            assert [a.json()["predictions"] for a in answers] == [[i * 2.0] for i in range(300)]
            failed = [r for r in await g.rows() if r["arm"] == "challenger"]
            assert len(failed) == 300
            assert {r["status"] for r in failed} == {"timeout", "error"}
            assert all("overloaded" in r["error"] for r in failed if r["status"] == "error")
            assert all(r["latency_ms"] >= 600 for r in failed if r["status"] == "timeout")
            assert sum(r["status"] == "error" for r in failed) >= 300 - 64 - 32, "the queue is bounded"

    asyncio.run(run())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_challengers_nan_is_a_failure_never_an_answer(gateway: Start, rollout: Any, value: float) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = lambda data: np.full(len(data), value)
            g.set(rollout(50.0))
            await g.routes_by(2)
            assert (await g.score(1.0, unit=EXPOSED[0])).json() == {"predictions": [2.0]}
            failed, _ = await g.rows()
            assert failed["status"] == "error"
            assert "not a number" in failed["error"]

    asyncio.run(run())


def test_input_that_only_the_challenger_refuses_is_the_challengers_failure(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.columns["2"] = (Column("x", "double"), Column("extra", "double"))
            g.set(rollout(50.0))
            await g.routes_by(2)
            assert (await g.score(1.0, unit=EXPOSED[0])).json() == {"predictions": [2.0]}
            failed, served = await g.rows()
            assert "missing inputs ['extra']" in failed["error"]
            assert (failed["features"], served["features"]) == ({}, {"x": 1.0})

    asyncio.run(run())


@pytest.mark.parametrize("step", ["read", "data", "score"])
def test_whatever_goes_wrong_on_the_way_to_the_challenger_is_its_failure(
    gateway: Start, rollout: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def breaks(*_: Any) -> Any:
        raise RecursionError(f"bug in {step}")

    async def run() -> None:
        async with gateway() as g:
            g.models.columns["2"] = (Column("x", "float"),)
            g.set(rollout(50.0))
            await g.routes_by(2)
            challenger = g.follower.serving("m").challenger
            broken = SimpleNamespace(rows=1, key=None, take=breaks, data=breaks, features=lambda _: {})
            with monkeypatch.context() as patch:
                match step:
                    case "read":
                        patch.setattr(DataPlane, "_read_again", breaks)
                    case "data":
                        patch.setattr(type(challenger.reader), "read", once_more(challenger.reader, broken))
                    case _:
                        patch.setattr(challenger.scorer, "score", breaks)
                answer = await g.score(2.0, unit=EXPOSED[0])
            assert (answer.json(), answer.headers["x-model-version"]) == ({"predictions": [4.0]}, "1")
            failed, served = await g.rows()
            assert facts(failed) == ("challenger", "challenger", "2", False, "error", None)
            assert failed["error"] == f"RecursionError: bug in {step}"
            assert failed["features"] == {}
            assert facts(served) == ("challenger", "champion", "1", True, "ok", "4")

    asyncio.run(run())


def test_a_packed_body_is_refused_as_one(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            answer = await g.client.post("/models/m/invocations", content=b"x", headers={"Content-Encoding": "gzip"})
            assert answer.status_code == 415
            assert "Content-Encoding is b'gzip'" in answer.json()["message"]

    asyncio.run(run())


def test_more_open_requests_than_allowed_are_told_to_come_back(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(max_open_requests=3) as g:
            loop = asyncio.get_running_loop()
            held = threading.Event()
            serving = g.follower.serving("m").champion.scorer
            serving._predict = lambda payload, _: held.wait(10) and payload.data()["x"].to_numpy() * 2
            waiting = [asyncio.create_task(g.score(1.0)) for _ in range(3)]
            await g.happens(lambda: g.app._open_requests == 3)
            refused = await g.score(1.0)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
            loop.call_soon(held.set)
            assert [(await task).status_code for task in waiting] == [200] * 3
            assert (await g.score(1.0)).status_code == 200

    asyncio.run(run())


def test_readiness_tells_of_models_and_of_the_end(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            assert (await g.client.get("/healthz")).json() == {"live": True}
            assert (await g.client.get("/readyz")).json() == {"ready": True}
            g.leave.take(10)
            answer = await g.client.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "it is about to end"})
            assert (await g.score(1.0)).status_code == 200, "it answers still"

    asyncio.run(run())


def test_what_was_answered_is_counted_for_prometheus(gateway: Start, rollout: Any) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("broken")

    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = fails
            g.set(rollout(100.0))
            await g.routes_by(2)
            await g.score(1.0)
            await g.score("no number")
            text = (await g.client.get("/metrics")).text
            lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            name = "model_rollouts_gateway_"

            def value(family: str, **labels: str) -> float:
                found = [
                    k
                    for k in lines
                    if k.startswith(name + family) and all(f'{a}="{b}"' in k for a, b in labels.items())
                ]
                assert len(found) == 1, (family, labels, found)
                return float(lines[found[0]])

            champion = {"version": "1", "arm": "champion", "status": "ok", "served": "true"}
            assert value("predictions_total", **champion) == 1
            assert value("predictions_total", version="2", status="error", served="false") == 1
            assert value("fallbacks_total", version="2") == 1
            assert (value("requests_total", code="200"), value("requests_total", code="400")) == (1, 1)

    asyncio.run(run())


def test_a_champion_that_fails_is_told_to_the_caller_and_logged(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(champion_timeout_seconds=0.05) as g:
            free = threading.Event()

            def predict(data: Any) -> Any:
                if (data["x"] == 1).any():
                    raise ValueError("no ones")
                if (data["x"] == 2).any():
                    free.wait(10)
                return data["x"]

            g.models.predicts["9"] = predict
            g.set(Traffic("m", "9", revision=2))
            await g.routes_by(2)
            broken, slow = await g.score(1.0), await g.score(2.0)
            free.set()
            assert (broken.status_code, broken.json()["error_code"]) == (500, "INTERNAL_ERROR")
            assert "ValueError: no ones" in broken.json()["message"]
            assert broken.headers["x-request-id"]
            assert (slow.status_code, slow.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
            rows = await g.rows()
            assert [(r["status"], r["served"]) for r in rows] == [("error", False), ("timeout", False)]

    asyncio.run(run())


def test_rows_of_one_request_go_to_the_arms_of_their_units_and_are_answered_in_order(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        async with gateway(unit_columns={"m": "tail"}) as g:
            g.models.predicts["2"] = lambda data: np.where(data["x"] == 3, np.nan, data["x"] * 100)
            g.set(rollout(50.0))
            await g.routes_by(2)
            units = [SPARED[0], EXPOSED[0], SPARED[1], EXPOSED[1], ""]
            records = [{"x": float(i), "tail": unit} for i, unit in enumerate(units)]
            answer = await g.client.post(
                "/models/m/invocations", json={"dataframe_records": records}, headers={"X-Request-Id": "q0"}
            )
            last = 400.0 if in_share("s", "q0:4", 50.0) else 8.0
            assert answer.json() == {"predictions": [0.0, 100.0, 4.0, 6.0, last]}
            assert answer.headers["x-model-version"] == "1,2"
            rows = await g.rows()
            assert sorted(r["request_id"] for r in rows) == ["q0:0", "q0:1", "q0:2", "q0:3", "q0:3", "q0:4"]
            by_id = {(r["request_id"], r["arm"]): r for r in rows}
            assert by_id["q0:1", "challenger"]["unit_id"] == EXPOSED[0]
            assert by_id["q0:3", "challenger"]["served"] is False
            assert facts(by_id["q0:3", "champion"])[:4] == ("challenger", "champion", "1", True)
            assert all(set(r["features"]) == {"x"} for r in rows)

            whole = await g.client.post(
                "/models/m/invocations", json={"dataframe_records": records[:3]}, headers={"X-Unit-Id": EXPOSED[0]}
            )
            assert whole.headers["x-model-version"] == "2"

    asyncio.run(run())


def test_when_one_row_fails_on_the_champion_no_row_counts_as_served(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["9"] = lambda data: np.where(data["x"] == 1, np.nan, data["x"])
            g.set(Traffic("m", "9", revision=2))
            await g.routes_by(2)
            answer = await g.client.post("/models/m/invocations", json={"inputs": {"x": [0.0, 1.0, 2.0]}})
            assert answer.status_code == 500
            assert "row 1 (1 of 3 rows failed)" in answer.json()["message"]
            assert [(r["status"], r["served"]) for r in await g.rows()] == [
                ("ok", False),
                ("error", False),
                ("ok", False),
            ]

    asyncio.run(run())


def test_at_100_percent_the_control_sample_is_scored_by_the_champion_behind_the_callers_back(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = lambda data: data["x"] * 100
            g.set(rollout(100.0, control_percent=50.0))
            await g.routes_by(2)
            control = [f"r{i}" for i in range(40) if in_share("s:control", f"r{i}", 50.0)]
            for i in range(40):
                assert (await g.score(1.0, unit="u", request_id=f"r{i}")).json() == {"predictions": [{"x": 100.0}]}
            await g.happens(lambda: g.mirror.status()["mirrored"] == len(control))
            rows: dict[str, list[Any]] = {}
            for row in await g.rows():
                rows.setdefault(row["request_id"], []).append(facts(row)[:4])
            for i in range(40):
                served = ("champion" if f"r{i}" in control else "challenger", "challenger", "2", True)
                mirrored = [("champion", "champion", "1", False)] if f"r{i}" in control else []
                assert rows[f"r{i}"] == [served, *mirrored]

    asyncio.run(run())


def test_a_control_request_that_the_champion_had_to_answer_is_not_mirrored_again(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.predicts["2"] = raises
            g.set(rollout(100.0, control_percent=50.0))
            await g.routes_by(2)
            control = next(f"r{i}" for i in range(40) if in_share("s:control", f"r{i}", 50.0))
            assert (await g.score(1.0, request_id=control)).status_code == 200
            await g.mirror.close(2)
            assert [facts(r)[:4] for r in await g.rows()] == [
                ("champion", "challenger", "2", False),
                ("champion", "champion", "1", True),
            ]
            assert g.mirror.status() == {"waiting": 0, "mirrored": 0, "dropped": 0}

    asyncio.run(run())


def test_under_load_the_mirror_gives_way_and_counts_what_it_dropped(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        free = threading.Event()
        async with gateway(mirror_queue=2, champion_timeout_seconds=5) as g:
            g.models.predicts["7"] = lambda data: free.wait(10) and np.asarray(data["x"])
            g.set(Traffic("m", "7", "2", 100.0, 50.0, "r1", 0, "s", revision=3))
            await g.routes_by(3)
            control = [f"r{i}" for i in range(60) if in_share("s:control", f"r{i}", 50.0)]
            for request_id in control:
                assert (await g.score(1.0, request_id=request_id)).status_code == 200
            status = (await g.client.get("/status")).json()["mirror"]
            assert status["dropped"] == len(control) - 2 - 4, "two wait, four are in flight"
            free.set()

    asyncio.run(run())


def test_what_cannot_be_logged_is_not_answered(gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with gateway(max_spool_bytes=1_048_576) as g:
            scored: list[int] = []
            g.models.predicts["9"] = lambda data: scored.append(len(data)) or data["x"]
            g.set(Traffic("m", "9", revision=2))
            await g.routes_by(2)
            g.writer.away = True
            body = {"dataframe_records": [{"x": 1.0, "n": 1}] * 2000}
            answers = [await g.client.post("/models/m/invocations", json=body) for _ in range(4)]
            assert [a.status_code for a in answers] == [200, 200, 503, 503]
            assert answers[-1].headers["retry-after"] == "1"
            assert "must be below 1048576" in answers[-1].json()["message"]
            assert len(scored) == 2, "nothing is scored in vain"
            g.writer.away = False
            await g.rows()
            assert (await g.score()).status_code == 200
            monkeypatch.setattr("os.write", lambda fd, data: 0)
            assert (await g.score(request_id="lost")).status_code == 503
            monkeypatch.undo()
            assert "lost" not in {r["request_id"] for r in await g.rows()}

    asyncio.run(run())


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "bad JSON": ({"content": b"{"}, 400, "valid JSON"),
    "a wrong value": ({"json": {"inputs": {"x": ["a"]}}}, 400, "column x. Row 0 has 'a'"),
    "no rows": ({"json": {"inputs": {"x": []}}}, 400, "0 rows"),
    "too many rows": ({"json": {"inputs": {"x": [1.0] * 6}}}, 400, "6 rows, must have between 1 and 5"),
    "a large body": ({"content": b" " * 2000}, 413, "more than 1024 bytes"),
    "another type": ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "content types"),
    "an odd request id": ({"json": {"inputs": {"x": [1.0]}}, "headers": {"x-request-id": "a b"}}, 400, "X-Request-Id"),
    "a long request id": ({"json": {"inputs": {"x": [1.0]}}, "headers": {"x-request-id": "a" * 201}}, 400, "1 to 200"),
    "a long unit": ({"json": {"inputs": {"x": [1.0]}}, "headers": {"x-unit-id": "a" * 257}}, 400, "257 characters"),
    "a unit that is a list": ({"json": {"dataframe_records": [{"x": 1.0, "tail": [1]}]}}, 400, "row 0 of column tail"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_no_row(gateway: Start, name: str) -> None:
    async def run() -> None:
        options, status, says = REFUSED[name]
        options = {"headers": {"content-type": "application/json"}} | options
        async with gateway(max_body_bytes=1024, max_rows=5, unit_columns={"m": "tail"}) as g:
            answer = await g.client.post("/models/m/invocations", **options)
            assert answer.status_code == status
            assert answer.json()["error_code"] == "BAD_REQUEST"
            assert says in answer.json()["message"]
            assert await g.rows() == []

    asyncio.run(run())


def test_a_body_without_a_declared_length_is_read_no_further_than_the_limit(gateway: Start) -> None:
    async def run() -> None:
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            while True:
                sent += 500
                yield b" " * 500

        async with gateway(max_body_bytes=1024) as g:
            headers = {"content-type": "application/json"}
            answer = await g.client.post("/models/m/invocations", content=endless(), headers=headers)
            assert (answer.status_code, sent) == (413, 1500)

    asyncio.run(run())


def test_an_unknown_model_is_404_and_one_that_is_not_loaded_is_503(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.errors["1"] = OSError("away")
            g.set(Traffic("slow", "1"))
            await g.happens(
                lambda: g.follower.follows("slow") and "failed" in str(g.follower.status("slow")["versions"])
            )
            for path, status in (("nobody", 404), ("slow", 503)):
                answer = await g.client.post(f"/models/{path}/invocations", json={"inputs": {"x": [1.0]}})
                assert answer.status_code == status, answer.text
            assert answer.headers["retry-after"] == "1"
            assert (await g.client.get("/models/nobody/status")).status_code == 404

    asyncio.run(run())


def test_outcomes_go_to_the_log_all_or_none(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            good = await g.client.post("/models/m/outcomes", json=[{"request_id": "a", "label": 1}])
            bad = await g.client.post("/models/m/outcomes", json=[{"request_id": "b", "label": 1}, {"label": 1}])
            unknown = await g.client.post("/models/nobody/outcomes", json={"request_id": "c", "label": 1})
            assert (good.status_code, good.json()) == (200, {"accepted": 1})
            assert (bad.status_code, unknown.status_code) == (400, 404)
            assert "outcome 1" in bad.json()["message"]
            await g.rows()
            assert [r["request_id"] for r in g.writer.of(table="outcomes")] == ["a"]

    asyncio.run(run())


def test_the_default_model_answers_invocations_without_a_name(gateway: Start) -> None:
    async def run() -> None:
        body = {"inputs": {"x": [1.0]}}
        async with gateway() as g:
            assert (await g.client.post("/invocations", json=body)).json() == {"predictions": [2.0]}
            g.set(Traffic("n", "1"))
            await g.routes_by(1, "n")
            answer = await g.client.post("/invocations", json=body)
            assert answer.status_code == 404
            assert "m, n" in answer.json()["message"]
        async with gateway(default_model="m") as g:
            assert (await g.client.post("/invocations", json=body)).status_code == 200

    asyncio.run(run())


def test_health_version_and_status_are_as_the_contract_says(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(25.0))
            await g.routes_by(2)
            assert [(await g.client.get(p)).status_code for p in ("/ping", "/health")] == [200, 200]
            assert (await g.client.get("/version")).text == metadata.version("mlflow")
            status = (await g.client.get("/models/m/status")).json()
            assert {k: status[k] for k in ("model", "revision", "champion", "challenger", "share", "stage")} == {
                "model": "m",
                "revision": 2,
                "champion": "1",
                "challenger": "2",
                "share": 25.0,
                "stage": 0,
            }
            assert status["versions"] == {"1": "ready", "2": "ready"}
            everything = (await g.client.get("/status")).json()
            assert everything["models"]["m"] == status
            assert everything["spool"]["error"] is None

    asyncio.run(run())


def test_with_a_token_nothing_but_health_answers_without_it(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_token="secret") as g:
            for path in ("/status", "/models/m/status", "/version"):
                assert (await g.client.get(path)).status_code == 401
            assert (await g.score()).status_code == 401
            assert (await g.client.get("/ping")).status_code == 200
            g.client.headers["authorization"] = "Bearer secret"
            assert (await g.score()).status_code == 200
            assert len(await g.rows()) == 1

    asyncio.run(run())


def test_beyond_this_machine_the_gateway_listens_only_with_a_token() -> None:
    with pytest.raises(ValueError, match="MODEL_ROLLOUTS_GATEWAY_TOKEN"):
        GatewaySettings(host="0.0.0.0")  # noqa: S104  # that is what must be refused
    with pytest.raises(ValueError, match="MODEL_ROLLOUTS_GATEWAY_TOKEN"):
        GatewaySettings(host="0.0.0.0", gateway_token="")  # noqa: S104  # as above
    for token in ("t", "t" * 15, " " * 10 + "t" * 10):
        with pytest.raises(ValueError, match=r"the token has \d+ characters, must have 16 or more"):
            GatewaySettings(host="0.0.0.0", gateway_token=token)  # noqa: S104  # as above
        assert GatewaySettings(gateway_token=token).port == 8600
    assert GatewaySettings(host="0.0.0.0", gateway_token="t" * 16).port == 8600  # noqa: S104  # as above
    assert GatewaySettings(port=8601).gateway_id.endswith("-8601")
