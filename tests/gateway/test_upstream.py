"""Versions with servers of their own: real ones (MLflow's, MLServer), and a stand-in for what servers do wrong."""

import asyncio
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from tests.gateway.conftest import until
from tests.gateway.upstream_servers import (
    CODE,
    MODEL,
    StandIn,
    doubled,
    mlflow_serves,
    mlserver_serves,
    ok,
    rows_of,
    stand_in,
)

from bench.mlflow_at import mlflow_at
from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.loading import MlflowLoader, Version, WarmUpError
from model_rollouts.gateway.mlflow_reading import MlflowPayload
from model_rollouts.gateway.payload import Column, Table
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.signature import Signature
from model_rollouts.gateway.upstream import Upstreams
from model_rollouts.gateway.upstream_address import Address, address_of
from model_rollouts.gateway.upstream_http import Limits, UpstreamHttp
from model_rollouts.gateway.upstream_protocols import MlflowProtocol, OpenInferenceProtocol
from model_rollouts.gateway.upstream_scorer import UpstreamDownError, UpstreamScorer, UpstreamServer

X = (Column("x", "double"),)
ROWS = [
    {"delay": 1.5, "seats": 2**40, "carrier": "ÄA", "at": "2026-01-02T03:04:05.123456", "raw": "AAEC", "big": True},
    {"delay": None, "seats": -1, "carrier": "B", "at": "2026-01-02T23:00:00", "raw": "", "big": False},
    {"delay": -0.1, "seats": 0, "carrier": "", "at": "1999-12-31", "raw": "/w==", "big": True},
]


def xs(*values: float) -> Table:
    return Table(X, [[value] for value in values])


@asynccontextmanager
async def scorer_at(url: str, calls: int = 1, batch: int = 64, waiting: int = 4096) -> AsyncIterator[UpstreamScorer]:
    http = UpstreamHttp(Limits(connect_seconds=1.0, max_bytes=10_000))
    try:
        yield UpstreamScorer(UpstreamServer(Address("mlflow", url), http), "m 2", lambda _: None, calls, batch, waiting)
    finally:
        await http.close()


async def once(respond: Callable[[bytes], Any], payload: Table | None = None, within: float = 2.0) -> Results:
    async with stand_in(respond) as server, scorer_at(server.url) as scorer:
        return await scorer.score(payload or xs(1.0), {}, within)


# --- what servers do wrong


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ok(b'{"predictions": [1.0, 2.0]}'), "returned 2 answers, must be 1"),
        (ok(b'{"predictions": []}'), "returned 0 answers, must be 1"),
        (ok(b'{"predictions": 1.0}'), "returned a float"),
        (ok(b'{"predictions": [NaN]}'), "not a number"),
        (ok(b'{"predictions": [null]}'), "not a number"),
        (ok(b'{"predictions": [[0.5, null]]}'), "not a number"),
        (ok(b'{"predictions": [{"prediction": "a", "score": null}]}'), "not a number"),
        (ok(b'{"predictions": [{"prediction": 1, "score": NaN}]}'), "not a number"),
        (ok(b'{"answers": [1.0]}'), "must have 'predictions'"),
        (ok(b"[1.0]"), "answered a list, must be an object"),
        (ok(b"<html>"), "is no JSON"),
        (ok(b""), "is no JSON"),
        (ok(b"", "302 Found", "Location: http://127.0.0.1:1/"), "a redirect to http://127.0.0.1:1/"),
        (ok(b"too many", "429 Too Many Requests"), "it has no room: too many"),
        (ok(b"broken", "500 Internal Server Error"), "answered 500: broken"),
        (ok(b"who?", "401 Unauthorized"), "answered 401: who?"),
        (ok(b"{}" + b" " * 20_000), "more than 10000 bytes"),
        (ok(b"{}", "200 OK", "Content-Encoding: gzip"), "answered packed"),
        (b"", "no answer from"),
        (b"SSH-2.0-nothing\r\n\r\n", "no answer from"),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_failure_that_says_why(answer: bytes, reason: str) -> None:
    (result,) = asyncio.run(once(lambda _: answer))
    assert isinstance(result, Failure)
    assert (result.status, result.overloaded) == ("error", False)
    assert reason in result.error


