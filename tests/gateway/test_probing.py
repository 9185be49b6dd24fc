"""Asking one version, whatever the traffic says; and what the process runs on."""

import asyncio
import platform
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.environment import normalised, packages
from model_rollouts.gateway.payload import Column

Start = Callable[..., Any]


async def probe(g: Any, version: str, body: Any) -> Any:
    return await g.client.post(f"/models/m/versions/{version}/invocations", json=body)


def test_champion_challenger_and_previous_answer_whatever_the_traffic_says(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_id="gate") as g:
            g.models.predicts["2"] = lambda data: data["x"].to_numpy() * 100
            g.models.predicts["0"] = lambda data: np.where(data["x"] > 1, "late", "on time")
            g.set(Traffic("m", "1", "2", previous="0", revision=2, rollout_id="r", stage=0, mirror_percent=100.0))
            await g.routes_by(2)
            body = {"dataframe_records": [{"x": 1.5}, {"x": 0.25}]}
            expected = {"1": [("3", 3.0), ("0.5", 0.5)], "2": [("150", 150.0), ("25", 25.0)]}
            for version, answers in expected.items():
                answer = await probe(g, version, body)
                assert answer.status_code == 200
                assert answer.json() == {
                    "gateway_id": "gate",
                    "results": [{"status": "ok", "prediction": p, "score": s, "error": ""} for p, s in answers],
                }
            assert [r["prediction"] for r in (await probe(g, "0", body)).json()["results"]] == ["late", "on time"]
            for other in ({"inputs": {"x": [1.5]}}, {"instances": [{"x": 1.5}]}):
                assert (await probe(g, "1", other)).json()["results"][0]["prediction"] == "3"
            split = {"dataframe_split": {"columns": ["x"], "data": [[1.5]]}}
            assert (await probe(g, "2", split)).json()["results"][0]["prediction"] == "150"

    asyncio.run(run())


def test_a_probe_leaves_no_row_and_is_never_mirrored(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(0.0, mirror_percent=100.0))
            await g.routes_by(2)
            for version in ("1", "2"):
                assert (await probe(g, version, {"inputs": {"x": [1.0]}})).status_code == 200
            assert await g.rows() == []
            assert g.mirror.status() == {"waiting": 0, "mirrored": 0, "dropped": 0}

    asyncio.run(run())


