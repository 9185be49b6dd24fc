"""The gateway's real process beside MLflow's real scoring server: the same requests, the same answers.

Where they differ, the difference is in DIFFERENCES, with its reason. Nothing else may differ.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tests.gateway.beside_mlflow_models import NAMES, SIGNATURES, example, frame, write
from tests.gateway.beside_mlflow_requests import CSV, JSON, REQUESTS, ROW, Sent
from tests.gateway.upstream_servers import running
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.sql_store import SqlStore

#: MLflow's own server application for every model, each under its name: one process, as imports take the time.
_ALL = """
import sys
import mlflow
import uvicorn
from fastapi import FastAPI
from mlflow.pyfunc.scoring_server import init

app = FastAPI()
for name in sys.argv[2:]:
    app.mount(f"/{name}", init(mlflow.pyfunc.load_model(f"models:/{name}/1")))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@dataclass(frozen=True)
class Difference:
    """How the two differ on one request.

    Attributes:
        theirs: Status of MLflow's server.
        ours: The gateway's.
        why: The gateway's reason.
    """

    theirs: int
    ours: int
    why: str


_ROWS = Difference(200, 400, "no rows: there is nothing to answer, and nothing that could be logged")
_ALTERED = "MLflow hands the model another value than was sent, without a word: "
_TEXTS = Difference(200, 400, "MLflow checks no text: the model, and the column of the log, would get another type")
_INFINITE = Difference(200, 400, "an input that is no finite number is refused, as an answer that is none is a failure")
_WHOLE = Difference(200, 400, "a chat has no rows that could be assigned to an arm and logged one by one")
_BASE64 = Difference(
    200, 200, "MLflow's documentation has base64 for binary columns; its server decodes it in dataframe_* alone"
)
DIFFERENCES = {
    "split with an index that is too long": Difference(200, 400, _ALTERED + "one row becomes two"),
    "split without rows": _ROWS,
    "CSV without rows": _ROWS,
    "hinted objects of nothing": _ROWS,
    "instances of records": _BASE64,
    "inputs of columns": _BASE64,
    "inputs of records": _BASE64,
    "a chat": _WHOLE,
    "a prompt": _WHOLE,
    "a missing column in one row": Difference(200, 400, _ALTERED + "a required value that is missing becomes NaN"),
    "a number for a text": _TEXTS,
    "a boolean for a text": _TEXTS,
    "a list for a text": _TEXTS,
    "a fraction for an integer": Difference(200, 400, _ALTERED + "3.7 becomes 3"),
    "null for a boolean": Difference(200, 400, _ALTERED + "null becomes false"),
    "null for an optional boolean": Difference(200, 400, _ALTERED + "null becomes false"),
    "NaN for a boolean": Difference(200, 400, _ALTERED + "NaN becomes true"),
    "two for true": Difference(200, 400, _ALTERED + "2 becomes true"),
    "the text False": Difference(200, 200, _ALTERED + "'False' becomes true, like every text"),
    "another text for true": Difference(200, 400, _ALTERED + "'no' would become true"),
    "infinity for a number": _INFINITE,
    "infinity below zero for a float": _INFINITE,
    "a number beyond a double": _INFINITE,
    "CSV with infinity": _INFINITE,
    "a number beyond a float": Difference(200, 400, _ALTERED + "1e39 becomes infinite"),
    "a number beyond an integer": Difference(200, 400, _ALTERED + "2147483648 becomes -2147483648"),
    "a number beyond a long": Difference(200, 400, _ALTERED + "9223372036854775808 becomes negative"),
    "an integer beyond 64 bits, without a type": Difference(200, 200, "JSON's numbers are 64 bits wide here"),
    "no base64": Difference(200, 400, _ALTERED + "what is no base64 is left out"),
    "dates of two forms": Difference(
        400, 200, "each date is read on its own: a row's answer does not depend on the rows beside it"
    ),
    "a lone surrogate": Difference(200, 400, "UTF-8, and so the log, has no place for it"),
    "CSV with a short row": Difference(200, 400, _ALTERED + "a value that is missing becomes NaN"),
    "CSV with a long row": Difference(200, 400, _ALTERED + "values move to the next column"),
    "arrays of unequal length": Difference(200, 400, "rows that can't be counted can't be logged"),
}


@dataclass(frozen=True)
class Servers:
    """Both servers.

    Attributes:
        mlflow: Address before a model's name.
        served: Address of `mlflow models serve`, with the model `plain`.
        gateway: The gateway's address.
    """

    mlflow: str
    served: str
    gateway: str

    def theirs(self, model: str) -> str:
        """Address in front of `/invocations`."""
        return self.served if model == "plain" else f"{self.mlflow}/{model}"

    def ours(self, model: str) -> str:
        """The same."""
        return f"{self.gateway}/models/{model}"


