"""The first task of every stage run: nothing moves before it succeeds."""

import logging
import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from model_rollouts.core.checks import number
from model_rollouts.core.errors import NotFoundError, NotReadyError, RolloutError
from model_rollouts.core.names import rollout_id_for
from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.operators.base import StageOperator, actor_of, run_of, wiring
from model_rollouts.operators.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from model_rollouts.core.baseline import Baseline
    from model_rollouts.core.plan import Plan
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.wiring import Wiring

#: Fields of the forms that are no parameters of the plan.
OWN_PARAMS = frozenset({"model", "challenger", "rollout_id", "stage", "requested_by", "reason", "on_differences"})


class PreflightOperator(StageOperator):
    """Takes the model's lease for the first stage; for later ones checks that the stage may be opened.

    The first stage's run: makes the plan from the form, checks readiness (champion, challenger, signatures, no
    other rollout, the champion can be monitored, what is to be undone is there, a drill is recent enough), takes the
    lease with the challenger at a share of 0, and waits until the gateways have both versions loaded and warmed, both
    have answered the golden requests, and the rollback has been rehearsed. When something of that does not hold in
    time the rollout is rolled back: the lease is free again and no unit has moved.

    A later stage's run: both versions are loaded and answer the golden requests, or nothing expands.

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
        """Return what later tasks need: "rollout_id", "stage", "mlflow_run_id", "approval", "poll_seconds" and more.

        `power` says how many requests and how much time the stages need to see their margins; see core/stage_power.py.
        """
        parts = wiring()
        params = dict(context["params"])
        if params.get("rollout_id"):
            rollout, stage = self._later(parts, params, context)
        else:
            try:
                rollout, stage = self._first(parts, params, context), 0
            except RolloutError as error:
                # the same form gives the same answer, so a retry would only say it again
                raise AirflowFailException(str(error)) from error
            notify(context, event="started", model=rollout.model, reason=rollout.reason, rollout_id=rollout.id)
        power = self._power(parts, rollout, stage)
        for told in power:
            self.log.log(logging.WARNING if told["underpowered"] else logging.INFO, "%s", told["summary"])
        mlflow_run_id = parts.stage_runs.open(rollout, stage)
        return {
            "rollout_id": rollout.id,
            "stage": stage,
            "mlflow_run_id": mlflow_run_id,
            "mlflow_run_url": self._run_url(parts, mlflow_run_id),
            "approval": rollout.plan.stage(stage).approval,
            "acknowledge": stage == 0 and rollout.plan.readiness.acknowledge,
            "on_call": list(rollout.plan.readiness.on_call),
            "offline": rollout.plan.stage(stage).offline,
            "pattern": rollout.plan.pattern_of(stage).value,
            "poll_seconds": rollout.plan.look_seconds,
            "power": power,
        }

    def _run_url(self, parts: "Wiring", run_id: str) -> str:
        from model_rollouts.adapters.links import run_address

        try:
            return run_address(parts.settings, run_id)
        except Exception as error:  # a link holds nothing up
            self.log.warning("there will be no links to MLflow: %s", error)
            return ""

    @staticmethod
    def _power(parts: "Wiring", rollout: "Rollout", stage: int) -> list[dict[str, Any]]:
        """What the stages need: as it was measured when the rollout began, anew for later stages."""
        if stage == 0:
            events = parts.store.events(rollout_id=rollout.id)
            if told := next((e.evidence.get("power") for e in events if e.kind is EventKind.STARTED), None):
                return list(told)
        return parts.service.power_told(rollout.model, rollout.champion, rollout.plan)

    def _first(self, parts: "Wiring", params: dict[str, Any], context: "Context") -> "Rollout":
        run_id, model = context["dag_run"].run_id, params["model"]
        rollout_id = rollout_id_for(model, params["challenger"], self.pattern, run_id)
        rollout = _known(parts, rollout_id) or self._start(parts, params, context, rollout_id)
        if not rollout.active:
            raise NotReadyError(f"{rollout.id} has ended already: {rollout.state}, {rollout.reason}")
        try:
            self._rehearse(parts, rollout, context)
        except RolloutError as error:
            parts.service.roll_back(rollout.id, actor_of(context), f"preflight: {error}")
            parts.service.sync_registry(rollout.id)
            raise
        return parts.store.rollout(rollout.id)

    def _start(self, parts: "Wiring", params: dict[str, Any], context: "Context", rollout_id: str) -> "Rollout":
        model, actor = params["model"], actor_of(context)
        champion = parts.service.champion(model)
        plan = make_plan(
            self.pattern, params, lambda label_seconds: parts.service.baseline(model, champion, label_seconds)
        )
        plan = parts.data_rollbacks.pinned(plan)
        return parts.service.start(
            rollout_id,
            model,
            params["challenger"],
            plan,
            actor,
            _why(self.pattern, params, context["dag_run"].run_id),
            parts.preflight.before_start(model, champion, plan),
            run_of(context),
        )

    def _rehearse(self, parts: "Wiring", rollout: "Rollout", context: "Context") -> None:
        """What needs the gateways: both versions loaded, golden requests answered, the way back gone once."""
        if rollout.plan.stage(0).offline:
            return  # no traffic moves
        parts.drills.mend(rollout, actor_of(context))
        self._wait_until_loaded(parts, rollout)
        parts.preflight.before_stage(rollout, 0, actor_of(context))
        if rollout.plan.readiness.rehearse and rollout.state is State.PENDING:
            self.log.info("%s", parts.drills.rehearse(rollout, actor_of(context)).summary)

    def _later(self, parts: "Wiring", params: dict[str, Any], context: "Context") -> tuple["Rollout", int]:
        """A later stage, or one that is taken up again: by default the one that is due."""
        rollout = parts.store.rollout(params["rollout_id"])
        if not rollout.active:
            raise AirflowSkipException(f"{rollout.id} has ended: {rollout.state}, {rollout.reason}")
        due = rollout.stage + 1 if rollout.state in (State.PENDING, State.CLEARED) else rollout.stage
        stage = due if params.get("stage") is None else int(params["stage"])
        rollout.plan.stage(stage)
        if not rollout.plan.stage(stage).offline:
            parts.drills.mend(rollout, actor_of(context))
            self._wait_until_loaded(parts, rollout)
            if rollout.state is not State.BAKING:  # an open stage that is taken up again moves nothing
                parts.preflight.before_stage(rollout, stage, actor_of(context))
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


def make_plan(
    pattern: Pattern, params: dict[str, Any], baseline: "Callable[[float], Baseline] | None" = None
) -> "Plan":
    """The plan that the form's values stand for.

    Args:
        pattern: The pattern of the DAG.
        params: Values of the form.
        baseline: Gives the champion's recent traffic for an age at which labels are due, in seconds.

    Raises:
        PlanError: A value is out of its bounds.
    """
    from model_rollouts.core.patterns import parameters_of, plan_from

    values = {name: value for name, value in params.items() if name not in OWN_PARAMS}
    if baseline is None:
        return plan_from(pattern, values)
    maturity = values.get("label_maturity_seconds", parameters_of(pattern)().label_maturity_seconds)
    number("label_maturity_seconds", maturity, 0, 90 * 86_400)
    return plan_from(pattern, values, lambda: baseline(maturity))


def _why(pattern: Pattern, params: dict[str, Any], run_id: str) -> str:
    """What the start goes on record with: what it is, and the person's reason where one was given."""
    said = f"{pattern} of {params['model']} {params['challenger']} started by {run_id}"
    return f"{said}: {params['reason']}" if params.get("reason") else said


def _known(parts: "Wiring", rollout_id: str) -> "Rollout | None":
    """The rollout of a run that is repeated."""
    try:
        return parts.store.rollout(rollout_id)
    except NotFoundError:
        return None
