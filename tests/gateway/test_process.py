"""The real process with a real MLflow server, a real store and a real Delta log."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pandas as pd
import pytest
import requests
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from bench.serving import Mover
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.service import RolloutService

MODEL = "gateway-flights"
_CLIENTS = 6
_numbers = count()
_CHALLENGER = """
import mlflow
import numpy as np

class Late(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        delay = model_input["delay"].to_numpy()
        if (delay == 13).any():
            raise ValueError("13 is unlucky")
        return np.where(delay > 15, "late", "on time")

mlflow.models.set_model(Late())
"""


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address, with version 1 (scikit-learn) as champion and version 2 (models from code)."""
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    code = tmp_path_factory.mktemp("code") / "challenger.py"
    code.write_text(_CHALLENGER)
    frame = pd.DataFrame({"delay": np.linspace(-10, 40, 50), "seats": np.full(50, 100)})
    labels = np.where(frame["delay"] > 15, "late", "on time")
    signature = infer_signature(frame, labels)
    common = {"name": "model", "signature": signature, "input_example": frame.head(2), "pip_requirements": []}
    with mlflow_at(mlflow_server):
        with mlflow.start_run():
            fitted = LogisticRegression(C=1000).fit(frame, labels)
            mlflow.sklearn.log_model(fitted, serialization_format="cloudpickle", registered_model_name=MODEL, **common)
        with mlflow.start_run():
            mlflow.pyfunc.log_model(python_model=str(code), registered_model_name=MODEL, **common)
        mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
        yield mlflow_server


@dataclass
class Process:
    """One gateway that can be killed and started again."""

    root: Path
    mlflow_uri: str
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    temporary: Path = Path()

    def __post_init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MODEL_ROLLOUTS_STORE_URL": self.store_url,
            "MODEL_ROLLOUTS_LOG_DIR": str(self.root / "log"),
            "MODEL_ROLLOUTS_SPOOL_DIR": str(self.root / "spool"),
            "MODEL_ROLLOUTS_PORT": str(port),
            "MODEL_ROLLOUTS_MODELS": f'["{MODEL}"]',
            "MODEL_ROLLOUTS_RETRY_SECONDS": "0.5",
            "MODEL_ROLLOUTS_UNIT_COLUMNS": f'{{"{MODEL}": "tailnum"}}',
        }

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.root / 'store.db'}"

    def start(self) -> None:
        command = [sys.executable, "-m", "model_rollouts.gateway.main"]
        self.temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.root))
        self.environment["TMPDIR"] = str(self.temporary)
        with (self.root / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | self.environment, stderr=log)
        self.wait(lambda: requests.get(f"{self.url}/ping", timeout=2).status_code == 200)

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            assert self.process.poll() is None, (self.root / "gateway.log").read_text()[-3000:]
            try:
                if condition():
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.02)
        raise AssertionError((self.root / "gateway.log").read_text()[-3000:])

    def end(self, way: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(way)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def post(self, records: list[dict[str, Any]], **headers: str) -> requests.Response:
        return requests.post(
            f"{self.url}/models/{MODEL}/invocations",
            json={"dataframe_records": records},
            headers={k.replace("_", "-"): v for k, v in headers.items()},
            timeout=10,
        )

    def rows(self, table: str = "predictions") -> pd.DataFrame:
        """The log, once everything that was answered so far is in it."""
        from deltalake import DeltaTable

        self.wait(lambda: requests.get(f"{self.url}/status", timeout=2).json()["spool"]["bytes"] == 0)
        return DeltaTable(str(self.root / "log" / MODEL / table)).to_pandas()


@pytest.fixture(scope="module")
def gateway(registered: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("gateway"), registered)
    SqlStore(process.store_url).migrate()
    process.start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def service(gateway: Process) -> RolloutService:
    store = SqlStore(gateway.store_url)
    return RolloutService(store, MlflowRegistry(gateway.mlflow_uri), evidence=store, log=None)  # type: ignore[arg-type]  # no look is taken


@pytest.fixture
def rollout(gateway: Process, service: RolloutService, request: pytest.FixtureRequest) -> Iterator[str]:
    """A rollout of version 2 at 50 %, rolled back afterwards."""
    name = request.node.name
    service.start(name, MODEL, "2", plan_canary(CanaryParameters(steps=(50, 100), control_percent=20)), "t", "test")
    service.open_stage(name, 0, "t")
    client = GatewayClient(gateway.url)
    revision = service.adopt(MODEL, "t").revision
    gateway.wait(
        lambda: (
            client.versions(MODEL) == {"1": "ready", "2": "ready"} and list(client.routed(MODEL).values()) == [revision]
        )
    )
    yield name
    service.roll_back(name, "t", "the test is over")
    gateway.wait(lambda: [(s["champion"], s["challenger"]) for s in client.statuses(MODEL).values()] == [("1", None)])


@dataclass
class Load:
    """Requests that never pause, until stopped."""

    gateway: Process
    name: str = field(default_factory=lambda: f"load{next(_numbers)}-")
    answers: list[tuple[str, float, int, str, str]] = field(default_factory=list)  # id, start, status, version, body
    lost: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*[self._client(session, n) for n in range(_CLIENTS)])

    async def _client(self, session: aiohttp.ClientSession, n: int) -> None:
        i = 0
        while not self.stop.is_set():
            i += 1
            request_id, started = f"{self.name}{n}-{i}", time.monotonic()
            headers = {"X-Request-Id": request_id, "X-Unit-Id": f"unit{i % 50}"}
            body = {"dataframe_records": [{"delay": float(i % 40), "seats": i}]}
            try:
                async with session.post(
                    f"{self.gateway.url}/models/{MODEL}/invocations", json=body, headers=headers
                ) as answer:
                    text = await answer.text()
                    version = answer.headers.get("X-Model-Version", "")
                    self.answers.append((request_id, started, answer.status, version, text))
            except aiohttp.ClientError:
                self.lost += 1
                await asyncio.sleep(0.01)