def test_a_row_that_fails_says_why_and_fails_alone(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:

            def predict(data: Any) -> Any:
                if (data["x"] == 13).any():
                    raise ValueError("13 is unlucky")
                return np.where(data["x"] == 0, np.nan, data["x"])

            g.models.predicts["2"] = predict
            g.set(rollout(0.0))
            await g.routes_by(2)
            results = (await probe(g, "2", {"inputs": {"x": [1.0, 13.0, 0.0]}})).json()["results"]
            assert [r["status"] for r in results] == ["ok", "error", "error"]
            assert results[1] == {
                "status": "error",
                "prediction": None,
                "score": None,
                "error": "ValueError: 13 is unlucky",
            }
            assert "not a number" in results[2]["error"]

    asyncio.run(run())


def test_a_version_that_hangs_times_out_as_a_challenger_does(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        free = threading.Event()
        async with gateway(challenger_timeout_seconds=0.05) as g:
            g.models.predicts["2"] = lambda data: free.wait(10)
            g.set(rollout(0.0))
            await g.routes_by(2)
            (result,) = (await probe(g, "2", {"inputs": {"x": [1.0]}})).json()["results"]
            assert (result["status"], result["error"]) == ("timeout", "no answer within 0.05 s")
            assert (await g.score()).status_code == 200
            free.set()

    asyncio.run(run())


def test_the_versions_own_signature_decides_what_it_takes(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(max_batch_rows=3, max_body_bytes=2048) as g:
            g.models.columns["2"] = (Column("x", "double"), Column("extra", "double"))
            g.set(rollout(0.0))
            await g.routes_by(2)
            assert (await probe(g, "1", {"inputs": {"x": [1.0]}})).status_code == 200
            for version, body, status, says in (
                ("2", {"inputs": {"x": [1.0]}}, 400, "missing inputs ['extra']"),
                ("1", {"inputs": {"x": []}}, 400, "0 rows"),
                ("1", {"inputs": {"x": [1.0] * 4}}, 400, "4 rows, must have between 1 and 3"),
                ("1", {"inputs": {"x": ["1" * 4000]}}, 413, "more than 2048 bytes"),
            ):
                answer = await probe(g, version, body)
                assert answer.status_code == status
                assert says in answer.json()["message"]

    asyncio.run(run())


def test_a_version_that_is_not_loaded_says_how_it_is(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            body = {"inputs": {"x": [1.0]}}
            hold = g.models.held["2"] = threading.Event()
            g.models.errors["2"] = OSError("MLflow is away")
            g.set(rollout(0.0))
            await g.happens(lambda: g.follower.status("m")["revision"] == 2)
            loading = await probe(g, "2", body)
            hold.set()
            await g.happens(lambda: g.follower.status("m")["versions"]["2"] != "loading")
            failed, unnamed = await probe(g, "2", body), await probe(g, "3", body)
            answers = [a.json() for a in (loading, failed, unnamed)]
            assert {a.status_code for a in (loading, failed, unnamed)} == {404}
            assert {a["error_code"] for a in answers} == {"RESOURCE_DOES_NOT_EXIST"}
            assert [a["message"] for a in answers] == [
                "version 2 of m is not loaded: loading",
                "version 2 of m is not loaded: failed: OSError: MLflow is away",
                "version 3 of m is not loaded: the traffic names 1, 2",
            ]
            nobody = await g.client.post("/models/nobody/versions/1/invocations", json=body)
            assert (nobody.status_code, "no model nobody" in nobody.json()["message"]) == (404, True)

    asyncio.run(run())


def test_a_version_that_is_still_in_force_can_be_asked_though_the_table_names_it_no_more(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            hold = g.models.held["9"] = threading.Event()
            g.set(Traffic("m", "9", revision=2))
            await g.happens(lambda: g.follower.status("m")["revision"] == 2)
            assert (await probe(g, "1", {"inputs": {"x": [1.0]}})).status_code == 200
            hold.set()
            await g.routes_by(2)
            assert (await probe(g, "1", {"inputs": {"x": [1.0]}})).status_code == 404

    asyncio.run(run())


def test_the_environment_lists_what_is_installed_by_normalised_name(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_id="gate") as g:
            answer = (await g.client.get("/environment")).json()
            assert answer["gateway_id"] == "gate"
            assert answer["packages"]["python"] == platform.python_version()
            for name in ("mlflow", "great-expectations", "scikit-learn"):
                assert answer["packages"][name] == metadata.version(name)
            assert all(name == normalised(name) for name in answer["packages"])

    asyncio.run(run())


def test_of_two_installations_of_a_package_the_one_that_is_imported_counts(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in (("first", "2.0"), ("second", "1.0")):
        info = tmp_path / folder / f"Some_Package-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Some_Package\nVersion: {version}\n")
        for broken, text in (("nameless-1.0", "Version: 1.0\n"), ("other-1.0", "Name: other\n"), ("empty-1.0", "")):
            left = tmp_path / folder / f"{broken}.dist-info"
            left.mkdir()
            (left / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    packages.cache_clear()
    try:
        found = packages()
        assert found["some-package"] == "2.0"
        assert "other" not in found
        assert all(isinstance(version, str) for version in found.values())
    finally:
        packages.cache_clear()


def test_probes_and_the_environment_ask_for_the_token(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_token="secret") as g:
            assert (await probe(g, "1", {"inputs": {"x": [1.0]}})).status_code == 401
            assert (await g.client.get("/environment")).status_code == 401
            g.client.headers["authorization"] = "Bearer secret"
            assert (await probe(g, "1", {"inputs": {"x": [1.0]}})).status_code == 200
            assert (await g.client.get("/environment")).status_code == 200

    asyncio.run(run())
