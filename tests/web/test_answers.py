"""Errors become answers that say what to do, and nothing of the inside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient
from tests.web.test_desk import Rights

from model_rollouts.adapters.sql_engine import Database
from model_rollouts.core.errors import IllegalTransitionError, NotFoundError, RolloutError, StaleRevisionError
from model_rollouts.core.plan import Pattern
from model_rollouts.settings import Settings
from model_rollouts.web import page
from model_rollouts.web.desk import Desk
from model_rollouts.web.reports import SlowMlflowError
from model_rollouts.wiring import Wiring


def client(desk: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(page, "Access", lambda _: Rights(*Pattern))
    return TestClient(page.make_page(desk, lambda: None), raise_server_exceptions=False)


def fails(error: Exception) -> Callable[[], Any]:
    def desk() -> Any:
        raise error

    return desk


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFoundError("there is no rollout 'x'"), 404, "404"),
        (StaleRevisionError("moved on"), 409, "stale"),
        (IllegalTransitionError("it has ended"), 409, "refused"),
        (RolloutError("share is 120, must be at most 100"), 422, "422"),
        (PermissionError("eve may look"), 403, "403"),
        (SlowMlflowError("ConnectionError"), 503, "mlflow"),
    ],
)
def test_what_was_meant_for_a_person_reaches_them(
    error: Exception, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = client(fails(error), monkeypatch).get("/api/rollouts")

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert str(error) in answer.json()["detail"]


def test_what_nobody_expected_is_in_the_log_alone(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    secret = "postgresql://user:hunter2@host"
    for error in (KeyError(secret), PermissionError(13, secret), ZeroDivisionError(secret)):
        answer = client(fails(error), monkeypatch).get("/api/rollouts/x")
        assert answer.status_code == 500
        assert "hunter2" not in answer.text
        number = answer.json()["detail"].rpartition(" ")[2].rstrip(".")
        assert f"page error {number}" in caplog.text
    assert answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "url",
    ["postgresql://rollouts:hunter2@127.0.0.1:9/rollouts", "sqlite:////proc/no/such/folder/rollouts.db"],
)
def test_a_store_that_is_away_is_told_with_what_to_do(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(Wiring(Settings(store_url=url, log_dir=tmp_path)))

    answer = client(lambda: desk, monkeypatch).get("/api/rollouts")

    assert (answer.status_code, answer.json()["code"]) == (503, "store")
    assert "MODEL_ROLLOUTS_STORE_URL" in answer.json()["detail"]
    assert "hunter2" not in answer.text


def test_a_store_without_tables_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with Database(url).write():
        pass
    desk = Desk(Wiring(Settings(store_url=url, log_dir=tmp_path)))

    answer = client(lambda: desk, monkeypatch).get("/api/rollouts")

    assert answer.status_code == 503
    assert "rollouts db upgrade" in answer.json()["detail"]


def test_wrong_settings_are_named_without_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def desk() -> Any:
        return Desk(Wiring(Settings(log_url="mysql://user:hunter2@host", log_dir=tmp_path)))

    with pytest.raises(ValidationError):
        desk()
    answer = client(desk, monkeypatch).get("/api/rollouts")

    assert (answer.status_code, answer.json()["code"]) == (503, "settings")
    assert "MODEL_ROLLOUTS_LOG_URL" in answer.json()["detail"]
    assert "hunter2" not in json.dumps(answer.json())
