"""The Open Inference Protocol over HTTP, on its way through routing and log."""

import asyncio
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from model_rollouts.core.bucketing import in_share
from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.payload import Column

Start = Callable[..., Any]
TOKEN = "let-me-in-0123456789"


def request(*values: float, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}]} | more


async def infer(g: Any, body: Any, path: str = "/v2/models/m/infer", **headers: str) -> Any:
    return await g.client.post(path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_an_inference_is_answered_routed_and_logged(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(100.0))
            await g.routes_by(2)
            answer = await infer(g, request(1.0, 2.5, id="abc"), X_Unit_Id="u1")
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["model_name"], found["model_version"], found["id"]) == ("m", "2", "abc")
            (output,) = found["outputs"]
            assert (output["datatype"], output["shape"], output["data"]) == ("FP64", [2, 1], [2.0, 5.0])
            assert answer.headers["x-request-id"] == "abc"
            assert answer.headers["x-model-version"] == "2"
            rows = await g.rows()
            assert [(r["request_id"], r["unit_id"], r["arm"], r["features"]) for r in rows] == [
                ("abc:0", "u1", "challenger", {"x": 1.0}),
                ("abc:1", "u1", "challenger", {"x": 2.5}),
            ]

    asyncio.run(run())


def test_a_challenger_without_an_output_that_is_asked_for_has_failed_and_the_champion_answers(
    gateway: Start, rollout: Any
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.says_no_outputs.add("9")
            g.models.predicts["9"] = lambda data: pd.DataFrame({"label": data["x"] * 2, "sure": data["x"] * 0})
            g.models.predicts["2"] = lambda data: pd.DataFrame({"label": data["x"] * 3})
            g.set(Traffic("m", "9", "2", 100.0, 0.0, "r1", 0, "s", revision=2))
            await g.routes_by(2)
            asked = request(1.0, outputs=[{"name": "sure"}, {"name": "label"}])
            answer = await infer(g, asked, X_Request_Id="a")
            assert answer.status_code == 200, answer.text
            assert answer.json()["model_version"] == "9"
            assert [(o["name"], o["data"]) for o in answer.json()["outputs"]] == [("sure", [0.0]), ("label", [2.0])]
            failed, answered = await g.rows()
            assert (failed["arm"], failed["status"], failed["served"]) == ("challenger", "error", False)
            assert failed["error"] == "the answer has no output 'sure'; it has label"
            assert (answered["arm"], answered["cohort"], answered["served"]) == ("champion", "challenger", True)
            fine = await infer(g, request(1.0, outputs=[{"name": "label"}]))
            assert fine.json()["model_version"] == "2"
            nobody = await infer(g, request(1.0, outputs=[{"name": "weight"}]), X_Request_Id="bad")
            assert nobody.status_code == 400
            assert "bad" not in [r["request_id"] for r in await g.rows()], "the request is wrong, and no evidence"

    asyncio.run(run())


UNITS = [f"u{i}" for i in range(8)]
ARMS = {unit: in_share("s", unit, 50.0) for unit in UNITS}
INPUTS = [
    {"name": "x", "shape": [8], "datatype": "FP64", "data": [float(i) for i in range(8)]},
    {"name": "who", "shape": [8], "datatype": "BYTES", "data": UNITS},
]


async def dealt(g: Any, champion: Any, challenger: Any) -> None:
    """Units of one request are dealt to both versions."""
    assert len(set(ARMS.values())) == 2
    g.models.says_no_outputs.add("9")
    g.models.columns["9"] = g.models.columns["2"] = (Column("x", "double"), Column("who", "string"))
    g.models.predicts["9"], g.models.predicts["2"] = champion, challenger
    g.set(Traffic("m", "9", "2", 50.0, 0.0, "r1", 0, "s", revision=2))
    await g.routes_by(2)


def test_a_challenger_with_one_output_more_is_judged_by_those_that_are_asked_for(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(unit_columns={"m": "who"}) as g:
            await dealt(
                g,
                lambda data: pd.DataFrame({"late": data["x"] * 2, "p": data["x"]}),
                lambda data: pd.DataFrame({"late": data["x"] * 3, "p": data["x"], "why": data["x"]}),
            )
            body = {"inputs": INPUTS, "outputs": [{"name": "p"}, {"name": "late"}]}
            answer = await infer(g, body, X_Request_Id="a")
            assert answer.status_code == 200, answer.text
            assert answer.json()["model_version"] == "9,2"
            found = {each["name"]: each for each in answer.json()["outputs"]}
            assert list(found) == ["p", "late"]
            assert found["late"]["datatype"] == "FP64"
            assert found["late"]["data"] == [i * (3.0 if ARMS[f"u{i}"] else 2.0) for i in range(8)]
            rows = await g.rows()
            assert {row["status"] for row in rows} == {"ok"}
            assert [row["arm"] for row in rows].count("challenger") == sum(ARMS.values())

    asyncio.run(run())


def test_answers_that_can_not_stand_in_one_response_are_the_champions(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(unit_columns={"m": "who"}) as g:
            await dealt(
                g,
                lambda data: data["x"].to_numpy() * 2,
                lambda data: pd.DataFrame({"output-0": data["x"] * 3, "why": data["x"]}),
            )
            answer = await infer(g, {"inputs": INPUTS, "outputs": [{"name": "output-0"}]}, X_Request_Id="a")
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == [2.0 * i for i in range(8)]
            rows = await g.rows()
            theirs = sum(ARMS.values())
            assert [r["status"] for r in rows if r["arm"] == "challenger"] == ["error"] * theirs
            told = next(r["error"] for r in rows if r["arm"] == "challenger")
            assert told == f"beside the champion's answers: {theirs} of 8 answers are records and the others are not"
            served = [r["request_id"] for r in rows if r["served"]]
            assert sorted(served) == [f"a:{i}" for i in range(8)]
            assert {r["arm"] for r in rows if r["served"]} == {"champion"}

    asyncio.run(run())


def test_a_mirrored_challenger_without_an_output_that_is_asked_for_has_failed(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.says_no_outputs.add("9")
            g.models.predicts["9"] = lambda data: pd.DataFrame({"label": data["x"] * 2, "sure": data["x"] * 0})
            g.models.predicts["2"] = lambda data: pd.DataFrame({"label": data["x"] * 3, "why": data["x"]})
            g.set(Traffic("m", "9", "2", 0.0, 0.0, "r1", 0, "s", revision=2, mirror_percent=100.0))
            await g.routes_by(2)
            for name, outputs in (("a", ["label"]), ("b", ["sure"]), ("c", ["label", "sure"])):
                body = request(1.0, 2.0, outputs=[{"name": each} for each in outputs])
                answer = await infer(g, body, X_Request_Id=name)
                assert (answer.status_code, answer.json()["model_version"]) == (200, "9"), answer.text
            whole = await infer(g, request(1.0), X_Request_Id="d")
            assert whole.status_code == 200
            await g.happens(lambda: g.mirror.status("m")["mirrored"] == 4)
            rows = await g.rows()
            theirs = {row["request_id"]: (row["status"], row["error"]) for row in rows if row["arm"] == "challenger"}
            missing = ("error", "the answer has no output 'sure'; it has label, why")
            assert theirs == {
                "a:0": ("ok", None), "a:1": ("ok", None), "b:0": missing, "b:1": missing, "c:0": missing,
                "c:1": missing, "d": ("ok", None),
            }  # fmt: skip
            assert {row["status"] for row in rows if row["arm"] == "champion"} == {"ok"}

    asyncio.run(run())


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_numbered_column_is_asked_for_and_the_challenger_has_not_failed(
    gateway: Start, rollout: Any, mirrored: bool
) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.models.says_no_outputs.add("9")
            for version in ("9", "2"):  # predict_proba: columns 0 and 1
                g.models.predicts[version] = lambda data: pd.DataFrame({0: data["x"], 1: 1 - data["x"]})
            share, mirror = (0.0, 100.0) if mirrored else (100.0, 0.0)
            g.set(Traffic("m", "9", "2", share, 0.0, "r1", 0, "s", revision=2, mirror_percent=mirror))
            await g.routes_by(2)
            answer = await infer(g, request(0.25, outputs=[{"name": "0"}]), X_Request_Id="a")
            assert answer.status_code == 200, answer.text
            assert answer.json()["model_version"] == ("9" if mirrored else "2")
            assert [(o["name"], o["data"]) for o in answer.json()["outputs"]] == [("0", [0.25])]
            if mirrored:
                await g.happens(lambda: g.mirror.status("m")["mirrored"] == 1)
            rows = await g.rows()
            assert ("challenger", "ok", None) in [(row["arm"], row["status"], row["error"]) for row in rows]
            assert {row["status"] for row in rows} == {"ok"}

    asyncio.run(run())


def test_the_header_names_the_request_before_the_body_does(gateway: Start) -> None:
    async def run() -> None:
        async with gateway() as g:
            answer = await infer(g, request(1.0, id="in-body"), X_Request_Id="in-header")
            assert (answer.headers["x-request-id"], answer.json()["id"]) == ("in-header", "in-body")
            odd = await infer(g, request(1.0, id="two words"))
            assert odd.json()["id"] == "two words"
            assert [r["request_id"] for r in await g.rows()] == ["in-header", odd.headers["x-request-id"]]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0]}]}, 400, "shape"),
        ({"inputs": []}, 400, "inputs"),
        ({"dataframe_split": {}}, 400, "inputs"),
    ],
)
def test_errors_have_the_protocols_form(gateway: Start, body: Any, status: int, says: str) -> None:
    async def run() -> None:
        async with gateway() as g:
            answer = await infer(g, body)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
            assert says in answer.json()["error"]
            assert (await infer(g, request(1.0), "/v2/models/other/infer")).json().keys() == {"error"}
            assert await g.rows() == []

    asyncio.run(run())


