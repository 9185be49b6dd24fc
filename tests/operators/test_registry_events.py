"""What the answers of Airflow's API server mean to a task; the rest of the operator is tested with its DAG."""

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, OKResponse

from model_rollouts.core.registry_events import RunRefusedError, UnknownDagError
from model_rollouts.operators.registry_events import TaskRuns


class Supervisor:
    """The supervisor's stand-in: answers in the types that a real one sends, and keeps what it was sent."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[Any] = []

    def send(self, message: Any) -> Any:
        self.sent.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Task:
    """The task instance's stand-in."""

    def __init__(self, paused: bool = False, error: Exception | None = None) -> None:
        self.is_paused = paused
        self.error = error

    def get_dag(self, dag_id: str) -> Any:
        if self.error is not None:
            raise self.error
        return self


def refusal(status: int | None, detail: Any) -> AirflowRuntimeError:
    """As a supervisor wraps an answer of the API server."""
    body = {"status_code": status, "message": "Server returned error", "detail": {"detail": detail}}
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=body))


def trigger(monkeypatch: pytest.MonkeyPatch, answer: Any, task: Task | None = None) -> tuple[bool, Supervisor]:
    supervisor = Supervisor(answer)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    runs = TaskRuns({"ti": task or Task()})  # type: ignore[typeddict-item]
    return runs.trigger("canary", "run-1", {"model": "m"}), supervisor


def test_a_run_is_asked_for_with_its_id_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made, supervisor = trigger(monkeypatch, OKResponse(ok=True))

    (sent,) = supervisor.sent
    assert made
    assert (sent.dag_id, sent.run_id, sent.conf, sent.reset_dag_run) == ("canary", "run-1", {"model": "m"}, False)


def test_a_run_that_is_there_already_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = trigger(monkeypatch, ErrorResponse(error=ErrorType.DAGRUN_ALREADY_EXISTS))

    assert not made


@pytest.mark.parametrize("status", [400, 422])
def test_what_the_form_refuses_is_refused_and_said_in_one_line(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    answer = refusal(status, {"reason": "value_error", "message": "alpha: 5 is\n\ngreater than 0.2"})

    with pytest.raises(RunRefusedError, match=r"DAG canary: alpha: 5 is greater than 0\.2$"):
        trigger(monkeypatch, answer)


def test_a_dag_that_is_not_there_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = refusal(404, {"reason": "not_found", "message": "The Dag was not found"})

    with pytest.raises(UnknownDagError, match="The Dag was not found"):
        trigger(monkeypatch, gone)
    with pytest.raises(UnknownDagError):
        trigger(monkeypatch, OKResponse(ok=True), Task(error=gone))


def test_a_paused_dag_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(OKResponse(ok=True))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)

    with pytest.raises(RunRefusedError, match="paused"):
        TaskRuns({"ti": Task(paused=True)}).trigger("canary", "run-1", {})  # type: ignore[typeddict-item]

    assert supervisor.sent == []


@pytest.mark.parametrize("status", [None, 401, 429, 500, 503])
def test_anything_else_is_tried_again(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    answer = refusal(status, "away")

    with pytest.raises(AirflowRuntimeError) as caught:
        trigger(monkeypatch, answer)

    assert caught.value is answer
