"""Somebody moves an alias in MLflow while a rollout is under way: the traffic is the store's, and it is told once."""

import pytest
from tests.faults.callers import Callers
from tests.faults.moves import Team
from tests.faults.promises import check_audit, check_deals, check_log, check_stages, logged
from tests.faults.record import shown
from tests.faults.stack import Stack

from bench.mlflow_at import mlflow_at
from model_rollouts.core.rollout import EventKind, State

pytestmark = pytest.mark.timeout(300)


def _move(team: Team, alias: str, version: str | None) -> None:
    import mlflow

    with mlflow_at(team.stack.config.mlflow_url):
        client = mlflow.MlflowClient()
        if version is None:
            client.delete_registered_model_alias(team.model, alias)
        else:
            client.set_registered_model_alias(team.model, alias, version)


def _told(team: Team) -> list[str]:
    events = team.parts.store.events(model=team.model)
    return [event.reason for event in events if event.kind is EventKind.REPORTED and "moved by hand" in event.reason]


@pytest.mark.parametrize(("alias", "to"), [("champion", "2"), ("champion", "3"), ("challenger", None)])
def test_an_alias_that_is_moved_by_hand_moves_no_traffic_and_is_reported_once(
    stack: Stack, alias: str, to: str | None
) -> None:
    name = f"alias-{alias}-{to or 'gone'}"
    team = Team.of(stack, name, [0.0, 0.0, 0.0])
    what = f"alias {alias} moved to version {to}" if to else f"alias {alias} removed"
    held = "callers get what the store says; reported once, not put back unasked; right again after the cut-over"
    with shown(f"by hand, in the middle of a stage: {what}", held) as line:
        rollout = team.open(team.start("2", 20, 100))
        team.parts.service.sync_registry(rollout.id)
        team.wait_followed()
        before = team.traffic
        with Callers(stack.gateway_urls, name, 50.0, name) as callers:
            _move(team, alias, to)
            moved = stack.aliases(name)
            team.reconcile()
            team.reconcile()
            assert stack.aliases(name) == moved, "nobody asked for it to be put back"
            asked = len(callers.requests)
            both = lambda: {each.version for each in callers.requests[asked:]} >= {"1", "2"}  # noqa: E731
            stack.until("callers of both versions", both, 20)
            assert team.traffic == before
            assert len(_told(team)) == 1, _told(team)
            rollout = team.promote(team.clear(rollout))
            team.wait_followed()
        team.wait_logged()
        assert rollout.state is State.PROMOTED
        assert stack.aliases(name) == {"champion": "2", "previous": "1"}
        check_stages(team.parts.store, rollout)
        events = check_audit(team.parts.store, name)
        rows = logged(stack.log_dir, name)
        seen = check_log(rows, callers.requests)
        assert check_deals(rows, events, {rollout.id: rollout}) > 0
        assert not callers.lost
        line.result = f"{seen['answered']:,} answers, {len(_told(team))} report"
