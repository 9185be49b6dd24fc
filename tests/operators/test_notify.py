"""Who is told of what, by real Airflow notifiers and a real HTTP server."""

import json
import logging
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseNotifier

from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as core
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.readiness import Readiness
from model_rollouts.core.rollout import Cause
from model_rollouts.notifiers import Notice, WebhookError, WebhookNotifier
from model_rollouts.operators import notify as module
from model_rollouts.operators.notify import Happening, configured, notify
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

heard: list[tuple[str, Any]] = []


class Ear(BaseNotifier):
    """Keeps what its template becomes."""

    template_fields = ("said",)

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def notify(self, context: Any) -> None:
        heard.append((self.said, context["rollout"]))


class Broken(BaseNotifier):
    """Can't be made to work."""

    def notify(self, context: Any) -> None:
        raise RuntimeError("the post is on strike")


class Quitter(BaseNotifier):
    """Tries to end the task."""

    def notify(self, context: Any) -> None:
        raise SystemExit(3)


class Sleeper(BaseNotifier):
    """Hangs until the test ends it."""

    woken = threading.Event()

    def notify(self, context: Any) -> None:
        self.woken.wait(60)


class Receiver(ThreadingHTTPServer):
    """A webhook's receiver."""

    daemon_threads = True

    def __init__(self) -> None:
        self.status = 200
        self.slow = threading.Event()
        self.slow.set()
        self.got: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, body, dict(self.headers)))
        self.server.slow.wait(20)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.slow.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets notifiers, as the environment would; what they hear is in `heard`."""
    heard.clear()
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = SqlStore(url)
    store.migrate()
    store.apply(core.adopt("flights", "1", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))
    plan = replace(plan_canary(CanaryParameters()), readiness=Readiness(on_call=("ann@example.org", "bob@example.org")))
    traffic = store.traffic("flights")
    assert traffic is not None
    store.apply(core.start("ro-1", plan, "2", "salt", traffic, Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "go")))
    store.close()

    def set_to(notifiers: object = None, notify_url: str | None = None, store_url: str = url) -> None:
        monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", store_url)
        text = notifiers if isinstance(notifiers, str) else json.dumps(notifiers or [])
        monkeypatch.setenv("MODEL_ROLLOUTS_NOTIFIERS", text)
        if notify_url:
            monkeypatch.setenv("MODEL_ROLLOUTS_NOTIFY_URL", notify_url)
        made = Wiring(Settings())
        monkeypatch.setattr(module, "wiring", lambda: made)

    return set_to


def ear(said: str = "{{ rollout.event }}", **more: Any) -> dict[str, Any]:
    return {"class": f"{__name__}.Ear", "kwargs": {"said": said}, **more}


def tell(event: str = "rolled_back", **changes: Any) -> None:
    given: dict[str, Any] = {"model": "flights", "reason": "error rate is worse", "rollout_id": "ro-1"}
    notify({}, event=event, **given | changes)


def test_a_notifier_s_templates_know_the_rollout_and_who_is_on_call(told: Callable[..., None]) -> None:
    fields = "{{ rollout.event }}|{{ rollout.model }}|{{ rollout.reason }}|{{ rollout.id }}|{{ rollout.on_call }}"
    told([ear(fields + "|{{ rollout.details.share }}|{{ ds }}")])
    context: Any = {"ds": "2026-01-01"}
    notify(context, event="held", model="flights", reason="no proof", rollout_id="ro-1", details={"share": 5})
    said = "held|flights|no proof|ro-1|ann@example.org, bob@example.org|5|2026-01-01"
    assert [text for text, _ in heard] == [said]
    assert context == {"ds": "2026-01-01"}  # the task's own context is left alone


def test_every_notice_is_made_from_the_template_anew(told: Callable[..., None]) -> None:
    told([ear()])
    tell("started")
    tell("cut_over")
    assert [text for text, _ in heard] == ["started", "cut_over"]


def test_a_reason_is_never_a_template(told: Callable[..., None]) -> None:
    told([ear("{{ rollout.reason }}")])
    tell(reason="{{ 7 * 7 }}")
    assert heard[0][0] == "{{ 7 * 7 }}"


def test_a_notifier_is_told_only_what_it_asked_for(told: Callable[..., None]) -> None:
    told([ear(events=["rolled_back", "stuck"]), ear("all: {{ rollout.event }}")])
    for event in ("started", "stuck"):
        tell(event)
    assert [text for text, _ in heard] == ["all: started", "stuck", "all: stuck"]


def test_an_event_that_nobody_knows_is_told_to_everybody(told: Callable[..., None]) -> None:
    told([ear(events=["stuck"])])
    tell("on_fire")
    assert [text for text, _ in heard] == ["on_fire"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"class": f"{__name__}.Broken"}, "RuntimeError: the post is on strike"),
        ({"class": f"{__name__}.Quitter"}, "SystemExit"),
        ({"class": f"{__name__}.Missing"}, "AttributeError"),
        ({"class": "no.such.Module"}, "ModuleNotFoundError"),
        ({"class": "NoModule"}, "ValueError"),
        ({"class": "pathlib.Path"}, "no subclass of airflow.sdk.BaseNotifier"),
        ({"class": f"{__name__}.Ear"}, "missing 1 required positional argument"),
        ({"class": f"{__name__}.Ear", "kwargs": {"said": "{{ rollout.nobody.at_all }}"}}, "UndefinedError"),
        ({"class": f"{__name__}.Ear", "kwargs": {"said": "{% if"}}, "TemplateSyntaxError"),
        ({"class": f"{__name__}.Ear", "kwargs": [1]}, "kwargs is a list, must be an object"),
        ({"class": 3}, 'must be an object with "class"'),
        ("Ear", 'must be an object with "class"'),
        ({**ear(), "event": ["stuck"]}, "has unknown event; known are class, events, kwargs"),
        (ear(events=["rolledback"]), "events is ['rolledback'], must be a list of started"),
        (ear(events=[]), "events is []"),
        (ear(events=[["a"]]), "unhashable"),
    ],
)
def test_a_notifier_that_fails_is_a_warning_and_the_others_are_told(
    told: Callable[..., None], caplog: pytest.LogCaptureFixture, broken: object, said: str
) -> None:
    told([broken, ear()])
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        tell()
    assert [text for text, _ in heard] == ["rolled_back"]
    assert any(said in record.getMessage() for record in caplog.records if record.name == module.__name__)


@pytest.mark.parametrize(("text", "said"), [("[{", "is no JSON"), ('{"class": "x"}', "is a dict, must be a list")])
def test_a_setting_that_can_not_be_read_is_a_warning(
    told: Callable[..., None], caplog: pytest.LogCaptureFixture, text: str, said: str, receiver: Receiver
) -> None:
    told(text, notify_url=receiver.url)
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        tell()
    assert said in caplog.text
    assert len(receiver.got) == 1
    assert [said in problem for problem in configured()[1]] == [True]


def test_a_store_that_is_away_keeps_nobody_from_being_told(
    told: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    told([ear("{{ rollout.reason }}|{{ rollout.on_call }}")], store_url=f"sqlite:///{tmp_path}/no/such/store.db")
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        tell()
    assert heard[0][0] == "error rate is worse|"
    assert "who is on call for ro-1 is not known" in caplog.text


def test_settings_that_can_not_be_read_raise_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Wiring:
        raise ValueError("MODEL_ROLLOUTS_STORE_URL is broken")

    monkeypatch.setattr(module, "wiring", broken)
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        tell()
    assert "nobody was told of rolled_back of flights: ValueError: MODEL_ROLLOUTS_STORE_URL is broken" in caplog.text


def test_a_notifier_that_hangs_holds_nobody_up(
    told: Callable[..., None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIMIT_SECONDS", 0.2)
    told([{"class": f"{__name__}.Sleeper"}, ear()])
    try:
        with caplog.at_level(logging.WARNING, logger=module.__name__):
            tell()
    finally:
        Sleeper.woken.set()
    assert [text for text, _ in heard] == ["rolled_back"]
    assert "Sleeper is still at it after 0.2 s" in caplog.text


# --- the webhook


def test_a_webhook_alone_is_told_everything(told: Callable[..., None], receiver: Receiver) -> None:
    told(notify_url=f"{receiver.url}/hook")
    for event in Happening:
        tell(event, details={"at": datetime(2026, 1, 1, tzinfo=UTC), "p": float("nan")})
    assert [body["event"] for _, body, _ in receiver.got] == list(Happening)
    path, body, headers = receiver.got[3]
    assert path == "/hook"
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "text": "flights: rolled back. error rate is worse (rollout ro-1) On call: ann@example.org, bob@example.org",
        "event": "rolled_back",
        "model": "flights",
        "reason": "error rate is worse",
        "rollout_id": "ro-1",
        "on_call": "ann@example.org, bob@example.org",
        "details": {"at": "2026-01-01T00:00:00+00:00", "p": None},
    }


def test_a_webhook_may_say_it_in_words_of_its_own(told: Callable[..., None], receiver: Receiver) -> None:
    kwargs = {"url": receiver.url, "text": "*{{ rollout.model }}*", "headers": {"X-Token": "{{ rollout.id }}"}}
    told([{"class": "model_rollouts.notifiers.WebhookNotifier", "kwargs": kwargs}])
    tell()
    (_, body, headers), *_ = receiver.got
    assert (body["text"], headers["X-Token"]) == ("*flights*", "ro-1")


def test_a_reason_can_not_call_the_whole_channel(told: Callable[..., None], receiver: Receiver) -> None:
    told(notify_url=receiver.url)
    tell(reason="<!channel> p95 > 20 ms & more")
    body = receiver.got[0][1]
    assert "&lt;!channel&gt; p95 &gt; 20 ms &amp; more" in body["text"]
    assert body["reason"] == "<!channel> p95 > 20 ms & more"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_receiver_that_refuses_is_a_warning_without_its_address(
    told: Callable[..., None], caplog: pytest.LogCaptureFixture, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    told(notify_url=f"{receiver.url}/services/SECRET")
    with caplog.at_level(logging.DEBUG):
        tell()
    assert f"127.0.0.1 answered HTTP {status}" in caplog.text
    assert "SECRET" not in "".join(r.getMessage() for r in caplog.records if not r.name.startswith("urllib3"))
    assert len(receiver.got) == 1  # neither repeated nor sent elsewhere


def test_a_receiver_that_is_slow_or_away_is_given_up(receiver: Receiver) -> None:
    receiver.slow.clear()
    context: Any = {"rollout": Notice("held", "flights", "no proof")}
    with pytest.raises(WebhookError, match="can't be reached: ReadTimeout"):
        WebhookNotifier(receiver.url, timeout=0.2)(dict(context))
    receiver.slow.set()
    with pytest.raises(WebhookError, match="can't be reached: ConnectionError"):
        WebhookNotifier("http://127.0.0.1:9", timeout=1)(dict(context))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "", "hooks.example.org/x"])
def test_an_address_that_is_no_web_address_is_refused(url: str) -> None:
    context: Any = {"rollout": Notice("held", "flights", "no proof")}
    with pytest.raises(WebhookError, match="must be http or https"):
        WebhookNotifier(url)(context)


@pytest.mark.parametrize("timeout", [0, -1, 61, float("nan")])
def test_a_time_limit_out_of_its_bounds_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 60 s"):
        WebhookNotifier("http://127.0.0.1", timeout=timeout)


def test_the_webhook_serves_as_a_plain_callback_of_a_dag(receiver: Receiver) -> None:
    context: Any = {"dag_run": type("Run", (), {"dag_id": "nightly", "run_id": "manual__1"})}
    WebhookNotifier(receiver.url)(context)
    assert "Airflow run nightly/manual__1" in receiver.got[0][1]["text"]


# --- mail, by Airflow's own notifier


class MailHandler(socketserver.StreamRequestHandler):
    """As much of SMTP as one mail needs."""

    def handle(self) -> None:
        mails: list[str] = self.server.mails  # type: ignore[attr-defined]
        self.wfile.write(b"220 test\r\n")
        while command := self.rfile.readline().decode().strip():
            verb = command[:4].upper()
            if verb == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                mails.append(b"".join(lines).decode())
            elif verb in ("MAIL", "RCPT"):
                mails.append(command)
            self.wfile.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                return


def test_the_mail_of_the_example_goes_to_who_is_on_call(
    told: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailHandler) as server:
        server.mails = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": server.server_address[1],
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "rollouts@example.org"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        (example,) = json.loads(str(module.__doc__).split("notifiers:\n")[1].split("\n\n`events`")[0])
        told([example])
        with caplog.at_level(logging.WARNING, logger=module.__name__):
            tell("started")
            tell(reason="<b>worse</b>")
        server.shutdown()
        assert caplog.text == ""
        sender, one, other, mail = server.mails  # type: ignore[attr-defined]
    assert "rollouts@example.org" in sender
    assert ("ann@example.org" in one, "bob@example.org" in other) == (True, True)
    assert "Subject: flights: rolled_back" in mail
