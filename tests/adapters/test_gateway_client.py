"""Asking several real gateway processes, each of which has a store of its own, so that they can differ."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.serving import MODEL, GatewayProcess, Mover, register, serving
from bench.switch import SHADOW
from model_rollouts.adapters import gateway_client
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.rollout import EventKind
from model_rollouts.core.upkeep import report
from model_rollouts.ports import Gateways, ProbeAnswer
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

_BODIES = {
    "1": "return x * 2",
    "2": "if (x == 13).any(): raise ValueError('13 is unlucky')\n        return x * 100",
    "3": "if (x != 1).any(): time.sleep(3600)\n        return x",
    "4": "time.sleep(0.2)\n        return x",
}
Part = tuple[GatewayProcess, Mover]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Part, Part]]:
    """Two processes with one registry."""
    root = tmp_path_factory.mktemp("gateways")
    uri = register(root, _BODIES)
    with ExitStack() as stack:
        parts = []
        for name in ("g1", "g2"):
            (root / name).mkdir()
            own = {
                "MODEL_ROLLOUTS_GATEWAY_ID": name,
                "MODEL_ROLLOUTS_RETRY_SECONDS": "60",
                "MODEL_ROLLOUTS_CHALLENGER_TIMEOUT_SECONDS": "0.3",
            }
            parts.append(stack.enter_context(serving(root / name, uri, **own)))
        yield parts[0], parts[1]


@pytest.fixture
def parts(both: tuple[Part, Part]) -> Iterator[tuple[Part, Part]]:
    """Both, with their champion alone before and after the test."""
    yield both
    for gateway, mover in both:
        if mover.store.active(MODEL):
            mover.roll_back()
        gateway.wait(lambda gateway=gateway, mover=mover: mover.is_ready(gateway.url))


def client_of(parts: tuple[Part, Part]) -> GatewayClient:
    return GatewayClient(*(gateway.url for gateway, _ in parts))


def start(part: Part, challenger: str, ready: bool = True) -> None:
    gateway, mover = part
    mover.start(SHADOW, challenger)
    if ready:
        gateway.wait(lambda: mover.is_ready(gateway.url))


def put(mover: Mover, **changes: Any) -> None:
    """Change the traffic row by hand."""
    traffic = mover.store.traffic(MODEL)
    assert traffic is not None
    told = report(traffic, EventKind.REPORTED, mover.cause("by hand"))
    row = replace(traffic, revision=traffic.revision + 1, **changes)
    mover.store.apply(replace(told, traffic=row))


def test_it_is_what_the_port_asks_for() -> None:
    gateways: Gateways = GatewayClient("http://127.0.0.1:1")
    assert gateways is not None


def test_a_version_is_ready_only_where_every_process_has_it(parts: tuple[Part, Part]) -> None:
    client = client_of(parts)
    assert client.versions(MODEL) == {"1": "ready"}
    start(parts[0], "2")
    assert client.versions(MODEL) == {"1": "ready", "2": "not there"}
    start(parts[1], "2")
    assert client.versions(MODEL) == {"1": "ready", "2": "ready"}


def test_a_failure_anywhere_is_what_is_told_of_a_version_and_names_the_process(parts: tuple[Part, Part]) -> None:
    gateway, _ = parts[1]
    start(parts[0], "2")
    start(parts[1], "77", ready=False)
    one = GatewayClient(gateway.url)
    gateway.wait(lambda: one.versions(MODEL).get("77", "loading") != "loading")
    assert one.versions(MODEL)["77"].startswith("failed: ")
    states = client_of(parts).versions(MODEL)
    assert (states["1"], states["2"]) == ("ready", "not there")
    assert states["77"].startswith("failed: ")
    assert states["77"].endswith("(g2)")


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (("ready", "loading"), "loading"),
        (("loading", "not there"), "not there"),
        (("not there", "failed: x"), "failed: x (b)"),
        (("failed: x", "loading"), "failed: x (a)"),
        (("ready", "a new word"), "a new word"),
        (("ready", "ready"), "ready"),
    ],
)
def test_the_worst_state_counts(states: tuple[str, str], worst: str) -> None:
    assert gateway_client._worst(dict(zip("ab", states, strict=True))) == worst


def test_each_process_says_which_revision_it_routes_by(parts: tuple[Part, Part]) -> None:
    before = client_of(parts).routed(MODEL)
    assert before["g1"] is not None
    assert before["g2"] is not None
    start(parts[0], "2")
    assert client_of(parts).routed(MODEL) == {"g1": before["g1"] + 1, "g2": before["g2"]}


def test_a_row_is_acknowledged_only_once_it_is_in_force(parts: tuple[Part, Part]) -> None:
    gateway, mover = parts[0]
    client, (before,) = GatewayClient(gateway.url), GatewayClient(gateway.url).routed(MODEL).values()
    assert before is not None
    start(parts[0], "77", ready=False)
    gateway.wait(lambda: client.versions(MODEL).get("77", "loading") != "loading")
    assert client.routed(MODEL) == {"g1": before + 1}, "a challenger that is not there holds nothing up"
    mover.roll_back()
    gateway.wait(lambda: client.routed(MODEL) == {"g1": before + 2})
    put(mover, champion="78")
    try:
        gateway.wait(lambda: client.versions(MODEL).get("78", "loading") != "loading")
        assert client.routed(MODEL) == {"g1": before + 2}, "a champion that is not there does"
    finally:
        put(mover, champion="1")


def test_every_process_answers_a_probe_row_by_row(parts: tuple[Part, Part]) -> None:
    for part in parts:
        start(part, "2")
    client = client_of(parts)
    rows = [{"x": 1.5}, {"x": 13.0}, {"x": "seven"}, {}, {"x": 2.5}]
    answers = client.probe(MODEL, "2", rows)
    assert [[a.gateway for a in of_one] for of_one in answers] == [["g1"] * 5, ["g2"] * 5]
    for name, of_one in zip(("g1", "g2"), answers, strict=True):
        good, unlucky, text, empty, last = of_one
        assert good == ProbeAnswer(name, "ok", "150", 150.0)
        assert last == ProbeAnswer(name, "ok", "250", 250.0)
        assert unlucky == ProbeAnswer(name, "error", error="ValueError: 13 is unlucky")
        assert (text.status, "Row 0 has 'seven'" in text.error) == ("error", True)
        assert (empty.status, "missing inputs ['x']" in empty.error) == ("error", True)
    assert [a.prediction for a in client.probe(MODEL, "1", rows[:1])[1]] == ["3"]
    assert client.probe(MODEL, "1", []) == [[], []]


def test_a_probe_leaves_nothing_in_the_log(parts: tuple[Part, Part]) -> None:
    client_of(parts).probe(MODEL, "1", [{"x": 1.0}])
    assert not list(parts[0][0].root.rglob("*.rows"))
    assert not list((parts[0][0].root / "log").rglob("*.parquet"))


def test_inputs_may_be_what_a_log_gives(parts: tuple[Part, Part]) -> None:
    rows = [{"x": np.float64(1.5)}, {"x": np.int64(2)}, {"x": None}, {"x": float("nan")}, {"x": 1.0, "more": b"a"}]
    rows += [{"x": 1.0, "more": datetime(2026, 1, 1, tzinfo=UTC)}, {"x": 1.0, "more": date(2026, 1, 1)}]
    (answers, _) = client_of(parts).probe(MODEL, "1", rows)
    assert [a.status for a in answers] == ["ok", "ok", "error", "error", "ok", "ok", "ok"]
    assert [a.prediction for a in answers[:2]] == ["3", "4"]
    with pytest.raises(TypeError, match="an input is a set"):
        client_of(parts).probe(MODEL, "1", [{"x": {1}}])


def test_a_version_that_hangs_times_out_and_is_not_waited_for_again(parts: tuple[Part, Part]) -> None:
    start(parts[0], "3")
    began = time.monotonic()
    (answers,) = GatewayClient(parts[0][0].url).probe(MODEL, "3", [{"x": 2.0}] * 30)
    assert time.monotonic() - began < 5
    assert {a.status for a in answers} == {"timeout"}
    assert answers[0].error == "no answer within 0.3 s"
    assert "has been in one call for" in answers[-1].error


def test_rows_that_there_is_no_time_for_say_so(parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_client, "_PROBE_SECONDS", 1.0)
    start(parts[0], "4")
    began = time.monotonic()
    (answers,) = GatewayClient(parts[0][0].url).probe(MODEL, "4", [{"x": 2.0}] * 30)
    assert time.monotonic() - began < 5
    assert answers[0].status == "ok"
    assert (answers[-1].status, answers[-1].error) == ("timeout", "not asked: the rows before it took 1 s")


def test_a_version_that_a_process_has_not_loaded_can_not_be_probed(parts: tuple[Part, Part]) -> None:
    start(parts[0], "2")
    for rows in ([{"x": 1.0}], []):
        with pytest.raises(NotReadyError, match=f"{parts[1][0].url} can't ask version 2 of {MODEL}: not there"):
            client_of(parts).probe(MODEL, "2", rows)


def test_every_process_lists_what_it_runs_on(parts: tuple[Part, Part]) -> None:
    from importlib import metadata
    from platform import python_version

    found = client_of(parts).environments()
    assert set(found) == {"g1", "g2"}
    for packages in found.values():
        assert packages["python"] == python_version()
        assert packages["mlflow"] == metadata.version("mlflow")


ASKED = {
    "versions": lambda client: client.versions(MODEL),
    "routed": lambda client: client.routed(MODEL),
    "probe": lambda client: client.probe(MODEL, "1", [{"x": 1.0}]),
    "environments": lambda client: client.environments(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_process_that_is_frozen_is_named_and_holds_nobody_up_for_long(
    parts: tuple[Part, Part], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_client, "_READ_SECONDS", 0.5)
    frozen = parts[1][0]
    assert frozen.process is not None
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(NotReadyError, match=f"no gateway answers at {frozen.url} .ReadTimeout") as caught:
            ASKED[asked](client_of(parts))
        assert time.monotonic() - began < 5
        assert parts[0][0].url not in str(caught.value)
    finally:
        frozen.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("asked", ASKED)
def test_a_process_that_is_away_is_named(parts: tuple[Part, Part], asked: str) -> None:
    with pytest.raises(NotReadyError, match=r"no gateway answers at http://127.0.0.1:1 .*MODEL_ROLLOUTS_GATEWAY_URL"):
        ASKED[asked](GatewayClient(parts[0][0].url, "http://127.0.0.1:1"))


def test_all_that_are_away_are_named() -> None:
    with pytest.raises(NotReadyError, match=r"127.0.0.1:1 .*127.0.0.1:2 "):
        GatewayClient("http://127.0.0.1:1", "http://127.0.0.1:2").environments()


@pytest.mark.parametrize("asked", ["versions", "routed", "environments"])
def test_two_addresses_of_one_process_are_not_two_processes(parts: tuple[Part, Part], asked: str) -> None:
    url = parts[0][0].url
    with pytest.raises(NotReadyError, match="reach the same gateway, g1"):
        ASKED[asked](GatewayClient(url, url.replace("127.0.0.1", "localhost")))


def test_a_model_that_is_not_served_is_no_empty_answer(parts: tuple[Part, Part]) -> None:
    with pytest.raises(NotReadyError, match="no model nobody"):
        client_of(parts).versions("nobody")


def test_the_token_is_sent(both: tuple[Part, Part], tmp_path: Path) -> None:
    other = both[0][0]
    own = {"MODEL_ROLLOUTS_GATEWAY_TOKEN": "secret", "MODEL_ROLLOUTS_STORE_URL": other.store_url}
    process = GatewayProcess(tmp_path, other.registry, settings=own)
    try:
        process.start()
        with pytest.raises(NotReadyError, match="HTTP 401"):
            GatewayClient(process.url).environments()
        assert "g1" in GatewayClient(process.url, token="secret").environments()
    finally:
        process.end()


# --- what is no gateway


@contextmanager
def answering(respond: Any) -> Iterator[str]:
    """A server that is no gateway."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(body: bytes, status: int = 200, **headers: str) -> Any:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