def test_nobody_listening_is_a_failure() -> None:
    async def run() -> None:
        async with stand_in() as server:
            url = server.url
        async with scorer_at(url) as scorer:
            (result,) = await scorer.score(xs(1.0), {}, 2.0)
            assert isinstance(result, Failure)
            assert "no answer from" in result.error

    asyncio.run(run())


def test_a_server_that_hangs_is_a_timeout_and_does_not_hold_the_next_request_up() -> None:
    async def run() -> None:
        hang = asyncio.Event()

        async def respond(body: bytes) -> bytes:
            if rows_of(body) == [[1.0]]:
                await hang.wait()
            return doubled(body)

        async with stand_in(respond) as server, scorer_at(server.url) as scorer:
            (late,) = await scorer.score(xs(1.0), {}, 0.1)
            assert isinstance(late, Failure)
            assert late.status == "timeout"
            (good,) = await scorer.score(xs(2.0), {}, 2.0)
            assert good == Answer("4.0", "4", 4.0)
            hang.set()

    asyncio.run(run())


def test_one_bad_row_of_a_batch_fails_alone_and_is_found_by_halves() -> None:
    def respond(body: bytes) -> bytes:
        return ok(b"13 is unlucky", "400 Bad Request") if [13.0] in rows_of(body) else doubled(body)

    async def run() -> None:
        async with stand_in(respond) as server, scorer_at(server.url) as scorer:
            results = await scorer.score(xs(*map(float, range(64))), {}, 5.0)
            assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [13]
            assert [r.prediction for r in results if isinstance(r, Answer)] == [
                str(2 * i) for i in range(64) if i != 13
            ]
            assert len(server.bodies) == 1 + 2 * math.log2(64)

            first = asyncio.create_task(scorer.score(xs(0.0), {}, 5.0))  # the others gather behind it
            others = [asyncio.create_task(scorer.score(xs(x), {}, 5.0)) for x in (12.0, 13.0, 14.0)]
            found = [(await task)[0] for task in (first, *others)]
            assert [isinstance(result, Failure) for result in found] == [False, False, True, False]

    asyncio.run(run())


def test_a_server_without_room_is_not_asked_again() -> None:
    async def run() -> None:
        full = ok(b"full", "503 Service Unavailable")
        async with stand_in(lambda _: full) as server, scorer_at(server.url) as scorer:
            results = await scorer.score(xs(1.0, 2.0, 3.0), {}, 2.0)
            assert all(isinstance(result, Failure) for result in results)
            assert len(server.bodies) == 1

    asyncio.run(run())


# --- how it is asked


def test_what_gathers_while_calls_run_is_one_call_and_calls_in_flight_are_bounded() -> None:
    async def run() -> None:
        go, open_calls, most = asyncio.Event(), 0, 0

        async def respond(body: bytes) -> bytes:
            nonlocal open_calls, most
            open_calls += 1
            most = max(most, open_calls)
            await go.wait()
            open_calls -= 1
            return doubled(body)

        async with stand_in(respond) as server, scorer_at(server.url, calls=2, batch=8) as scorer:
            tasks = [asyncio.create_task(scorer.score(xs(float(x)), {}, 5.0)) for x in range(20)]
            await _until(lambda: len(server.bodies) == 2)
            assert scorer.waiting_rows == 18
            go.set()
            answers = [(await task)[0] for task in tasks]
            assert [a.prediction for a in answers if isinstance(a, Answer)] == [str(2 * x) for x in range(20)]
            assert sorted(len(rows_of(body)) for body in server.bodies) == [1, 1, 2, 8, 8]
            assert most == 2
            assert server.connections == 2, "kept alive"
            assert scorer.waiting_rows == 0

    asyncio.run(run())