def log_models(server: str, folder: Path) -> None:
    """Every model as version 1 and champion."""
    import mlflow

    code = write(folder)
    with mlflow_at(server):
        for name in NAMES:
            more: dict[str, Any] = {"signature": SIGNATURES.get(name), "input_example": example(name)}
            options = {key: value for key, value in more.items() if value is not None}
            with mlflow.start_run():
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(code(name)),
                    registered_model_name=name,
                    pip_requirements=[],
                    **options,
                )
            mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")


@pytest.fixture(scope="module")
def servers(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    log_models(mlflow_server, tmp_path_factory.mktemp("code"))
    every, single, own = (free_port() for _ in range(3))
    found = Servers(*(f"http://127.0.0.1:{port}" for port in (every, single, own)))
    serve = ["-m", "mlflow", "models", "serve", "-m", "models:/plain/1", "--env-manager", "local"]
    log = tmp_path_factory.mktemp("log")
    store = f"sqlite:///{log / 'store.db'}"
    SqlStore(store).migrate()
    gateway = {
        "MODEL_ROLLOUTS_STORE_URL": store,
        "MODEL_ROLLOUTS_LOG_DIR": str(log / "log"),
        "MODEL_ROLLOUTS_SPOOL_DIR": str(log / "spool"),
        "MODEL_ROLLOUTS_PORT": str(own),
        "MODEL_ROLLOUTS_MODELS": json.dumps(NAMES),
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `mlflow models serve` looks for uvicorn there
    others = [name for name in NAMES if name != "plain"]
    started = [
        (["-m", "model_rollouts.gateway.main"], f"{found.gateway}/ping", gateway),
        ([*serve, "-h", "127.0.0.1", "-p", str(single), "-w", "1"], f"{found.served}/ping", {}),
        (["-c", _ALL, str(every), *others], f"{found.mlflow}/{others[-1]}/ping", {}),
    ]
    with ExitStack() as stack:

        def start(arguments: list[str], ready: str, environment: dict[str, str]) -> None:
            folder = tmp_path_factory.mktemp("server")
            more = environment | {"MLFLOW_TRACKING_URI": mlflow_server, "PATH": path}
            stack.enter_context(running([sys.executable, *arguments], folder, ready, **more))

        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: start(*one), started))
        yield found


def post(base: str, sent: Sent) -> requests.Response:
    headers = {"Content-Type": sent.kind}
    return requests.post(f"{base}/invocations", data=sent.body, headers=headers, timeout=30)


def both(servers: Servers, sent: Sent) -> tuple[requests.Response, requests.Response]:
    return post(servers.theirs(sent.model), sent), post(servers.ours(sent.model), sent)


@pytest.mark.parametrize("name", [name for name in REQUESTS if name not in DIFFERENCES])
def test_a_request_is_answered_as_mlflows_server_answers_it(servers: Servers, name: str) -> None:
    theirs, ours = both(servers, REQUESTS[name])
    assert ours.status_code // 100 == theirs.status_code // 100, (theirs.text, ours.text)
    if theirs.status_code == 200:
        assert ours.content == theirs.content
        assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]
    else:
        assert ours.json().keys() == {"error_code", "message"}
        assert 400 <= ours.status_code < 500


@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_they_differ_they_differ_as_the_list_says(servers: Servers, name: str) -> None:
    theirs, ours = both(servers, REQUESTS[name])
    expected = DIFFERENCES[name]
    assert (theirs.status_code, ours.status_code) == (expected.theirs, expected.ours), (theirs.text, ours.text)
    assert ours.content != theirs.content


def clients(servers: Servers, model: str) -> tuple[ScoringServerClient, ScoringServerClient]:
    """MLflow's own client, for both."""
    found = ScoringServerClient("127.0.0.1", 0), ScoringServerClient("127.0.0.1", 0)
    found[0].url_prefix, found[1].url_prefix = servers.theirs(model), servers.ours(model)
    return found


