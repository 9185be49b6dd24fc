"""Trigger a rollout in Airflow and follow it in the rollout store until it has ended."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape

from demo.airflow_api import AirflowApi
from demo.cases import FORMS, Case
from demo.config import MODEL, SETTLE_SECONDS, DemoConfig
from demo.processes import DemoError
from demo.progress import Progress
from demo.summary import RolloutReport, report_of
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.decision import decide
from model_rollouts.core.rollout import Event, EventKind, Rollout, State

_POLL_SECONDS = 0.5
_FAILURE_POLL_SECONDS = 4.0  # asking Airflow costs more than asking the store
_ENDED = (State.PROMOTED, State.ROLLED_BACK, State.HOLDING)
_UNFINISHED = ("queued", "running")


class Follower:
    """Rolls one challenger out after the other.

    Args:
        config: Of the demo.
        api: Airflow.
        store: The rollout store.
        progress: Where to tell.
        check: Raises when a process of the demo has ended.
        forms: Of each pattern.
    """

    def __init__(
        self,
        config: DemoConfig,
        api: AirflowApi,
        store: SqlStore,
        progress: Progress,
        check: Callable[[], None],
        forms: Mapping[str, Mapping[str, Any]] = FORMS,
    ) -> None:
        self._config = config
        self._api = api
        self._store = store
        self._progress = progress
        self._check = check
        self._forms = forms

    def wait_for_history(self) -> None:
        """Wait until the champion can be monitored by what it has logged: no rollout starts before.

        Raises:
            DemoError: It can't be, however long it serves.
        """
        from model_rollouts.core.patterns import plan_from
        from model_rollouts.core.plan import Pattern
        from model_rollouts.wiring import Wiring

        parts = Wiring()
        form = {k: v for k, v in self._forms["canary"].items() if k != "on_call"}
        plan = plan_from(Pattern.CANARY, form)
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            self._check()
            champion = parts.service.adopt(MODEL, "demo").champion
            missing = [check for check in parts.preflight.before_start(MODEL, champion, plan) if not check.ok]
            if not missing:
                return
            told = "; ".join(f"{check.name}: {check.detail}" for check in missing)
            if time.monotonic() > until:
                raise DemoError(f"the champion can't be monitored after {SETTLE_SECONDS:g} s: {told}")
            self._progress.waiting(f"the champion serves until it can be monitored: {escape(told)}")
            time.sleep(_POLL_SECONDS)

    def roll_out(self, case: Case, version: str) -> RolloutReport:
        """Roll a version out and wait for its end, or for the time limit.

        Raises:
            DemoError: Airflow refused, or a stage's run failed.
        """
        began = time.monotonic()
        known = {rollout.id for rollout in self._store.rollouts(MODEL)}
        first = self._start(case, version)
        rollout: Rollout | None = None
        told, asked = 0, began
        while time.monotonic() - began < self._config.rollout_seconds:
            self._check()
            rollout = self._find(rollout, version, known)
            if rollout is not None:
                told = self._tell(rollout, told)
                if rollout.state in _ENDED:
                    break
            self._progress.waiting(self._line(case.challenger, rollout))
            if time.monotonic() - asked >= _FAILURE_POLL_SECONDS:
                self._require_no_failure(case, first, rollout)
                asked = time.monotonic()
            time.sleep(_POLL_SECONDS)
        if rollout is None:
            raise DemoError(f"{case.title}: no rollout began within {self._config.rollout_seconds:g} s; {self._logs()}")
        seconds = time.monotonic() - began
        events = self._store.events(rollout_id=rollout.id)
        if rollout.active:
            self._free_the_lease(rollout)  # also ends the run: a stage that holds is watched until it no longer does
        self._settle(case)
        return report_of(
            rollout,
            events,
            self._mlflow_runs(case, rollout.id),
            challenger=case.challenger,
            expected=case.expected,
            seconds=seconds,
            replayed=self._replay(rollout),
        )

    def _start(self, case: Case, version: str) -> str | None:
        """Trigger the DAG, or set the alias that does; gives the run where it is known."""
        if not case.by_registry:
            conf = {"model": MODEL, "challenger": version, "requested_by": "demo", **self._forms[case.pattern]}
            first = self._api.trigger(case.dag_id, conf)
            self._progress.say(f"[bold]{case.title}[/] (version {version}): {case.dag_id} triggered, run {first}")
            return first
        request_rollout(self._config.mlflow_url, version, case.pattern, self._forms[case.pattern])
        self._progress.say(f"[bold]{case.title}[/]: alias challenger of {MODEL} set to version {version} in MLflow")
        return None

    def _replay(self, rollout: Rollout) -> str:
        """Count the rollout's looks anew from the log and judge them anew; "" when every decision comes out again."""
        from model_rollouts.replay.recorded import replay_recorded
        from model_rollouts.wiring import Wiring

        result = replay_recorded(Wiring().service, self._store.rollout(rollout.id))
        different = [f"{c.event} of stage {c.recorded.stage + 1}" for c in result.comparisons if c.differences]
        self._progress.say(
            f"  replayed from the log: {len(result.comparisons) - len(different)} of {len(result.comparisons)} live "
            f"decisions come out the same"
        )
        return f"replay differs in {', '.join(different)}; looks changed: {result.changed_looks}" if different else ""

    def _find(self, rollout: Rollout | None, version: str, known: set[str]) -> Rollout | None:
        if rollout is not None:
            return self._store.rollout(rollout.id)
        fresh = [r for r in self._store.rollouts(MODEL) if r.id not in known and r.challenger == version]
        return fresh[0] if fresh else None

    def _tell(self, rollout: Rollout, told: int) -> int:
        """Say the events that have not been said; gives how many have been by now."""
        events = self._store.events(rollout_id=rollout.id)
        for event in events[told:]:
            self._progress.say(f"  {_described(event, rollout)}")
        return len(events)

    def _line(self, challenger: str, rollout: Rollout | None) -> str:
        """What is being waited for, with the numbers as they are."""
        if rollout is None:
            return f"{challenger}: waiting for preflight"
        if rollout.state is not State.BAKING or rollout.judged_from is None:
            return f"{challenger}: {rollout.state}, stage {rollout.stage + 1} of {len(rollout.plan.stages)}"
        elapsed = (datetime.now(UTC) - rollout.judged_from).total_seconds()
        decision = decide(rollout.plan, rollout.stage, self._store.looks(rollout.id), elapsed)
        share = rollout.plan.stage(rollout.stage).share
        stages = len(rollout.plan.stages)
        place = f"stage {rollout.stage + 1} of {stages}, {share:g} %, {elapsed:.0f} s"
        return f"{challenger}: {place}: {decision.verdict}, {escape(decision.reason)}"

    def _require_no_failure(self, case: Case, first: str | None, rollout: Rollout | None) -> None:
        """A failed run of the DAG ends the demo: nobody is there to repair it.

        Raises:
            DemoError: A run has failed.
        """
        for run in self._api.runs(case.dag_id):
            ours = run["dag_run_id"] == first or (
                rollout is not None and (run.get("conf") or {}).get("rollout_id") == rollout.id
            )
            if ours and run["state"] == "failed":
                raise DemoError(f"run {run['dag_run_id']} of {case.dag_id} has failed; {self._logs()}")

    def _settle(self, case: Case) -> None:
        """Wait until the runs have ended: the registry follows the traffic in their last tasks."""
        until = time.monotonic() + SETTLE_SECONDS
        while unfinished := [r["dag_run_id"] for r in self._api.runs(case.dag_id) if r["state"] in _UNFINISHED]:
            self._check()
            if time.monotonic() > until:
                raise DemoError(f"runs still going {SETTLE_SECONDS:g} s after the end: {unfinished}; {self._logs()}")
            self._progress.waiting("waiting for the last tasks")
            time.sleep(_POLL_SECONDS)

    def _free_the_lease(self, rollout: Rollout) -> None:
        """Roll back what held or did not end, so that the next challenger can be judged; the report keeps its state."""
        from model_rollouts.wiring import Wiring

        service = Wiring().service
        service.roll_back(rollout.id, "demo", "not ended by itself; rolled back to make way for the next challenger")
        service.sync_registry(rollout.id)
        self._progress.say(f"[yellow]{rollout.id} is {rollout.state}: rolled back to make way for the next one[/]")

    def _mlflow_runs(self, case: Case, rollout_id: str) -> dict[int, str]:
        """MLflow run of each stage, from what preflight returned."""
        found: dict[int, str] = {}
        for run in self._api.runs(case.dag_id):
            opened = self._api.returned(case.dag_id, run["dag_run_id"], "preflight")
            if isinstance(opened, dict) and opened.get("rollout_id") == rollout_id:
                found[int(opened["stage"])] = str(opened["mlflow_run_id"])
        return found

    def _logs(self) -> str:
        return f"see {self._config.home / 'airflow' / 'logs'} and {self._config.home / 'logs'}"


