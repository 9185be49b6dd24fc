"""As much of Airflow's REST API (v2) as it takes to run a DAG once and wait for its end."""

import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import requests

from model_rollouts.airflow_ports import Question
from model_rollouts.core.errors import RolloutError

_LIMITS = (3.0, 15.0)  # seconds to connect, and to answer
_FIRST_POLL, _LONGEST_POLL, _SLOWER = 0.5, 5.0, 1.5
_OK, _MULTIPLE, _UNAUTHORIZED, _FORBIDDEN, _MISSING, _CONFLICT, _BROKEN = 200, 300, 401, 403, 404, 409, 500
_TOO_MANY = 429
_SHOWN = 300
_NOTE_CHARS = 1000  # the most that Airflow takes
_ASKING = frozenset({"awaiting_input", "deferred"})
ENDED = frozenset({"success", "failed"})


class AirflowError(RolloutError):
    """Airflow's API did not do what it was asked to.

    Attributes:
        transient: Whether the same call may well succeed later.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class AirflowSettingError(AirflowError, ValueError):
    """Where Airflow is, or who asks, is not set or is nonsense."""


class AirflowClient:
    """Airflow at an address.

    Args:
        url: Of its API server, such as http://127.0.0.1:8080.
        token: A bearer token; where there is none, one is asked for with user and password.
        user: Who may trigger DAGs.
        password: The user's.
    """

    def __init__(self, url: str, token: str | None = None, user: str = "", password: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise AirflowSettingError(
                f"MODEL_ROLLOUTS_AIRFLOW_URL is {url!r}, must be like https://airflow.example.org"
            )
        if token is None and not (user and password):
            raise AirflowSettingError(
                f"there are no credentials for Airflow at {url}; set MODEL_ROLLOUTS_AIRFLOW_TOKEN, or "
                "MODEL_ROLLOUTS_AIRFLOW_USER and MODEL_ROLLOUTS_AIRFLOW_PASSWORD"
            )
        self.url = url.rstrip("/")
        self._user, self._password = user, password
        self._token = token

    def dag(self, dag_id: str) -> Mapping[str, Any] | None:
        """What Airflow knows of a DAG, such as "is_paused"; None where there is none that can be run.

        Raises:
            AirflowError: Airflow can't be asked.
        """
        answer = self._call("GET", f"/dags/{quote(dag_id, safe='')}", also=_MISSING)
        found = None if answer.status_code == _MISSING else self._content(answer)
        return None if found is None or found.get("is_stale") else found

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str = "") -> bool:
        """Start a run, unless it is there already; gives whether it was not.

        Raises:
            AirflowError: There is no such DAG, its conf is refused, or Airflow can't be asked.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf), "note": note or None}
        answer = self._call("POST", f"/dags/{quote(dag_id, safe='')}/dagRuns", body, also=_CONFLICT)
        return answer.status_code != _CONFLICT

    def state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed.

        Raises:
            AirflowError: There is no such run, or Airflow can't be asked.
        """
        return str(self._content(self._call("GET", self._run(dag_id, run_id))).get("state"))

    def run_again(self, dag_id: str, run_id: str) -> None:
        """Have a run that failed run again: the tasks that failed, or all of them where it failed without any.

        A run that ran out of its time, or that a person has marked as failed, has tasks that were skipped.

        Raises:
            AirflowError: There is no such run, or Airflow can't be asked.
        """
        for only_failed in (True, False):
            self._call("POST", f"{self._run(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": only_failed})
            if self.state(dag_id, run_id) != "failed":
                return

    def wait(self, dag_id: str, run_id: str, seconds: float) -> str:
        """State of a run once it has ended, or after the time that one is ready to wait.

        An Airflow that is away for a while is asked again.

        Raises:
            AirflowError: Airflow refuses to tell, or is still away in the end.
        """
        until = time.monotonic() + seconds
        pause = _FIRST_POLL
        while True:
            try:
                state, problem = self.state(dag_id, run_id), None
            except AirflowError as error:
                if not error.transient:
                    raise
                state, problem = "", error
            left = until - time.monotonic()
            if state in ENDED or left <= 0:
                break
            time.sleep(min(pause, left))  # the API has no stable call that waits
            pause = min(pause * _SLOWER, _LONGEST_POLL)
        if problem is not None:
            raise problem
        return state

    def questions(self, dag_id: str, run_id: str) -> list[Question]:
        """What a run waits for a person with, and nobody has answered.

        Raises:
            AirflowError: Airflow can't be asked.
        """
        answer = self._call("GET", f"{self._run(dag_id, run_id)}/hitlDetails?response_received=false", also=_MISSING)
        if answer.status_code == _MISSING:
            return []
        return [
            Question(
                dag_id,
                run_id,
                task_id=str(each["task_instance"]["task_id"]),
                subject=str(each["subject"]),
                body=str(each.get("body") or ""),
                options=tuple(each["options"]),
            )
            for each in self._content(answer).get("hitl_details", [])
            if each["task_instance"]["state"] in _ASKING
        ]

    def answer(self, question: Question, option: str) -> None:
        """Answer a question.

        Raises:
            AirflowError: It was answered meanwhile, the user may not, or Airflow can't be asked.
        """
        path = f"{self._run(question.dag_id, question.run_id)}/taskInstances/{quote(question.task_id)}/-1/hitlDetails"
        self._call("PATCH", path, {"chosen_options": [option], "params_input": {}})

    def failure(self, dag_id: str, run_id: str) -> str:
        """What the first task that failed said last; "" where none did, or Airflow does not tell."""
        path = self._run(dag_id, run_id)
        try:
            tasks = self._content(self._call("GET", f"{path}/taskInstances")).get("task_instances", [])
            failed = [task for task in tasks if task["state"] == "failed"]
            if not failed:
                return ""
            first = min(failed, key=lambda task: str(task.get("end_date")))
            tried = f"{path}/taskInstances/{quote(first['task_id'])}/logs/{first['try_number']}"
            lines = self._content(self._call("GET", tried)).get("content", [])
        except (AirflowError, KeyError, TypeError):
            return ""
        return f"task {first['task_id']} failed: {_last_error(lines)}"

    def add_note(self, dag_id: str, run_id: str, text: str) -> None:
        """Add a line to a run's note, unless it is there already; what people have written stays.

        Where there is no room for both, the line is cut.

        Raises:
            AirflowError: There is no such run, or Airflow can't be asked.
        """
        path = self._run(dag_id, run_id)
        have = str(self._content(self._call("GET", path)).get("note") or "")
        told = f"{have}\n\n{text}"[:_NOTE_CHARS] if have else text[:_NOTE_CHARS]
        if text not in have and told != have:
            self._call("PATCH", f"{path}?update_mask=note", {"note": told})

    # --- inside

    @staticmethod
    def _run(dag_id: str, run_id: str) -> str:
        return f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"

    def _call(
        self, method: Literal["GET", "POST", "PATCH"], path: str, body: Any = None, also: int = 0
    ) -> requests.Response:
        """An answer of success, or of the one other status that the caller can read."""
        for attempt in (1, 2):
            fresh = self._token is None
            if self._token is None:
                self._token = self._log_in()
            headers = {"Authorization": f"Bearer {self._token}"}
            answer = self._send(method, f"/api/v2{path}", body, headers)
            if answer.status_code != _UNAUTHORIZED or attempt == 2 or fresh or not (self._user and self._password):  # noqa: PLR2004
                break
            self._token = None  # it has run out
        if answer.status_code == also or _OK <= answer.status_code < _MULTIPLE:
            return answer
        hint = ""
        if answer.status_code in (_UNAUTHORIZED, _FORBIDDEN):
            hint = "; check MODEL_ROLLOUTS_AIRFLOW_TOKEN, or the user's password and right to trigger DAGs"
        raise AirflowError(
            f"{method} {path} at {self.url}: HTTP {answer.status_code}, {_said(answer)}{hint}",
            transient=answer.status_code >= _BROKEN or answer.status_code == _TOO_MANY,
        )

    def _log_in(self) -> str:
        answer = self._send("POST", "/auth/token", {"username": self._user, "password": self._password}, {})
        if not _OK <= answer.status_code < _MULTIPLE:
            raise AirflowError(
                f"{self.url} refuses to log in {self._user}: HTTP {answer.status_code}, {_said(answer)}; check "
                "MODEL_ROLLOUTS_AIRFLOW_USER and MODEL_ROLLOUTS_AIRFLOW_PASSWORD",
                transient=answer.status_code >= _BROKEN,
            )
        token = self._content(answer).get("access_token")
        if not isinstance(token, str):
            raise AirflowError(f"{self.url}/auth/token gives no access_token; set MODEL_ROLLOUTS_AIRFLOW_TOKEN")
        return token

    def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> requests.Response:
        try:
            return requests.request(
                *(method, f"{self.url}{path}"),
                json=body,
                headers={"Accept": "application/json", **headers},
                timeout=_LIMITS,
                allow_redirects=False,  # a login page is no answer
            )
        except requests.RequestException as error:
            raise AirflowError(f"no Airflow answers at {self.url} ({type(error).__name__})", transient=True) from error

    def _content(self, answer: requests.Response) -> dict[str, Any]:
        try:
            content = answer.json()
        except requests.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise AirflowError(f"what answers at {self.url} is no Airflow: {answer.text[:_SHOWN]!r}")
        return content


def _last_error(lines: Any) -> str:
    """What an exception said, or else the last thing that went wrong, in a task's log."""
    said = ""
    for line in lines if isinstance(lines, list) else []:
        if not isinstance(line, dict):
            continue
        for raised in line.get("error_detail") or []:
            said = str(raised.get("exc_value") or raised.get("exc_type") or said)
        if not line.get("error_detail") and line.get("level") in ("error", "critical"):
            said = str(line.get("event") or said)
    return " ".join(said.split())[:_SHOWN] or "its log in Airflow says why"


def _said(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])[:_SHOWN]
    except (requests.JSONDecodeError, KeyError, TypeError):
        return repr(answer.text[:_SHOWN])
