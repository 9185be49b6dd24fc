"""A challenger that takes half a minute to load: nobody waits for it, and it gets no request before it is there."""

import time

import pytest
from tests.faults.callers import Callers
from tests.faults.moves import Team
from tests.faults.promises import check_audit, check_deals, check_log, logged
from tests.faults.record import FULL, shown
from tests.faults.stack import GATEWAYS, Stack

pytestmark = pytest.mark.timeout(300)

LOAD_SECONDS = 30.0 if FULL else 4.0
MOST_MS = 2000.0  # that a caller waits, on a machine that is loading two models meanwhile
RATE = 50.0


def test_while_a_challenger_loads_the_champion_answers_everybody(stack: Stack) -> None:
    name = "slow-to-load"
    team = Team.of(stack, name, [0.0, LOAD_SECONDS])
    held = (
        "the champion answers every request until it is loaded, though its share is open already; then it gets its "
        "share; no caller waits for it; its rows begin when it is there"
    )
    with shown(f"a challenger that takes {LOAD_SECONDS:g} s to load", held) as line:
        with Callers(stack.gateway_urls, name, RATE, name) as callers:
            began = time.monotonic()
            rollout = team.open(team.start("2", 50, 100, loaded=False))
            stack.until("both gateways that load", lambda: _states(team) == {"loading"}, 20)
            team.wait_followed(LOAD_SECONDS + 90)
            loaded = time.monotonic()
            stack.until("the challenger's answers", lambda: "2" in {each.version for each in callers.requests}, 20)
            time.sleep(2.0)  # of load on both
        team.wait_logged()
        early = [each for each in callers.requests if each.done < began + LOAD_SECONDS]
        assert {each.version for each in early} == {"1"}
        assert len(early) > 0.8 * RATE * LOAD_SECONDS
        assert not callers.lost
        assert not callers.left
        waited = max(each.ms for each in callers.requests)
        assert waited < MOST_MS, f"a caller waited {waited:.0f} ms"
        rows = logged(stack.log_dir, name)
        check_log(rows, callers.requests)
        events = check_audit(team.parts.store, name)
        assert check_deals(rows, events, {rollout.id: rollout}) > 0
        cohorts = rows[rows["request_id"].isin({each.request_id for each in early})]["cohort"]
        assert cohorts.isna().all(), "what was answered before it was there is no evidence"
        line.result = (
            f"loaded after {loaded - began:.1f} s; {len(callers.requests):,} requests, longest {waited:.0f} ms"
        )
    team.parts.service.roll_back(rollout.id, "test", "the end")


def _states(team: Team) -> set[str]:
    return {str(team.status(gateway)["versions"].get("2")) for gateway in GATEWAYS}