def test_mlflows_own_client_works_unchanged(gateway: Process) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient(*gateway.url.removeprefix("http://").split(":"))
    client.ping()
    assert client.get_version() == metadata.version("mlflow")
    frame = pd.DataFrame({"delay": [0.0, 40.0], "seats": [100, 200]})
    assert client.invoke(frame).get_predictions()[0].tolist() == ["on time", "late"]
    for body in (
        {"inputs": {"delay": [0.0, 40.0], "seats": [100, 200]}},
        {"instances": [{"delay": 0.0, "seats": 100}, {"delay": 40.0, "seats": 200}]},
        {"dataframe_split": frame.to_dict(orient="split")},
    ):
        answer = requests.post(f"{gateway.url}/invocations", json=body, timeout=10)
        assert answer.json() == {"predictions": ["on time", "late"]}
    csv = {"Content-Type": "text/csv"}
    answer = requests.post(f"{gateway.url}/invocations", data=frame.to_csv(index=False), headers=csv, timeout=10)
    assert answer.json() == {"predictions": ["on time", "late"]}


def test_bad_input_is_refused_and_leaves_no_rows(gateway: Process) -> None:
    gateway.post([{"delay": 1.0, "seats": 1}], X_Request_Id="before-bad")
    before = len(gateway.rows())
    for record in ({"delay": "x", "seats": 1}, {"delay": 1.0}, {"delay": 1.0, "seats": None}):
        answer = gateway.post([record])
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert requests.post(f"{gateway.url}/models/none/invocations", json={}, timeout=10).status_code == 404
    gateway.post([{"delay": 1.0, "seats": 1}], X_Request_Id="after-bad")
    assert len(gateway.rows()) == before + 1


def test_units_keep_their_arm_over_requests(gateway: Process, rollout: str) -> None:
    records = [{"delay": 1.0, "seats": 1, "tailnum": f"N{i}"} for i in range(40)]
    for i in range(3):
        assert gateway.post(records, X_Request_Id=f"sticky-{i}").status_code == 200
    rows = gateway.rows()
    rows = rows[rows["request_id"].str.startswith("sticky-")]
    assert len(rows) == 120
    arms = rows.groupby("unit_id")["arm"].agg(set)
    assert len(arms) == 40
    assert {frozenset(seen) for seen in arms} == {frozenset({"champion"}), frozenset({"challenger"})}


