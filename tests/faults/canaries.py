"""Canaries that a real Airflow runs, of a model with versions that are all well."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.faults.callers import Callers
from tests.faults.promises import check_audit, check_deals, check_log, check_stages, logged
from tests.faults.stack import GATEWAYS, Stack

from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.rollout import EventKind, Rollout, State

MODEL = "flights"
RATE = 40.0
PATIENCE = 600.0  # for the next task, on machines that do other things too
FORM: dict[str, Any] = {
    "bake_seconds": 3,
    "deadline_seconds": 900,
    "look_seconds": 1.5,
    "grace_seconds": 4,
    "label_maturity_seconds": 5,
    "label_coverage": 0,
    "control_percent": 40,
    "negligible_error_rate": 0.1,
    "min_requests": 30,
    "latency_slack_ms": 5000,  # how fast two cores are while they start everything anew is no matter of this test
    "golden_requests": 0,
    "may_be_missing": ["accuracy", "latency", "errors", "drift", "business"],
    "requested_by": "test",
}


def serves(stack: Stack, gateway: str) -> bool:
    """Whether a gateway answers for the model."""
    url = stack.gateway_urls[GATEWAYS.index(gateway)]
    try:
        (revision,) = GatewayClient(url).routed(MODEL).values()
    except NotReadyError:
        return False
    return revision is not None


def calling(stack: Stack, name: str) -> Callers:
    """Callers of the model, whose requests are named so."""
    return Callers(stack.gateway_urls, MODEL, RATE, name)


def start(stack: Stack, challenger: str, steps: Sequence[float], **more: Any) -> tuple[str, Rollout]:
    """A canary; gives its first run and the rollout."""
    known = {each.id for each in stack.store.rollouts(MODEL)}
    form = {"model": MODEL, "challenger": challenger, **FORM, "steps": list(steps), **more}
    run = stack.until("Airflow that takes a run", lambda: stack.api.trigger("canary", form), 60)
    fresh = lambda: [each for each in stack.store.rollouts(MODEL) if each.id not in known]  # noqa: E731
    return run, stack.until("rollout", fresh, PATIENCE)[0]


def ended(stack: Stack, rollout: Rollout) -> Rollout:
    """The rollout when it has ended, and its runs with it."""
    stack.until(f"end of {rollout.id}", lambda: not stack.store.rollout(rollout.id).active, PATIENCE)
    stack.until("end of its runs", lambda: not stack.unfinished("canary"), PATIENCE)
    return stack.store.rollout(rollout.id)


def following(stack: Stack) -> str:
    """The version after the champion."""
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    return str(int(traffic.champion) + 1)


def stage_runs(stack: Stack, rollout: Rollout) -> Counter[str]:
    """How many MLflow runs each stage has."""
    from mlflow import MlflowClient

    client = MlflowClient(stack.config.mlflow_url, stack.config.mlflow_url)
    experiment = client.get_experiment_by_name(f"rollouts/{MODEL}")
    found = client.search_runs([experiment.experiment_id], f"tags.`rollout.id` = '{rollout.id}'")
    return Counter(run.data.tags["rollout.stage"] for run in found)


def check_promoted(stack: Stack, rollout: Rollout) -> None:
    """It is the champion: in the traffic, in the registry and in the audit, each stage passed once."""
    stages = len(rollout.plan.stages)
    assert rollout.state is State.PROMOTED, f"{rollout.id} is {rollout.state}: {rollout.reason}"
    check_stages(stack.store, rollout)
    kinds = Counter(event.kind for event in stack.store.events(rollout_id=rollout.id))
    assert kinds[EventKind.STAGE_OPENED] == kinds[EventKind.CLEARED] == stages
    assert kinds[EventKind.CUT_OVER] == 1
    assert kinds[EventKind.HELD] == kinds[EventKind.ROLLED_BACK] == 0
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    roles = traffic.champion, traffic.previous, traffic.challenger, traffic.share
    assert roles == (rollout.challenger, rollout.champion, None, 0)
    wanted = {"champion": rollout.challenger, "previous": rollout.champion}
    stack.until(f"aliases {wanted}", lambda: stack.aliases(MODEL) == wanted, 60)
    assert stage_runs(stack, rollout) == {str(stage): 1 for stage in range(stages)}


def check_callers(stack: Stack, callers: Callers, rollouts: Sequence[Rollout], kills: int = 0) -> None:
    """Everybody was answered, rightly, logged once and dealt as the audit says."""
    stack.wait_ready(*GATEWAYS)
    stack.wait_logged()
    assert not callers.lost, f"{len(callers.lost)} callers got no answer: {callers.left}"
    assert set(callers.left) <= {"broken", "503"}, f"callers saw {callers.left}"
    assert all(each.prediction == int(each.x > 0) for each in callers.requests)
    events = check_audit(stack.store, MODEL)
    rows = logged(stack.log_dir, MODEL, f"{callers.prefix}-")
    check_log(rows, callers.requests, kills)
    assert check_deals(rows, events, {each.id: each for each in rollouts}) > 50