def test_a_token_is_asked_for_in_the_protocols_form(gateway: Start) -> None:
    async def run() -> None:
        async with gateway(gateway_token="secret-token-of-the-gateway") as g:
            answer = await infer(g, request(1.0))
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            assert (await g.client.get("/v2/health/live")).status_code == 200
            good = await infer(g, request(1.0), Authorization="Bearer secret-token-of-the-gateway")
            assert good.status_code == 200

    asyncio.run(run())


def test_a_version_in_the_path_is_the_champion_or_a_testers_wish(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(tester_token=TOKEN) as g:
            g.set(rollout(100.0))
            await g.routes_by(2)
            champion = await infer(g, request(1.0), "/v2/models/m/versions/1/infer")
            refused = await infer(g, request(1.0), "/v2/models/m/versions/2/infer")
            tester = await infer(g, request(1.0), "/v2/models/m/versions/2/infer", X_Rollouts_Token=TOKEN)
            nobody = await infer(g, request(1.0), "/v2/models/m/versions/7/infer", X_Rollouts_Token=TOKEN)
            assert [a.status_code for a in (champion, refused, tester, nobody)] == [200, 401, 200, 404]
            assert [a.json()["model_version"] for a in (champion, tester)] == ["1", "2"]
            assert [(r["version"], r["cohort"]) for r in await g.rows()] == [("1", None), ("2", None)]

    asyncio.run(run())


def test_who_serves_what_is_told(gateway: Start, rollout: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            g.set(rollout(1.0))
            await g.routes_by(2)

            async def get(path: str) -> Any:
                return await g.client.get(path)

            assert (await get("/v2")).json()["name"] == "model-rollouts"
            document = (await get("/v2/models/m")).json()
            assert (document["name"], document["versions"]) == ("m", ["1", "2"])
            assert [tensor["name"] for tensor in document["inputs"]] == ["x", "n"]
            assert (await get("/v2/models/m/versions/2")).json()["inputs"] == document["inputs"]
            assert [(await get(p)).status_code for p in ("/v2/models/m/ready", "/v2/models/m/versions/2/ready")] == [
                200,
                200,
            ]
            assert [(await get(p)).status_code for p in ("/v2/models/o/ready", "/v2/models/m/versions/9/ready")] == [
                404,
                404,
            ]
            assert (await get("/v2/models/o")).json().keys() == {"error"}
            assert (await get("/v2/health/ready")).json() == {"ready": True}

    asyncio.run(run())