def test_a_challenger_that_raises_is_answered_for_and_both_rows_are_logged(gateway: Process, rollout: str) -> None:
    records = [{"delay": 13.0, "seats": 100, "tailnum": f"N{i}"} for i in range(20)]
    answer = gateway.post(records, X_Request_Id="unlucky")
    assert (answer.status_code, answer.json()) == (200, {"predictions": ["on time"] * 20})
    rows = gateway.rows()
    rows = rows[rows["request_id"].str.startswith("unlucky:")]
    failed = rows[rows["status"] == "error"]
    assert 0 < len(failed) < 20
    assert set(failed["arm"]) == set(failed["cohort"]) == {"challenger"}
    assert set(failed["error"]) == {"ValueError: 13 is unlucky"}
    assert not failed["served"].any()
    assert sorted(rows[rows["served"]]["request_id"]) == sorted(f"unlucky:{i}" for i in range(20))
    assert set(rows[rows["served"]]["arm"][rows["request_id"].isin(failed["request_id"])]) == {"champion"}
    assert set(rows["f_delay"]) == {13.0}
    assert "f_tailnum" not in rows


def test_shadow_requests_reach_the_log_in_pairs_and_the_challengers_failures_with_them(gateway: Process) -> None:
    mover = Mover(SqlStore(gateway.store_url), MODEL)
    mover.start(plan_shadow(ShadowParameters()), "2")
    mover.open()
    gateway.wait(lambda: mover.is_ready(gateway.url))
    try:
        records = [{"delay": float(i), "seats": 100, "tailnum": f"N{i}"} for i in range(20)]
        answer = gateway.post(records, X_Request_Id="shadow")
        assert answer.headers["X-Model-Version"] == "1"
        (status,) = GatewayClient(gateway.url).statuses(MODEL).values()
        gateway.wait(lambda: requests.get(f"{gateway.url}/status", timeout=2).json()["mirror"]["mirrored"] > 0)
        assert status["mirror"]["dropped"] == 0
    finally:
        mover.roll_back()
        gateway.wait(lambda: mover.is_ready(gateway.url))
    rows = gateway.rows()
    rows = rows[rows["request_id"].str.startswith("shadow:")]
    champion, challenger = (rows[rows["arm"] == arm].set_index("request_id") for arm in ("champion", "challenger"))
    assert set(champion.index) == set(challenger.index) == {f"shadow:{i}" for i in range(20)}
    assert (rows["cohort"] == rows["arm"]).all()
    assert champion["served"].all()
    assert not challenger["served"].any()
    assert (champion.sort_index()["ts"] == challenger.sort_index()["ts"]).all()
    assert list(challenger[challenger["status"] == "error"]["f_delay"]) == [13.0]
    assert (challenger["latency_ms"] > 0).all()


def test_a_change_of_share_is_followed_within_half_a_second_without_a_lost_request(
    gateway: Process, service: RolloutService, rollout: str
) -> None:
    with Load(gateway) as load:
        gateway.wait(lambda: len(load.answers) > 200)
        service.clear(rollout, 0, "t", "test", {})
        changed = time.monotonic()
        service.open_stage(rollout, 1, "t")
        gateway.wait(lambda: load.answers[-1][1] > changed + 1)
        back = time.monotonic()
        service.roll_back(rollout, "t", "test")
        gateway.wait(lambda: load.answers[-1][1] > back + 1)
    assert load.lost == 0
    assert {status for _, _, status, _, _ in load.answers} == {200}
    late = [v for _, started, _, v, body in load.answers if changed + 0.5 < started < back and "13" not in body]
    assert len(late) > 50
    assert late.count("2") >= len(late) * 0.9, "all but what the challenger raises on"
    assert {v for _, started, _, v, _ in load.answers if started > back + 0.5} == {"1"}