ODD = {
    "no JSON": (b"<html>", 200, "has no status of switch: HTTP 200, '<html>'"),
    "a list": (b"[]", 200, "has no status"),
    "nothing": (b"", 200, "has no status"),
    "an error": (b"{}", 500, "HTTP 500"),
    "no name": (b'{"versions": {}, "routed_revision": 1}', 200, "no gateway of this version"),
    "no versions": (b'{"gateway_id": "g", "routed_revision": 1}', 200, "no gateway of this version"),
    "odd versions": (b'{"gateway_id": "g", "versions": {"1": 1}, "routed_revision": 1}', 200, "no gateway"),
    "no revision": (b'{"gateway_id": "g", "versions": {"1": "ready"}}', 200, "no gateway of this version"),
    "an odd revision": (b'{"gateway_id": "g", "versions": {}, "routed_revision": true}', 200, "no gateway"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_gateways_answer_counts_for_nothing(name: str) -> None:
    body, status, reason = ODD[name]
    with answering(says(body, status)) as url:
        for asked in ("versions", "routed", "probe"):
            with pytest.raises(NotReadyError, match=reason):
                ASKED[asked](GatewayClient(url))
        with pytest.raises(NotReadyError, match=url):
            GatewayClient(url).environments()


@pytest.mark.parametrize("said", ['"backlog_seconds": 0.25', '"backlog_seconds": 0'])
def test_what_each_gateway_has_not_logged_yet(said: str) -> None:
    body = '{"gateway_id": "g", "versions": {}, "routed_revision": 1, %s}'
    with answering(says((body % said).encode(), 200)) as url:
        assert GatewayClient(url).backlog("switch") == {"g": float(said.split()[1])}


@pytest.mark.parametrize("value", ["null", "true", "-1", "NaN", '"0"', '{}, "backlog_seconds": "?"'])
def test_a_gateway_that_does_not_say_what_it_holds_may_hold_anything(value: str) -> None:
    body = f'{{"gateway_id": "g", "versions": {{}}, "routed_revision": 1, "backlog_seconds": {value}}}'
    with answering(says(body.encode(), 200)) as url:
        client = GatewayClient(url)
        with pytest.raises(NotReadyError, match="no gateway of this version"):
            client.backlog("switch")


def test_what_a_gateway_of_an_earlier_version_or_none_at_all_holds_is_not_known() -> None:
    with answering(says(b'{"gateway_id": "g", "versions": {}, "routed_revision": 1}', 200)) as url:
        client = GatewayClient(url)
        with pytest.raises(NotReadyError, match="no gateway of this version"):
            client.backlog("switch")
    with pytest.raises(NotReadyError, match="no gateway answers"):
        GatewayClient("http://127.0.0.1:1").backlog("switch")


def test_a_token_is_not_sent_on_to_where_a_redirect_points() -> None:
    elsewhere = says(b"", 302, Location="http://127.0.0.1:1/environment")
    with answering(elsewhere) as url, pytest.raises(NotReadyError, match="HTTP 302"):
        GatewayClient(url, token="secret").environments()


def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_client, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(gateway_client, "_MOST_BYTES", 1_000_000)
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler, size: int, wait: float) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(wait):
            try:
                handler.wfile.write(b" " * size)
            except OSError:
                return

    for size, wait in ((1, 0.1), (200_000, 0.0)):
        began = time.monotonic()
        server = answering(lambda handler, size=size, wait=wait: trickle(handler, size, wait))
        with server as url, pytest.raises(NotReadyError, match="must be at most 1000000"):
            GatewayClient(url).environments()
        assert time.monotonic() - began < 4
    stop.set()


def test_one_that_takes_the_connection_and_says_nothing_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_client, "_READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NotReadyError, match=url):
            GatewayClient(url).versions(MODEL)


@pytest.mark.parametrize(
    "result",
    [
        {"status": "ok", "prediction": None, "score": None, "error": ""},
        {"status": "ok", "prediction": "1", "score": True, "error": ""},
        {"status": "ok", "prediction": "1", "score": float("nan"), "error": ""},
        {"status": "fine", "prediction": "1", "score": 1.0, "error": ""},
        {},
    ],
)
def test_a_result_that_is_not_as_the_contract_has_it_is_an_error(result: dict[str, Any]) -> None:
    answer = gateway_client._answer("g", result)
    assert (answer.status, answer.prediction, answer.score) == ("error", None, None)
    assert answer.error


# --- the setting


def test_the_setting_names_each_process() -> None:
    assert Settings().gateway_urls == ("http://127.0.0.1:8600",)
    settings = Settings(gateway_url=" http://a:8600/ , https://b.example/gateway ")
    assert settings.gateway_urls == ("http://a:8600", "https://b.example/gateway")
    with pytest.raises(NotReadyError, match=r"no gateway answers at http://127.0.0.1:1 .*; .*http://127.0.0.1:2"):
        Wiring(Settings(gateway_url="http://127.0.0.1:1,http://127.0.0.1:2")).gateway.environments()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "gateway:8600",
        "http://",
        "http://a:8600,",
        "http://a:x",
        "http://a:70000",
        "ftp://a",
        "http://u:p@a",
        "http://a?b",
    ],
)
def test_an_address_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="must be addresses such as"):
        Settings(gateway_url=value)


def test_a_process_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="must name each gateway process once"):
        Settings(gateway_url="http://a:1,http://a:1/")
    with pytest.raises(ValueError, match="no address"):
        GatewayClient()
