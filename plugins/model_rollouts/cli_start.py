"""`rollouts start`: a rollout by the DAG of its pattern, through Airflow's REST API."""

import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_rollouts.cli_shared import By, Code, Model, Reason, changes, person, print_json, told, wiring
from model_rollouts.cli_status import watched
from model_rollouts.core.errors import MissingReasonError, NotFoundError, NotReadyError
from model_rollouts.core.names import rollout_id_for
from model_rollouts.core.plan import Pattern, Plan
from model_rollouts.core.rollout import State

if TYPE_CHECKING:
    from model_rollouts.adapters.airflow_client import AirflowClient
    from model_rollouts.core.rollout import Rollout
    from model_rollouts.wiring import Wiring

_POLL = 1.0
_FORM_ONLY = frozenset({"requested_by", "reason", "on_differences", "model", "challenger", "rollout_id", "stage"})


def start(
    model: Model,
    reason: Reason,
    challenger: Annotated[str, typer.Option(help="Version number, or an alias.")] = "challenger",
    pattern: Annotated[Pattern, typer.Option(help="How it is brought to production.")] = Pattern.CANARY,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the pattern's form, as often as wanted: --set steps=[5,50,100]"),
    ] = None,
    by: By = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has ended. Exit code 1: rolled back.")] = False,
    timeout: Annotated[float | None, typer.Option(min=1, help="Longest wait, in seconds; exit code 6.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan, as JSON.")] = False,
) -> None:
    """Start a rollout: trigger the pattern's DAG with the values of its form.

    Needs MODEL_ROLLOUTS_AIRFLOW_URL, and a token or user and password.
    """
    with told():
        if not reason.strip():
            raise MissingReasonError("reason is empty; say why, it goes on record")
        values = changes(change)
        plan = planned(pattern, values)
        if dry_run:
            print_json([plan.to_dict()])
            return
        parts = wiring()
        if other := parts.store.active(model):
            raise NotReadyError(f"model {model} can't take a second rollout: {other.summary}")
        airflow = parts.airflow()
        _require_ready(airflow, pattern)
        run_id = f"cli__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}__{secrets.token_hex(3)}"
        conf = {
            **values,
            "model": model,
            "challenger": challenger,
            "requested_by": person(by),
            "reason": reason.strip(),
        }
        airflow.trigger(pattern.dag_id, run_id, conf, reason.strip())
        rollout_id = rollout_id_for(model, challenger, pattern, run_id)
        typer.echo(f"run {run_id} of DAG {pattern.dag_id} is triggered; its rollout will be {rollout_id}")
        if wait:
            _wait(parts, airflow, (pattern.dag_id, run_id), model, rollout_id, timeout)
        else:
            typer.echo(f"look at it: rollouts status {model} --watch")


def planned(pattern: Pattern, values: dict[str, Any]) -> Plan:
    """The plan that the values stand for; an A/B test's horizon is worked out when it starts.

    Raises:
        PlanError: A value is out of its bounds, or there is no such field.
    """
    from model_rollouts.core.patterns import plan_from

    return plan_from(pattern, {name: value for name, value in values.items() if name not in _FORM_ONLY})


def _require_ready(airflow: "AirflowClient", pattern: Pattern) -> None:
    dag = airflow.dag(pattern.dag_id)
    if dag is None:
        raise NotFoundError(f"Airflow has no DAG {pattern.dag_id}; `rollouts init` writes it into a project")
    if dag.get("is_paused"):
        raise NotReadyError(f"DAG {pattern.dag_id} is paused; unpause it first: airflow dags unpause {pattern.dag_id}")


def _wait(
    parts: "Wiring",
    airflow: "AirflowClient",
    run: tuple[str, str],
    model: str,
    rollout_id: str,
    timeout: float | None,
) -> None:
    until = None if timeout is None else time.monotonic() + timeout
    while (rollout := _known(parts, rollout_id)) is None:
        state = airflow.state(*run)
        if state == "failed" and _known(parts, rollout_id) is None:
            raise NotReadyError(f"the rollout did not start: {airflow.failure(*run) or f'run {run[1]} failed'}")
        _in_time(until, f"rollout {rollout_id} has not begun: the run is {state}")
        time.sleep(_POLL)
    watched(parts, model, 2.0, until)
    rollout = parts.store.rollout(rollout_id)
    if rollout.active:
        _in_time(until, f"{rollout_id} is {rollout.state} at stage {rollout.stage + 1}: {rollout.reason}")
    typer.echo(f"{rollout_id} is {rollout.state}: {rollout.reason}")
    if rollout.state is not State.PROMOTED:
        raise typer.Exit(int(Code.FAILED))


def _known(parts: "Wiring", rollout_id: str) -> "Rollout | None":
    try:
        return parts.store.rollout(rollout_id)
    except NotFoundError:
        return None


def _in_time(until: float | None, what: str) -> None:
    if until is not None and time.monotonic() >= until:
        typer.echo(f"time ran out; {what}", err=True)
        raise typer.Exit(int(Code.TIME_RAN_OUT))