def test_rows_beyond_the_bound_are_refused_as_overload() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def respond(body: bytes) -> bytes:
            await go.wait()
            return doubled(body)

        async with stand_in(respond) as server, scorer_at(server.url, waiting=2) as scorer:
            tasks = [asyncio.create_task(scorer.score(xs(1.0), {}, 5.0)) for _ in range(3)]
            await asyncio.sleep(0)
            (refused,) = await scorer.score(xs(2.0), {}, 5.0)
            assert isinstance(refused, Failure)
            assert refused.overloaded
            go.set()
            answers = await asyncio.gather(*tasks)
            assert all(isinstance(answer, Answer) for (answer,) in answers)

    asyncio.run(run())


def test_a_pooled_connection_that_was_closed_meanwhile_costs_nobody_an_answer() -> None:
    async def run() -> None:
        async with stand_in() as server, scorer_at(server.url) as scorer:
            for x in (1.0, 2.0, 3.0):
                (answer,) = await scorer.score(xs(x), {}, 2.0)
                assert isinstance(answer, Answer)
                server.hang_up()
                await asyncio.sleep(0)
            assert len(server.bodies) == 3

    asyncio.run(run())


def test_a_request_whose_first_byte_was_sent_is_never_sent_again() -> None:
    async def run() -> None:
        async with stand_in() as server, scorer_at(server.url) as scorer:
            assert isinstance((await scorer.score(xs(1.0), {}, 2.0))[0], Answer)
            server.respond = lambda _: b""  # takes it, and closes
            (lost,) = await scorer.score(xs(2.0), {}, 2.0)
            assert isinstance(lost, Failure)
            assert len(server.bodies) == 2

    asyncio.run(run())


def test_parts_of_what_a_server_failed_on_do_not_go_over_a_connection_that_it_is_hanging_up() -> None:
    async def run() -> None:
        failed = ok(b"broken", "500 Internal Server Error")
        async with stand_in(lambda body: failed if [1.0] in rows_of(body) else doubled(body)) as server:
            server.hangs_up_after = failed
            async with scorer_at(server.url) as scorer:
                bad, good = await scorer.score(xs(1.0, 2.0), {}, 2.0)
                assert isinstance(bad, Failure)
                assert good == Answer("4.0", "4", 4.0)

    asyncio.run(run())


# --- from and to JSON


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ("[1.5]", Answer("1.5", "1.5", 1.5)),
        ("[1]", Answer("1", "1")),
        ("[true]", Answer("true", "1")),
        ('["late"]', Answer('"late"', "late")),
        ("[[2.5]]", Answer("[2.5]", "2.5", 2.5)),
        ("[[0.25, 0.75]]", Answer("[0.25, 0.75]", "1", 0.75)),
        ("[[1, 2]]", Answer("[1, 2]", "[1,2]")),
        ('[{"prediction": "late", "score": 0.9}]', Answer('{"prediction": "late", "score": 0.9}', "late", 0.9)),
        ('[{"0": 2.5}]', Answer("2.5", "2.5", 2.5)),
    ],
)
def test_answers_are_read_as_those_of_a_model_in_process(predictions: str, expected: Answer) -> None:
    body = f'{{"predictions": {predictions}}}'.encode()
    assert MlflowProtocol().decode(body, 1, "") == [expected]


def oip(*outputs: dict[str, Any], version: str = "") -> bytes:
    return json.dumps({"model_name": "m", "model_version": version, "outputs": list(outputs)}).encode()


