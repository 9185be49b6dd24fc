"""The rollout store is lost, and yesterday's backup is put in its place, while callers ask and a rollout has gone on.

What must hold: the gateways follow the restored row within seconds and nobody notices; the rollout is where it was in
the backup, so nothing is promoted that the store does not know to have passed; the registry, which is newer, is left as
it is until a person says that the store is right, and that is in the events; what the log has of the time since is not
counted again for anything.
"""

from dataclasses import fields
from pathlib import Path

import pytest
from tests.faults.callers import Callers
from tests.faults.moves import Team
from tests.faults.promises import check_audit, check_log, logged
from tests.faults.record import shown
from tests.faults.stack import Stack

from model_rollouts.core.evidence import Look
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.looks import due_looks

pytestmark = pytest.mark.timeout(300)

RATE = 60.0


def test_after_a_restore_traffic_is_the_backups_and_the_rollout_goes_on_from_there(
    stack: Stack, tmp_path: Path
) -> None:
    name, scratch = "restored", tmp_path / "scratch"
    team = Team.of(stack, name, [0.0, 0.0, 0.0], scratch_dir=scratch)
    backup = tmp_path / "rollouts.dump"
    held = (
        "no caller without an answer; gateways route by the restored row; shares sum to 100; the audit is whole up to "
        "the backup and goes on; nothing promoted without passing; aliases wait for a person, which an event says; "
        "the evidence is counted as by a process that knows nothing of the time since; log once each"
    )
    fault = "store restored from an older backup, in the middle of the next rollout"
    with shown(fault, held) as line:
        with Callers(stack.gateway_urls, name, RATE, name) as callers:
            first = team.promote(team.start("2", 50, 100))
            second = team.open(team.start("3", 20, 100))
            team.parts.service.sync_registry(second.id)
            team.wait_followed()
            stack.until("looks", lambda: _looks(team, second.id) > 2, 30)
            stack.dump("rollouts", backup)
            kept, audit = team.traffic, team.parts.store.events(model=name)

            # a day goes by
            team.promote(team.clear(second))
            third = team.open(team.start("1", 30, 100))
            team.wait_followed()
            stack.until("looks", lambda: _looks(team, third.id) > 2, 30)
            assert stack.aliases(name)["champion"] == "3"

            stack.restore("rollouts", backup)
            team.parts.store.close()
            assert team.traffic == kept
            team.wait_followed(30)
            assert [team.status(gateway)["share"] for gateway in ("gateway-1", "gateway-2")] == [20, 20]
            assert team.parts.store.events(model=name) == audit
            again = team.now(second)
            assert (again.state, again.stage) == (State.BAKING, 0)
            stack.until("looks", lambda: _looks(team, second.id) > 5, 30)
            _check_evidence(team, second.id, tmp_path)

            findings = team.reconcile()
            assert team.now(second).state in (State.BAKING, State.HOLDING, State.ROLLED_BACK), (
                "nothing passes by itself"
            )
            assert stack.aliases(name)["champion"] == "3", "which of the two is right a person knows"
            told = [e.reason for e in team.parts.store.events(model=name) if e.kind is EventKind.REPORTED]
            assert any("was the store restored?" in reason for reason in told), told
            team.parts.service.sync_registry(second.id)  # as `rollouts sync` does
            assert stack.aliases(name) == {"champion": "2", "challenger": "3", "previous": "1"}
            assert any("is gone" in finding.what for finding in findings), "the run of before the restore is missed"
            team.parts.service.roll_back(second.id, "test", "start anew after the restore")
            team.wait_followed()
        team.wait_logged()
        assert first.state is State.PROMOTED
        assert not callers.lost
        check_audit(team.parts.store, name)
        seen = check_log(logged(stack.log_dir, name), callers.requests)
        line.result = f"{seen['answered']:,} answers, {seen['rows']:,} rows, {len(findings)} findings of reconcile"


def _looks(team: Team, rollout_id: str) -> int:
    team.parts.service.look(rollout_id)
    return team.parts.store.look_counts(rollout_id)[0]


def _check_evidence(team: Team, rollout_id: str, folder: Path) -> None:
    """Sums that were carried over the restore give what the log itself gives."""
    kept = team.parts.store.looks(rollout_id)
    fresh = team.stack.wiring(scratch_dir=folder / "fresh")
    rollout = team.now(team.rollouts[rollout_id])
    due = due_looks(fresh.log, rollout, fresh.service.spans(rollout), [], fresh.service.clock())
    counted = {(look.stage, look.index): look for look in due.looks}
    assert not due.failure
    for look in kept:
        again = counted[look.stage, look.index]
        for part in fields(Look):  # labels are not due where it was kept, and may be by now
            was, now = getattr(look, part.name), getattr(again, part.name)
            assert was in (None, now), f"{part.name} of look {look.index} was kept as {was}, the log says {now}"
