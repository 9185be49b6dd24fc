"""What is logged: JSON lines that say what they are about, text for people, and secrets in neither."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from model_rollouts import wiring
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.doctor import _without_password
from model_rollouts.logs import Hiding, about
from model_rollouts.operators.base import StageOperator
from model_rollouts.triggers import watch

SECRETS = {
    "MODEL_ROLLOUTS_GATEWAY_TOKEN": "gateway-token-9f3",
    "MODEL_ROLLOUTS_WEBHOOK_SECRET": "webhook-secret-77",
    "MODEL_ROLLOUTS_AIRFLOW_PASSWORD": "airflow-password-55",
    "MODEL_ROLLOUTS_UPSTREAM_TOKENS": '{"flights": "upstream-token-31"}',
    "MODEL_ROLLOUTS_NOTIFY_URL": "https://hooks.example/T0/B1/hook-part-8",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-42",
    "POSTGRES_PASSWORD": "pg-password-66",
}
LEAKS = [*(v for v in SECRETS.values() if v[0] != "{"), "upstream-token-31", "url-password-12", "bearer-thing-98"]

_LOGS = """
import logging, structlog, os
from model_rollouts.logs import about, log_to_stderr

log_to_stderr("text")
log = structlog.get_logger("x")
tell = dict(os.environ)
with about(rollout_id="r1", model="flights", stage=2, request_id="q7"):
    log.error("one", said=tell, nested={"deep": [tell, ("https://me:url-password-12@host/x",)]})
    logging.getLogger("library").warning("two of %s: %s", "flights", tell)
    try:
        raise ValueError("no connection to postgresql://me:url-password-12@host/db?password=url-password-12")
    except ValueError:
        log.exception("three")
        logging.getLogger("library").exception("four")
    log.warning("five", headers={"Authorization": "Bearer bearer-thing-98"}, rollout="r2")
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, as logging is of a whole process."""
    env = {name: value for name, value in os.environ.items() if name != "MODEL_ROLLOUTS_LOG_FORMAT"} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_as_json_every_line_is_an_object_that_says_what_it_is_about_and_no_secret_is_in_any() -> None:
    done = run(sys.executable, "-c", _LOGS, **SECRETS, MODEL_ROLLOUTS_LOG_FORMAT="json")

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    events = {line["event"].split(" of ")[0]: line for line in lines}
    assert set(events) == {"one", "two", "three", "four", "five"}
    where = {"model": "flights", "stage": 2, "request_id": "q7"}
    assert all({name: line[name] for name in where} == where for line in lines)
    assert all(line["rollout_id"] == "r1" for line in lines[:4])
    assert {line["level"] for line in lines} == {"error", "warning"}
    assert "ValueError: no connection to postgresql://(hidden)@host/db" in events["three"]["exception"]
    assert "ValueError: no connection to postgresql://(hidden)@host/db" in events["four"]["exception"]
    assert events["one"]["said"]["AWS_SECRET_ACCESS_KEY"] == "(hidden)"
    assert [leak for leak in LEAKS if leak in done.stderr] == []


def test_as_text_it_is_for_people_and_no_secret_is_in_it_either() -> None:
    done = run(sys.executable, "-c", _LOGS, **SECRETS, MODEL_ROLLOUTS_LOG_FORMAT="text")

    assert done.returncode == 0, done.stderr
    assert "rollout_id=r1" in done.stderr
    assert "two of flights" in done.stderr
    assert not done.stderr.startswith("{")
    assert [leak for leak in LEAKS if leak in done.stderr] == []


def test_what_hides_secrets_would_be_missed() -> None:
    """The same texts, hidden by nothing, have all the secrets in them: the tests above can fail."""
    told = json.dumps({**SECRETS, "url": "https://me:url-password-12@host", "h": "Bearer bearer-thing-98"})
    assert [leak for leak in LEAKS if leak not in told] == []
    assert [leak for leak in LEAKS if leak in Hiding(SECRETS).text(told)] == []


def test_words_are_no_secrets() -> None:
    hide = Hiding({"SHORT_PASSWORD": "on", "EMPTY_TOKEN": "", "PLAIN": "flights"})

    assert hide.text("look on flights at https://host/path?x=1") == "look on flights at https://host/path?x=1"
    assert hide.hidden([1, None, 2.5, True]) == [1, None, 2.5, True]


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("postgresql://u:pa/ss@h/db", "postgresql://(hidden)@h/db"),
        ("postgresql://u:12/ss@h:5432/db", "postgresql://(hidden)@h:5432/db"),
        ("postgresql+psycopg://u:p@ss@h/db", "postgresql+psycopg://(hidden)@h/db"),
        ("https://ghp_xxx@github.com/x", "https://(hidden)@github.com/x"),
        ("host=h password=abc user=u", "host=h password=(hidden) user=u"),
        ("host=h password='a \\' b' user=u", "host=h password=(hidden) user=u"),
        ("PGPASSWORD=abc psql", "PGPASSWORD=(hidden) psql"),
        ("postgresql:///db?user=u&password=abc", "postgresql:///db?user=u&password=(hidden)"),
        ("?user=u&password=abc&host=h", "?user=u&password=(hidden)&host=h"),
        ("AccountName=a;AccountKey=ab/c==;EndpointSuffix=x", "AccountName=a;AccountKey=(hidden);EndpointSuffix=x"),
    ],
)
def test_what_opens_a_door_is_hidden_wherever_it_comes_from(told: str, left: str) -> None:
    assert Hiding({}).text(told) == left
    assert _without_password(told) == left


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "MINIO_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "OPENAI_API_KEY",
     "AZURE_STORAGE_CONNECTION_STRING"],
)  # fmt: skip
def test_a_variable_is_a_secret_by_its_name(name: str) -> None:
    assert Hiding({name: "abc-42"}).text("it said abc-42") == "it said (hidden)"


@pytest.mark.parametrize(
    "told",
    [
        "http://gateway:8080/v1/models/m@champion",
        "https://host/@scope/name",
        "s3://bucket/features/day@1",
        "the password is wrong; give password= or MODEL_ROLLOUTS_AIRFLOW_PASSWORD",
        "models:/flights@champion",
    ],
)
def test_what_opens_none_is_left(told: str) -> None:
    assert Hiding({}).text(told) == told


def test_of_notifiers_only_what_may_be_secret_is() -> None:
    notifiers = [
        {
            "class": "airflow.providers.slack.notifications.slack.SlackNotifier",
            "kwargs": {
                "slack_conn_id": "slack", "channel": "alerts", "text": "look", "integration_key": "key-one",
                "headers": {"Authorization": "Token two-two", "Content-Type": "application/json"},
                "nested": [{"auth_token": ["three-3"]}, "tgram://four/4", "https://hooks.example/T0/five"],
            },
            "events": ["rolled_back"],
        },
        {"class": "model_rollouts.notifiers.WebhookNotifier", "kwargs": {"url": "https://example/six"}},
    ]  # fmt: skip
    hide = Hiding({"MODEL_ROLLOUTS_NOTIFIERS": json.dumps(notifiers)})

    words = "alerts to slack: rolled_back, look; application/json; SlackNotifier"
    assert hide.text(words) == words
    for secret in ("key-one", "Token two-two", "three-3", "tgram://four/4", "https://hooks.example/T0/five",
                   "https://example/six", json.dumps(notifiers)):  # fmt: skip
        assert hide.text(f"said {secret} here") == "said (hidden) here"


@pytest.fixture
def store(tmp_path: Path) -> dict[str, str]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    made = SqlStore(url)
    made.migrate()
    made.close()
    return {"MODEL_ROLLOUTS_STORE_URL": url}


def test_a_command_tells_its_error_as_json_where_it_is_asked_to(store: dict[str, str]) -> None:
    command = (sys.executable, "-m", "model_rollouts.cli", "history", "flights")

    text, machine = run(*command, **store), run(*command, **store, MODEL_ROLLOUTS_LOG_FORMAT="json")

    assert (text.returncode, machine.returncode) == (4, 4)
    assert text.stderr.startswith("error: the store knows no model 'flights'")
    line = json.loads(machine.stderr)
    assert (line["event"], line["command"], line["exit_code"]) == ("command_failed", "history", 4)
    assert (line["model"], line["level"]) == ("flights", "error")
    assert line["error"].startswith("the store knows no model 'flights'")


def test_another_format_is_refused(store: dict[str, str]) -> None:
    refused = run(sys.executable, "-m", "model_rollouts.cli", "status", **store, MODEL_ROLLOUTS_LOG_FORMAT="xml")

    assert refused.returncode == 2
    assert refused.stderr == "error: MODEL_ROLLOUTS_LOG_FORMAT is 'xml', must be json or text\n"


def test_an_error_of_the_command_line_has_no_password(tmp_path: Path) -> None:
    url = "postgresql://me:url-password-12@127.0.0.1:9/db"
    for asked in ("json", "text"):
        done = run(
            sys.executable, "-m", "model_rollouts.cli", "status",
            MODEL_ROLLOUTS_STORE_URL=url, MODEL_ROLLOUTS_LOG_FORMAT=asked,
        )  # fmt: skip
        assert done.returncode == 5, done.stderr
        assert "url-password-12" not in done.stderr + done.stdout


class _Seen(logging.Handler):
    """What a log line is about, as Airflow's logging would see it."""

    def __init__(self) -> None:
        super().__init__()
        self.about: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.about.append(dict(structlog.contextvars.get_contextvars()))


def test_a_triggers_look_says_which_rollout_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(wiring, "shared", away)
    seen = _Seen()
    watch.logger.addHandler(seen)
    try:
        with about(trigger_id=7):  # Airflow's own
            watch.look_once("r1", 3)
    finally:
        watch.logger.removeHandler(seen)

    assert seen.about == [{"trigger_id": 7, "rollout_id": "r1", "stage": 3}]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_task_says_which_rollout_it_is_about() -> None:
    opened = {"rollout_id": "r1", "stage": 1, "mlflow_run_id": "m"}
    context: Any = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: opened), "params": {"model": "flights"}}
    try:
        StageOperator(task_id="x").stage_of(context)
        assert structlog.contextvars.get_contextvars() == {"rollout_id": "r1", "stage": 1, "model": "flights"}
    finally:
        structlog.contextvars.clear_contextvars()
