"""What else takes a whole Airflow: a minute without database and registry in a canary, a yes and a no at once."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from tests.faults.canaries import (
    MODEL,
    PATIENCE,
    RATE,
    calling,
    check_callers,
    check_promoted,
    ended,
    following,
    start,
)
from tests.faults.promises import check_stages
from tests.faults.record import FULL, shown
from tests.faults.stack import Stack

from demo import airflow_parts
from model_rollouts.core.rollout import EventKind, Rollout, State
from model_rollouts.web.access import HEADER, VALUE

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(not FULL, reason="FAULTS=small does without")]

AWAY_SECONDS = 60.0
ROUNDS = 2
_PAGE = "/model-rollouts/page/api/rollouts"


def test_a_minute_without_database_and_registry_costs_a_canary_nothing_but_time(serving: Stack) -> None:
    stack = serving
    held = "promoted; no caller without an answer; each answer logged once; audit, stages and aliases as after kills"
    with shown(f"{AWAY_SECONDS:g} s without PostgreSQL and MLflow in a canary's watch", held) as line:
        with calling(stack, "outage") as callers:
            run, rollout = start(stack, following(stack), [100])
            watching = lambda: stack.task("canary", run, "watch").get("state") == "deferred"  # noqa: E731
            stack.until("watch that waits", watching, PATIENCE)
            asked = len(callers.requests)
            with stack.away("postgresql"), stack.away("mlflow"):
                threading.Event().wait(AWAY_SECONDS)
            meanwhile = len(callers.requests) - asked
            stack.wait_ready("postgresql", "mlflow")
            rollout = ended(stack, rollout)
        check_promoted(stack, rollout)
        check_callers(stack, callers, [rollout])
        line.result = f"{len(callers.requests):,} requests, {meanwhile:,} of them meanwhile, none without an answer"
        assert meanwhile > 0.8 * RATE * AWAY_SECONDS


def _somebody(stack: Stack) -> requests.Session:
    """Logged in as a browser is, and asking as our page does."""
    login = {"username": airflow_parts.USER, "password": airflow_parts.password(stack.config)}
    token = requests.post(f"{stack.config.airflow_url}/auth/token", json=login, timeout=30).json()["access_token"]
    session = requests.Session()
    session.cookies.set("_token", token)
    session.headers[HEADER] = VALUE
    return session


def _act(stack: Stack, somebody: requests.Session, rollout: Rollout, deed: str) -> int:
    """One deed by the page, of what was seen; gives the HTTP status."""
    body: dict[str, Any] = {"reason": f"{deed}, I say", "revision": rollout.revision}
    url = f"{stack.config.airflow_url}{_PAGE}/{rollout.id}/{deed}"
    return somebody.post(url, json=body, timeout=60).status_code


def test_a_yes_and_a_rollback_at_once_leave_the_champion_alone(serving: Stack) -> None:
    stack = serving
    held = (
        "rolled back once; nothing moves after it; the champion serves; the run ends; both are in the events or told no"
    )
    with shown("two people at once: approve and roll back, by the page", held) as line:
        codes: Counter[tuple[int, int]] = Counter()
        with calling(stack, "yes-no") as callers:
            rollouts = [_round(stack, codes) for _ in range(ROUNDS)]
        check_callers(stack, callers, rollouts)
        line.times = ROUNDS
        line.result = ", ".join(f"approve {yes}, roll back {no}: {count}" for (yes, no), count in codes.items())


def _round(stack: Stack, codes: "Counter[tuple[int, int]]") -> Rollout:
    before = stack.store.traffic(MODEL)
    assert before is not None
    run, rollout = start(stack, following(stack), [50, 100], approval_from_share=50)
    asks = lambda: stack.task("canary", run, "approve").get("state") == "awaiting_input"  # noqa: E731
    stack.until("question to a person", asks, PATIENCE)
    rollout = stack.store.rollout(rollout.id)
    gate = threading.Barrier(2)

    def act(somebody: requests.Session, deed: str) -> int:
        gate.wait()
        return _act(stack, somebody, rollout, deed)

    with ThreadPoolExecutor(2) as pool:
        yes, no = pool.map(act, (_somebody(stack), _somebody(stack)), ("approve", "roll_back"))
    codes[yes, no] += 1
    assert no == 200, "a rollback of what was seen was refused, and nothing had moved"
    assert yes in (200, 409), yes
    rollout = ended(stack, rollout)
    assert rollout.state is State.ROLLED_BACK
    check_stages(stack.store, rollout)
    kinds = Counter(event.kind for event in stack.store.events(rollout_id=rollout.id))
    assert (kinds[EventKind.ROLLED_BACK], kinds[EventKind.STAGE_OPENED], kinds[EventKind.CUT_OVER]) == (1, 1, 0)
    assert kinds[EventKind.ANSWERED] == (yes == 200)
    traffic = stack.store.traffic(MODEL)
    assert traffic is not None
    assert (traffic.champion, traffic.challenger, traffic.share) == (before.champion, None, 0)
    stack.until("aliases", lambda: stack.aliases(MODEL).get("champion") == before.champion, 60)
    assert "challenger" not in stack.aliases(MODEL)
    return rollout