def versions_by_variant(mlflow_url: str) -> dict[str, str]:
    """Newest version of each variant, from the tags that training set.

    Raises:
        DemoError: The registry can't be asked.
    """
    url = f"{mlflow_url}/api/2.0/mlflow/model-versions/search?filter=name%3D%27{MODEL}%27&max_results=1000"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own server
            found = json.load(answer).get("model_versions", [])
    except (urllib.error.URLError, OSError) as error:
        raise DemoError(f"MLflow can't be asked for the versions of {MODEL}: {error}") from None
    newest: dict[str, str] = {}
    for version in sorted(found, key=lambda v: int(v["version"])):
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        if "variant" in tags:
            newest[tags["variant"]] = str(version["version"])
    return newest


def request_rollout(mlflow_url: str, version: str, pattern: str, form: Mapping[str, Any]) -> None:
    """Ask for a rollout the way a person does who only knows MLflow: tags on the version, then the alias.

    Raises:
        DemoError: The registry refused.
    """
    base = {"name": MODEL, "version": version}
    for method, path, body in (
        ("POST", "model-versions/set-tag", {**base, "key": "rollout.params", "value": json.dumps(dict(form))}),
        ("POST", "model-versions/set-tag", {**base, "key": "rollout.request", "value": pattern}),
        ("POST", "registered-models/alias", {**base, "alias": "challenger"}),
    ):
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{mlflow_url}/api/2.0/mlflow/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20):  # noqa: S310 - the same
                pass
        except (urllib.error.URLError, OSError) as error:
            raise DemoError(f"MLflow refused {path} for version {version} of {MODEL}: {error}") from None


def _described(event: Event, rollout: Rollout) -> str:
    colour = {EventKind.ROLLED_BACK: "red", EventKind.CUT_OVER: "green", EventKind.HELD: "yellow"}.get(
        event.kind, "cyan"
    )
    share = event.after.get(rollout.challenger, 0.0)
    return f"[{colour}]{event.kind}[/] challenger at {share:g} %: {escape(event.reason)}"