def out(data: list[Any], datatype: str = "FP64", shape: list[int] | None = None, name: str = "y") -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def test_answers_of_the_open_inference_protocol() -> None:
    def read(*outputs: dict[str, Any]) -> Results:
        return OpenInferenceProtocol().decode(oip(*outputs), 2, "")

    assert read(out([1, 2.5])) == [Answer("1.0", "1", 1.0), Answer("2.5", "2.5", 2.5)]
    assert read(out([1, 0], "INT64", [2, 1])) == [Answer("[1]", "1"), Answer("[0]", "0")]
    assert read(out([0.75, 0.25, 0, 1], "FP32", [2, 2]))[1] == Answer("[0.0, 1.0]", "1", 1.0)
    assert read(out([[0.75, 0.25], [0, 1]], "FP32", [2, 2]))[0] == Answer("[0.75, 0.25]", "0", 0.25)
    both = read(out(["a", "b"], "BYTES", [2, 1], "prediction"), out([0.1, 0.2], name="score"))
    assert [(r.prediction, r.score) for r in both if isinstance(r, Answer)] == [("a", 0.1), ("b", 0.2)]
    assert [type(r) for r in read(out([None, 1.0]))] == [Failure, Answer]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (oip(), "must have 'outputs'"),
        (b'{"outputs": {}}', "must have 'outputs'"),
        (oip(out([1.0])), "has 1 answers, must be 2"),
        (oip(out([1.0, 2.0, 3.0], shape=[2])), "has 3 values, must be 2"),
        (oip(out([1.0, 2.0], shape=[-2])), "must be a list of sizes"),
        (oip(out([1.5, 2], "INT64")), "holds '1.5', which is no INT64"),
        (oip(out([1, 2], "BYTES")), "which is no BYTES"),
        (oip(out(["1", "2"])), "which is no FP64"),
        (oip(out([1, 2], "COMPLEX")), "which is no COMPLEX"),
        (oip(out([1, 2]), out([1, 2])), "several outputs of one name"),
        (oip(out([1, 2]), version="3"), "answered as version 3, must be 2"),
    ],
)
def test_answers_of_the_open_inference_protocol_that_cannot_be_used(body: bytes, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        OpenInferenceProtocol().decode(body, 2, "2")


def test_tensors_are_sent_as_inputs() -> None:
    array = MlflowPayload(np.array([[1.5, np.nan], [2, 3]], dtype=np.float32), 2)
    assert json.loads(MlflowProtocol().encode(array, {"k": 1})) == {
        "inputs": [[1.5, None], [2, 3]],
        "params": {"k": 1},
    }
    named = MlflowPayload({"a": np.array([[1, 2]]), "b": np.array([[True]])}, 1)
    assert json.loads(OpenInferenceProtocol().encode(named, {}))["inputs"] == [
        {"name": "a", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
        {"name": "b", "shape": [1, 1], "datatype": "BOOL", "data": [True]},
    ]
    for protocol in (MlflowProtocol(), OpenInferenceProtocol()):
        with pytest.raises(Exception, match="infinite"):
            protocol.encode(MlflowPayload(np.array([np.inf]), 1), {})
    with pytest.raises(Exception, match="can't say; use mlflow"):
        OpenInferenceProtocol().encode(MlflowPayload(np.array(["a"]), 1), {})


# --- addresses


@pytest.mark.parametrize(
    ("upstreams", "expected"),
    [
        ({"m": "mlflow+http://m-v{version}:80/"}, Address("mlflow", "http://m-v7:80")),
        ({"m": "oip+https://kserve"}, Address("oip", "https://kserve/v2/models/m/versions/7", "7")),
        ({"m/7": "oip+http://h:8080"}, Address("oip", "http://h:8080/v2/models/m")),
        ({"m": "mlflow+http://h{version}", "m/7": "mlflow+http://own"}, Address("mlflow", "http://own")),
        ({"m/7": "oip+http://h/v2/models/x"}, Address("oip", "http://h/v2/models/x")),
        ({"other": "mlflow+http://h{version}", "m/8": "mlflow+http://h"}, None),
    ],
)
def test_addresses_come_from_the_settings(upstreams: dict[str, str], expected: Address | None) -> None:
    settings = GatewaySettings(upstreams=upstreams)
    assert address_of(settings.upstreams, "m", "7") == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("http://h-{version}", "must begin with mlflow"),
        ("mlflow+ftp://h-{version}", "must begin with mlflow"),
        ("mlflow+http://h:8080", "one server would answer for all versions"),
        ("oip+http://h/v2/models/{model}", "one server would answer for all versions"),
        ("mlflow+http://user:secret@h-{version}", "without user"),
        ("mlflow+http://h-{version}?a=1", "must be host, port and path"),
        ("mlflow+http://h-{version}/{name}", "other braces"),
        ("mlflow+http://:80/{version}", "must be host"),
        ("mlflow+http://h-{version}:99999", "is no address"),
    ],
)
def test_addresses_that_cannot_hold_are_refused_at_the_start(template: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GatewaySettings(upstreams={"m": template})


def test_a_token_goes_to_the_servers_of_its_key_and_to_no_other() -> None:
    upstreams = {"m": "mlflow+http://h{version}", "m/7": "mlflow+http://own", "n": "mlflow+http://n{version}"}
    settings = GatewaySettings(upstreams=upstreams, upstream_tokens={"m": "hush", "n": "quiet"})
    found = {
        (model, version): address_of(settings.upstreams, model, version, settings.upstream_tokens)
        for model, version in (("m", "6"), ("m", "7"), ("n", "7"))
    }
    assert [each and each.token for each in found.values()] == ["hush", None, "quiet"]
    assert "hush" not in f"{found} {settings!r}"

    async def heads(token: str | None) -> list[bytes]:
        async with stand_in() as server:
            http = UpstreamHttp(Limits(1.0, 10_000))
            try:
                upstream = UpstreamServer(Address("mlflow", server.url, token=token), http)
                await upstream.check()
                await upstream.score(xs(1.0), {}, 2.0, again=False)
            finally:
                await http.close()
            return server.heads

    for token, shown in (("hush", True), (None, False)):
        got = asyncio.run(heads(token))
        assert len(got) == 2
        assert [b"Authorization: Bearer hush\r\n" in head for head in got] == [shown, shown]
        assert [b"uthorization" in head for head in got] == [shown, shown]


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ({"n": "hush"}, "must be one of upstreams: m"),
        ({"m/7": "hush"}, "must be one of upstreams: m"),
        ({"m": ""}, "visible ASCII"),
        ({"m": "two words"}, "visible ASCII"),
        ({"m": "line\r\nX: y"}, "visible ASCII"),
    ],
)
def test_tokens_that_nobody_could_be_shown_are_refused_at_the_start(tokens: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GatewaySettings(upstreams={"m": "mlflow+http://h{version}"}, upstream_tokens=tokens)


def test_a_models_name_cannot_choose_the_host() -> None:
    with pytest.raises(ValueError, match="must be host"):
        address_of({"m@evil/x": "mlflow+http://{model}-{version}"}, "m@evil/x", "1")


# --- the champion answers


def test_when_the_challengers_server_fails_the_champion_answers(gateway: Callable[..., Any], rollout: Any) -> None:
    async def run() -> None:
        async with stand_in() as server, scorer_at(server.url) as scorer, gateway() as g:
            load = g.models.load

            def with_server(model: str, version: str, *, serving: bool) -> Version:
                if version != "2":
                    loaded: Version = load(model, version, serving=serving)
                    return loaded
                return Version(model, version, SignatureReader(Signature(X)), scorer, lambda _: None)

            g.models.load = with_server
            g.set(rollout(100.0))
            await g.routes_by(2)
            assert (await g.score(4.0)).headers["x-model-version"] == "2"
            server.respond = lambda _: ok(b"", "500 Internal Server Error")
            answer = await g.score(4.0)
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
            scorer.problem = "its server is down"  # as the probe sets it
            assert g.follower.status("m")["versions"]["2"] == "failed: its server is down"
            _, failed, served = await g.rows()
            assert (failed["arm"], failed["status"], failed["served"]) == ("challenger", "error", False)
            assert (served["arm"], served["served"]) == ("champion", True)

    asyncio.run(run())


# --- real servers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with version 1, which both kinds of servers serve, and version 2, whose code nobody may import."""
    import mlflow
    from mlflow.models import infer_signature

    root = tmp_path_factory.mktemp("registry")
    (root / "good.py").write_text(CODE)
    (root / "guarded.py").write_text(
        'import os\nif os.environ.get("GUARDED"):\n    raise RuntimeError("it was imported")\n' + CODE
    )
    example = pd.DataFrame(
        {
            "delay": [1.0],
            "seats": [100],
            "carrier": ["AA"],
            "at": pd.to_datetime(["2026-01-01T12:00:00"]),
            "raw": [b"xy"],
            "big": [True],
        }
    )
    output = pd.DataFrame({"prediction": ["a"], "score": [0.5]})
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with mlflow_at(uri):
        signature = infer_signature(example, output, params={"extra": 0.0})
        experiment = mlflow.create_experiment("versions", artifact_location=(root / "artifacts").as_uri())
        for code in ("good.py", "guarded.py"):
            with mlflow.start_run(experiment_id=experiment):
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(root / code),
                    registered_model_name=MODEL,
                    signature=signature,
                    input_example=example,
                    pip_requirements=[],
                )
        yield uri