CLIENT_CALLS: dict[str, tuple[str, Any, dict[str, Any] | None]] = {
    "a table": ("plain", frame(), None),
    "a table with what is missing": (
        "plain",
        frame().assign(delay=[np.nan, 1.0], carrier=[None, "UA"], wind=[np.nan, 2.0], note=["x", None]),
        None,
    ),
    "a table of numbers": ("numbers", pd.DataFrame({"x": [1, 2], "y": [0.5, np.nan]}, index=["a", "b"]), None),
    "an array": ("tensor", np.array([[0.1, 2.0]]), None),
    "an array for columns": ("params", np.array([1.5, 2.0]), None),
    "a list of texts": ("texts", ["a", "b"], None),
    "a list of objects": ("hints", [{"carrier": "UA", "delay": 1.5}], None),
    "parameters": ("params", pd.DataFrame({"x": [1.5]}), {"threshold": 0.25, "stops": ["a"]}),
    "a table without a signature": ("unsigned", frame().drop(columns="raw"), None),
    "text that is JSON": ("numbers", '{"dataframe_records": [{"x": 1, "y": 2}]}', None),
}


@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_mlflows_client_gets_the_same_predictions(servers: Servers, name: str) -> None:
    model, data, params = CLIENT_CALLS[name]
    theirs, ours = (client.invoke(data, params) for client in clients(servers, model))
    assert ours == theirs
    pd.testing.assert_frame_equal(ours.get_predictions(), theirs.get_predictions())


def test_mlflows_client_is_refused_by_both(servers: Servers) -> None:
    for client in clients(servers, "numbers"):
        with pytest.raises(Exception, match=r"Invocation failed .error code 400"):
            client.invoke(pd.DataFrame({"x": [1.0]}))


def test_mlflows_client_reads_the_gateways_health_and_version(servers: Servers) -> None:
    theirs, ours = (
        ScoringServerClient("127.0.0.1", int(url.rsplit(":")[-1])) for url in (servers.served, servers.gateway)
    )
    ours.ping()
    assert ours.get_version() == theirs.get_version()
    for path in ("/ping", "/health"):
        one, other = (requests.get(url + path, timeout=10) for url in (servers.served, servers.gateway))
        assert (one.status_code, one.content) == (other.status_code, other.content) == (200, b"\n")


def curl(url: str, *arguments: str, body: bytes = b"") -> bytes:
    command = ["curl", "-sS", "--max-time", "30", f"{url}/invocations", *arguments]
    return subprocess.run(command, input=body, capture_output=True, check=True).stdout


RECORDS = json.dumps({"dataframe_records": [ROW]})
AS_JSON, AS_CSV = ["-H", f"Content-Type: {JSON}"], ["-H", f"Content-Type: {CSV}"]
PIPED = ["--data-binary", "@-"]
CURL: dict[str, tuple[str, list[str], bytes]] = {
    # the first four as the documentation of `mlflow models serve` has them
    "records": ("numbers", [*AS_JSON, "-d", '{"dataframe_records": [{"x":1, "y":2}, {"x":3, "y":4}]}'], b""),
    "split": (
        "numbers",
        [*AS_JSON, "-d", '{"dataframe_split": {"columns": ["x", "y"], "index": [0], "data": [[1, 2]]}}'],
        b"",
    ),
    "inputs": ("tensor", [*AS_JSON, "-d", '{"inputs": [[1, 2], [3, 4], [5, 6]]}'], b""),
    "instances": ("unsigned", [*AS_JSON, "-d", '{"instances": [{"a": "t1", "b": 1}, {"a": "t2", "b": 4}]}'], b""),
    "a body from a pipe": ("plain", [*AS_JSON, *PIPED], RECORDS.encode()),
    "a body in parts": ("plain", [*AS_JSON, "-H", "Transfer-Encoding: chunked", *PIPED], RECORDS.encode()),
    "a body that is announced": ("plain", [*AS_JSON, "-H", "Expect: 100-continue", *PIPED], RECORDS.encode()),
    "CSV": ("numbers", [*AS_CSV, *PIPED], b"x,y\n1.5,NaN\n-2,3\n"),
    "an old version of HTTP": ("numbers", ["--http1.0", *AS_CSV, *PIPED], b"x,y\n1,2\n"),
}


@pytest.mark.parametrize("name", CURL)
def test_curl_gets_the_same_bytes(servers: Servers, name: str) -> None:
    model, arguments, body = CURL[name]
    theirs, ours = (curl(url, *arguments, body=body) for url in (servers.theirs(model), servers.ours(model)))
    assert ours == theirs
    assert json.loads(ours)["predictions"]


def test_curl_without_a_content_type_is_refused_by_both(servers: Servers) -> None:
    status = ("-o", os.devnull, "-w", "%{http_code}", "-d", "{}")
    assert curl(servers.theirs("numbers"), *status) == curl(servers.ours("numbers"), *status) == b"415"