def test_after_kill_9_under_load_every_answered_request_is_in_the_log_exactly_once(
    gateway: Process, rollout: str
) -> None:
    with Load(gateway) as load:
        gateway.wait(lambda: len(load.answers) > 500)
        gateway.end(signal.SIGKILL)
        already = len(load.answers)
        gateway.start()
        gateway.wait(lambda: len(load.answers) > already + 200)
    answered = [request_id for request_id, _, status, _, _ in load.answers if status == 200]
    rows = gateway.rows()
    rows = rows[rows["request_id"].str.startswith(load.name)]
    served = rows[rows["served"]]["request_id"]
    assert load.lost > 0
    assert not rows.duplicated(["request_id", "arm"]).any()
    assert served.is_unique
    assert set(answered) <= set(rows["request_id"])
    # Killed between the answer and its mark: one at most, as the process does one thing at a time.
    assert len(set(answered) - set(served)) <= 1
    assert len(set(rows["request_id"]) - set(answered)) <= _CLIENTS, "in flight when the process was killed"
    routed = rows[rows["cohort"].notna() & rows["served"] & (rows["status"] == "ok")]
    failed_over = set(rows[~rows["served"]]["request_id"])
    arms = routed[~routed["request_id"].isin(failed_over)].groupby("unit_id")["arm"].agg(set)
    assert all(len(seen) == 1 for seen in arms), "and no unit has changed its arm with the restart"


def test_a_caller_that_has_hung_up_was_not_served(gateway: Process) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    body = b'{"dataframe_records": [{"delay": 1.0, "seats": 100}]}'
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /models/{MODEL}/invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"X-Request-Id: gone\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.sendall(head.encode() + body)
    rows = gateway.rows()
    while "gone" not in set(rows["request_id"]):
        rows = gateway.rows()
    (row,) = rows[rows["request_id"] == "gone"].to_dict("records")
    assert row["status"] == "ok"
    assert not row["served"]


def test_outcomes_reach_the_log(gateway: Process) -> None:
    outcome = {"request_id": "some", "label": "late", "ts": "2026-01-01T00:00:00Z"}
    answer = requests.post(f"{gateway.url}/models/{MODEL}/outcomes", json=[outcome], timeout=10)
    assert answer.json() == {"accepted": 1}
    (row,) = gateway.rows("outcomes").to_dict(orient="records")
    assert (row["request_id"], row["label"], row["ts"]) == ("some", "late", pd.Timestamp("2026-01-01", tz="UTC"))


def test_the_client_says_what_it_cannot_reach(gateway: Process) -> None:
    with pytest.raises(NotReadyError, match="no model nobody"):
        GatewayClient(gateway.url).versions("nobody")
    with pytest.raises(NotReadyError, match="MODEL_ROLLOUTS_GATEWAY_URL"):
        GatewayClient("http://127.0.0.1:1").versions(MODEL)
    with pytest.raises(NotReadyError, match="has no status"):
        GatewayClient(gateway.mlflow_uri).versions(MODEL)


def test_a_second_process_with_the_same_id_does_not_start(gateway: Process) -> None:
    command = [sys.executable, "-m", "model_rollouts.gateway.main"]
    ended = subprocess.run(
        command, check=False, env=os.environ | gateway.environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "MODEL_ROLLOUTS_GATEWAY_ID" in ended.stderr


def test_terminating_the_process_finishes_requests_and_commits_the_log(gateway: Process) -> None:
    from deltalake import DeltaTable

    with Load(gateway) as load:
        gateway.wait(lambda: len(load.answers) > 100)
        assert list(gateway.temporary.glob("model-rollouts-*/*")) != []
        gateway.end(signal.SIGTERM)
    answered = {request_id for request_id, _, status, _, _ in load.answers if status == 200}
    logged = DeltaTable(str(gateway.root / "log" / MODEL / "predictions")).to_pandas()["request_id"]
    assert answered <= set(logged)
    assert list((gateway.root / "spool").rglob("*.rows")) == []
    assert list(gateway.temporary.glob("model-rollouts-*")) == []
