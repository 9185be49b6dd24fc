"""The few calls of Airflow's REST API that the demo makes."""

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from demo.processes import DemoError

_TIMEOUT = 20.0


class AirflowApi:
    """A logged-in client.

    Args:
        url: Base URL.
        user: Login.
        password: Its password, as Airflow generated it.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._login = {"username": user, "password": password}
        self._token: str | None = None

    def dag_is_there(self, dag_id: str) -> bool:
        """Whether the DAG is parsed and not paused.

        Raises:
            DemoError: A DAG file can't be imported; the message holds the first trace.
        """
        errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
        if errors:
            raise DemoError(f"{errors[0]['filename']} can't be imported:\n{errors[0]['stack_trace']}")
        try:
            return not self._call("GET", f"/api/v2/dags/{dag_id}")["is_paused"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run; gives its id.

        Raises:
            DemoError: Airflow refused; the message says why.
        """
        try:
            answer = self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")
            raise DemoError(f"Airflow refused to start {dag_id} ({error.code}): {reason}") from None
        return str(answer["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The latest 100 runs of a DAG, newest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100&order_by=-run_after")
        runs: list[dict[str, Any]] = found["dag_runs"]
        return runs

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned, or None."""
        path = (
            f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/return_value"
        )
        try:
            value = self._call("GET", f"{path}?deserialize=false")["value"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return json.loads(value) if isinstance(value, str) else value

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        """A task's state, such as "running"; None before it has one."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"
        state = self._call("GET", path)["state"]
        return None if state is None else str(state)

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer a task that waits for a person."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, {"chosen_options": [option], "params_input": {}})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if self._token is None:
            self._token = self._send("POST", "/auth/token", self._login, None)["access_token"]
        try:
            return self._send(method, path, body, self._token)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        self._token = None  # it has expired: log in again, once
        self._token = self._send("POST", "/auth/token", self._login, None)["access_token"]
        return self._send(method, path, body, self._token)

    def _send(self, method: str, path: str, body: Any, token: str | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - our own server
            return json.load(answer)