@pytest.fixture(scope="module")
def mlflow_url(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_serves(registry, "1", tmp_path_factory.mktemp("mlflow-serves")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def mlserver_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlserver_serves(tmp_path_factory.mktemp("mlserver")) as url:
        yield url


def upstreams_at(registry: str, address: str, **more: Any) -> Upstreams:
    settings = GatewaySettings(
        mlflow_tracking_uri=registry,
        upstreams={f"{MODEL}/1": address, f"{MODEL}/2": address},
        **({"upstream_probe_seconds": 0.05} | more),
    )
    return Upstreams(MlflowLoader(registry, 64, 4096), settings)


async def score(version: Version, rows: list[dict[str, Any]], params: dict[str, Any] | None = None) -> Results:
    payload = version.reader.read(Document("dataframe_records", rows), None, 100).payload
    return await version.scorer.score(payload, params or {}, 20.0)


def test_mlflows_own_server_answers_as_the_version_in_process(registry: str, mlflow_url: str) -> None:
    async def run() -> None:
        upstreams = upstreams_at(registry, f"mlflow+{mlflow_url}")
        with mlflow_at(registry):
            own = await asyncio.to_thread(MlflowLoader(registry, 64, 4096).load, MODEL, "1", serving=False)
            there = await asyncio.to_thread(upstreams.load, MODEL, "1", serving=False)
        try:
            expected, found = await score(own, ROWS), await score(there, ROWS)
            assert found == expected
            assert [r.prediction for r in found if isinstance(r, Answer)] == [
                f"ÄA 3 {2**40} True",
                "B 0 -1 False",
                " 1 0 True",
            ]
            assert [r.score for r in await score(there, ROWS, {"extra": 10.0}) if isinstance(r, Answer)] == [
                11.5,
                10.0,
                9.9,
            ]
            bad = ROWS[0] | {"delay": 13}
            good, failed = await score(there, [ROWS[0], bad])
            assert good == expected[0]
            assert isinstance(failed, Failure)
            assert "13 is unlucky" in failed.error
        finally:
            await upstreams.close()

    asyncio.run(run())


def test_mlserver_answers_as_the_version_in_process(registry: str, mlserver_url: str) -> None:
    async def run() -> None:
        upstreams = upstreams_at(registry, f"oip+{mlserver_url}")
        with mlflow_at(registry):
            own = await asyncio.to_thread(MlflowLoader(registry, 64, 4096).load, MODEL, "1", serving=False)
            there = await asyncio.to_thread(upstreams.load, MODEL, "1", serving=False)
        try:
            expected = await score(own, ROWS)
            assert await score(there, ROWS) == expected
            good, failed = await score(there, [ROWS[0], ROWS[0] | {"delay": 13}])
            assert good == expected[0]
            assert isinstance(failed, Failure)
            assert "13 is unlucky" in failed.error
        finally:
            await upstreams.close()

    asyncio.run(run())


def test_the_versions_code_is_not_imported_here(
    registry: str, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDED", "1")
    with mlflow_at(registry):
        assert upstreams_at(registry, f"mlflow+{mlflow_url}").load(MODEL, "2", serving=False).version == "2"
        with pytest.raises(Exception, match="it was imported"):
            MlflowLoader(registry, 64, 4096).load(MODEL, "2", serving=False)


def test_the_size_of_a_version_is_known_before_it_is_loaded(registry: str) -> None:
    with mlflow_at(registry):
        settings = GatewaySettings(mlflow_tracking_uri=registry, upstreams={f"{MODEL}/1": "mlflow+http://own:80"})
        upstreams = Upstreams(MlflowLoader(registry, 64, 4096), settings)
        assert 1_000 < (upstreams.size(MODEL, "2") or 0) < 1_000_000
        assert upstreams.size(MODEL, "1") == 0, "its server holds it"


def test_a_version_is_not_loaded_before_its_server_is_ready_and_scores_its_example(registry: str) -> None:
    async def run() -> None:
        with mlflow_at(registry):
            async with stand_in(lambda _: ok(b'{"predictions": []}')) as server:
                upstreams = upstreams_at(registry, f"mlflow+{server.url}")
                with pytest.raises(WarmUpError, match="returned 0 answers, must be 1"):
                    await asyncio.to_thread(upstreams.load, MODEL, "1", serving=False)
                champion = await asyncio.to_thread(upstreams.load, MODEL, "1", serving=True)
                assert champion.version == "1", "callers rely on it already"
            for serving in (False, True):
                with pytest.raises(UpstreamDownError, match="no answer from"):
                    await asyncio.to_thread(upstreams.load, MODEL, "1", serving=serving)

    asyncio.run(run())


def test_a_server_that_goes_down_shows_and_comes_back(registry: str) -> None:
    async def run() -> None:
        answer = ok(b'{"predictions": [1.0]}')
        with mlflow_at(registry):
            async with stand_in(lambda _: answer) as server:
                upstreams = upstreams_at(registry, f"mlflow+{server.url}")
                loaded = await asyncio.to_thread(upstreams.load, MODEL, "1", serving=False)
                upstreams.start()
                scorer = loaded.scorer
                assert isinstance(scorer, UpstreamScorer)
                port = int(server.url.rpartition(":")[2])
            await _until(lambda: scorer.problem is not None)
            assert "no answer from" in (scorer.problem or "")
            again = StandIn(lambda _: answer)
            listener = await asyncio.start_server(again.serve, "127.0.0.1", port)
            await _until(lambda: scorer.problem is None)
            await upstreams.close()
            again.hang_up()
            listener.close()
            await listener.wait_closed()

    asyncio.run(run())


def test_a_real_server_that_is_killed_fails_its_rows(registry: str, tmp_path: Path) -> None:
    async def run(url: str, kill: Callable[[], None]) -> None:
        upstreams = upstreams_at(registry, f"mlflow+{url}")
        with mlflow_at(registry):
            version = await asyncio.to_thread(upstreams.load, MODEL, "1", serving=False)
        try:
            assert all(isinstance(r, Answer) for r in await score(version, ROWS))
            kill()
            assert all(isinstance(r, Failure) for r in await score(version, ROWS))
        finally:
            await upstreams.close()

    with mlflow_serves(registry, "1", tmp_path) as (url, process):
        asyncio.run(run(url, lambda: os.killpg(process.pid, signal.SIGKILL)))


async def _until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition, 10.0)
