"""The first task of every stage run: nothing moves before it succeeds."""

import hashlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from model_rollouts.core.errors import NotReadyError, RolloutError
from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.operators.base import StageOperator, actor_of, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_rollouts.core.plan import Plan
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.wiring import Wiring

_OWN_PARAMS = frozenset({"model", "challenger", "rollout_id", "stage", "requested_by", "on_drift"})


class PreflightOperator(StageOperator):
    """Takes the model's lease for the first stage; for later ones checks that the stage may be opened.

    The first stage's run: makes the plan from the form, checks readiness (champion, challenger, signatures, no
    other rollout), takes the lease with the challenger at a share of 0, and waits until the gateway has both
    versions loaded and warmed. When that does not happen in time the rollout is rolled back: the lease is free
    again and no unit has moved.

    On retry: finds its own rollout by id and goes on. When MLflow, the store or the gateway is missing: fails, and
    nothing has moved.

    Args:
        pattern: Which pattern the DAG runs.
        load_timeout: Seconds to wait for the gateway to load both versions.
    """

    def __init__(self, *, pattern: Pattern | str, load_timeout: float = 120.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pattern = Pattern(pattern)
        self.load_timeout = load_timeout

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"rollout_id", "stage", "mlflow_run_id", "approval", "poll_seconds", "power"}.

        `power` says how many requests and how much time the stages need to see their margins; see core/stage_power.py.
        """
        parts = wiring()
        params = dict(context["params"])
        if params.get("rollout_id"):
            rollout, stage = self._later(parts, params)
        else:
            try:
                rollout, stage = self._first(parts, params, context), 0
            except RolloutError as error:
                # the same form gives the same answer, so a retry would only say it again
                raise AirflowFailException(str(error)) from error
        power = self._power(parts, rollout, stage)
        for told in power:
            self.log.log(logging.WARNING if told["underpowered"] else logging.INFO, "%s", told["summary"])
        return {
            "rollout_id": rollout.id,
            "stage": stage,
            "mlflow_run_id": parts.stage_runs.open(rollout, stage),
            "approval": rollout.plan.stage(stage).approval,
            "poll_seconds": rollout.plan.look_seconds,
            "power": power,
        }

    @staticmethod
    def _power(parts: "Wiring", rollout: "Rollout", stage: int) -> list[dict[str, Any]]:
        """What the stages need: as it was measured when the rollout began, anew for later stages."""
        if stage == 0:
            events = parts.store.events(rollout_id=rollout.id)
            if told := next((e.evidence.get("power") for e in events if e.kind is EventKind.STARTED), None):
                return list(told)
        return parts.service.power_told(rollout.model, rollout.champion, rollout.plan)

    def _first(self, parts: "Wiring", params: dict[str, Any], context: "Context") -> "Rollout":
        plan = make_plan(self.pattern, params)
        run_id = context["dag_run"].run_id
        rollout_id = rollout_id_for(params["model"], params["challenger"], self.pattern, run_id)
        reason = f"{self.pattern} of {params['model']} {params['challenger']} started by {run_id}"
        rollout = parts.service.start(
            rollout_id, params["model"], params["challenger"], plan, actor_of(context), reason
        )
        if not rollout.active:
            raise NotReadyError(f"{rollout.id} has ended already: {rollout.state}, {rollout.reason}")
        try:
            self._wait_until_loaded(parts, rollout)
        except NotReadyError as error:
            parts.service.roll_back(rollout.id, actor_of(context), f"preflight: {error}")
            parts.service.sync_registry(rollout.id)
            raise
        return rollout

    def _later(self, parts: "Wiring", params: dict[str, Any]) -> tuple["Rollout", int]:
        """A later stage, or one that is taken up again: by default the one that is due."""
        rollout = parts.store.rollout(params["rollout_id"])
        if not rollout.active:
            raise AirflowSkipException(f"{rollout.id} has ended: {rollout.state}, {rollout.reason}")
        due = rollout.stage + 1 if rollout.state in (State.PENDING, State.CLEARED) else rollout.stage
        stage = due if params.get("stage") is None else int(params["stage"])
        rollout.plan.stage(stage)
        self._wait_until_loaded(parts, rollout)
        return rollout, stage

    def _wait_until_loaded(self, parts: "Wiring", rollout: "Rollout") -> None:
        """The rollback target and the challenger both answer, or nothing moves."""
        until = time.monotonic() + self.load_timeout
        while True:
            try:
                states = dict(parts.gateway.versions(rollout.model))
            except NotReadyError as error:
                states, problem = {}, str(error)
            else:
                problem = f"the gateway has {states or 'no version of this model'}"
            wanted = {v: states.get(v, "not there") for v in (rollout.champion, rollout.challenger)}
            if all(state == "ready" for state in wanted.values()):
                self.log.info("champion %s and challenger %s are loaded", rollout.champion, rollout.challenger)
                return
            failed = [f"version {v} {state}" for v, state in wanted.items() if state.startswith("failed")]
            if failed or time.monotonic() >= until:
                raise NotReadyError(
                    f"versions {rollout.champion} and {rollout.challenger} of {rollout.model} must both be loaded "
                    f"before traffic moves; {'; '.join(failed) or problem} "
                    f"(waited up to {self.load_timeout:g} s)"
                )
            time.sleep(0.25)  # bounded by load_timeout; a model loads in seconds


def make_plan(pattern: Pattern, params: dict[str, Any]) -> "Plan":
    """The plan that the form's values stand for.

    Raises:
        PlanError: A value is out of its bounds.
    """
    from model_rollouts.core.errors import PlanError
    from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary

    if pattern is not Pattern.CANARY:
        raise PlanError(f"pattern is {pattern}, only canary can be planned by this version")
    return plan_canary(CanaryParameters.from_dict({k: v for k, v in params.items() if k not in _OWN_PARAMS}))


def rollout_id_for(model: str, challenger: str, pattern: Pattern, run_id: str) -> str:
    """A readable id that the same DAG run always gives again.

    It becomes part of Airflow's run ids, which allow few characters; the digest keeps what the readable part loses.
    """
    digest = hashlib.blake2b(f"{model}\0{challenger}\0{run_id}".encode(), digest_size=4).hexdigest()
    return f"{_slug(model)}-{pattern}-{_slug(challenger)}-{digest}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:60] or "model"
