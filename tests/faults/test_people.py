"""Two people who act at once on what both have seen: one of them is told no, and the traffic is where one put it."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
from tests.faults.callers import Callers
from tests.faults.moves import Team
from tests.faults.promises import check_audit, check_deals, check_log, check_stages, logged
from tests.faults.record import FULL, shown
from tests.faults.stack import Stack

from model_rollouts.core.by_hand import Deed
from model_rollouts.core.errors import (
    ActiveRolloutError,
    IllegalTransitionError,
    NotReadyError,
    StaleRevisionError,
)
from model_rollouts.core.rollout import EventKind, Rollout, State

pytestmark = pytest.mark.timeout(600)

ROUNDS = 12 if FULL else 3
BY_COMMAND = 4 if FULL else 1
RATE = 30.0
_REFUSALS = (StaleRevisionError, IllegalTransitionError, ActiveRolloutError, NotReadyError)
_REFUSED = {3, 4}  # exit codes: it has changed since it was seen; it is over already


@dataclass(frozen=True)
class Pair:
    """Two deeds at once, the share of the stage, and what the rollout may be afterwards.

    Attributes:
        first: Decided on what was seen.
        second: The same.
        share: Of the open stage.
        after: States that are one's or the other's doing.
        blind: The second one does not say what they saw, as `rollouts rollback` does not.
    """

    first: Deed
    second: Deed
    share: float
    after: frozenset[State]
    blind: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.first.replace('_', ' ')} and {self.second.replace('_', ' ')}{' by whatever it is' * self.blind}"


PAIRS = (
    Pair(Deed.EXPAND, Deed.ROLL_BACK, 20, frozenset({State.CLEARED, State.ROLLED_BACK})),
    Pair(Deed.EXPAND, Deed.ROLL_BACK, 20, frozenset({State.ROLLED_BACK}), blind=True),
    Pair(Deed.CUT_OVER, Deed.ROLL_BACK, 100, frozenset({State.PROMOTED, State.ROLLED_BACK})),
    Pair(Deed.CUT_OVER, Deed.ROLL_BACK, 100, frozenset({State.ROLLED_BACK}), blind=True),
    Pair(Deed.HOLD, Deed.EXPAND, 20, frozenset({State.HOLDING, State.CLEARED})),
    Pair(Deed.ROLL_BACK, Deed.ROLL_BACK, 20, frozenset({State.ROLLED_BACK})),
)


@pytest.fixture(scope="module")
def team(stack: Stack) -> Team:
    return Team.of(stack, "people", [0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def asked() -> list[Callers]:
    """Everybody who has asked for the model, in all rounds."""
    return []


def at_once(*deeds: Callable[[], object]) -> list[bool]:
    """Do all at the same moment; whether each was done. A refusal is an answer, anything else is a failure."""
    gate = threading.Barrier(len(deeds))

    def do(deed: Callable[[], object]) -> bool:
        gate.wait()
        try:
            deed()
        except _REFUSALS:
            return False
        return True

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(do, deeds))


def _opened(team: Team, share: float) -> Rollout:
    """A rollout of whatever does not serve, with an open stage."""
    challenger = "2" if team.traffic.champion != "2" else "1"
    shares = (share,) if share == 100 else (share, 100)
    rollout = team.start(challenger, *shares)
    team.open(rollout)
    return team.now(rollout)


def _tidy(team: Team, rollout: Rollout) -> None:
    if team.now(rollout).active:
        team.parts.service.roll_back(rollout.id, "test", "the next round")
    team.parts.service.sync_registry(rollout.id)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_of_two_deeds_at_once_one_is_done_and_the_other_refused_or_done_after_it(
    team: Team, asked: list[Callers], pair: Pair
) -> None:
    others = [team.stack.wiring() for _ in range(2)]  # each person has a process of their own
    held = (
        "one is done, the other refused, or done after it where it does not say what it saw; events tell both; no "
        "stage opened twice, nothing moves after a rollback"
    )
    with shown(f"two people at once: {pair.name}", held) as line:
        won: Counter[str] = Counter()
        with Callers(team.stack.gateway_urls, team.model, RATE, f"p{PAIRS.index(pair)}") as callers:
            asked.append(callers)
            for number in range(ROUNDS):
                rollout = _opened(team, pair.share)
                seen = rollout.revision
                deeds = [
                    (pair.first, "anna", seen),
                    (pair.second, "ben", None if pair.blind else seen),
                ]
                if number % 2:
                    deeds.reverse()
                done = at_once(
                    *(
                        partial(parts.by_hand.do, deed, rollout.id, who, "I say so", saw)
                        for (deed, who, saw), parts in zip(deeds, others, strict=True)
                    )
                )
                by = [who for (_, who, _), was in zip(deeds, done, strict=True) if was]
                won["both" if len(by) == 2 else by[0] if by else "nobody"] += 1
                _check_round(team, pair, rollout, by)
                _tidy(team, rollout)
        line.times, line.result = ROUNDS, ", ".join(f"{who} {count}" for who, count in sorted(won.items()))
        assert not callers.lost


def _check_round(team: Team, pair: Pair, rollout: Rollout, by: list[str]) -> None:
    now = team.now(rollout)
    assert now.state in pair.after, f"{now.id} is {now.state}: {now.reason}"
    assert by, "nobody could do anything"
    if not pair.blind and pair.first is not pair.second:
        assert len(by) == 1, "both were decided on a revision that only one of them can have met"
    elif pair.blind:
        assert "ben" in by, "a rollback that asks for nothing is never refused"
    actors = {event.actor for event in team.parts.store.events(rollout_id=rollout.id) if event.evidence.get("by_hand")}
    assert set(by) == actors, "whoever did something is in the events, and nobody else"
    check_stages(team.parts.store, now)
    backs = [e for e in team.parts.store.events(rollout_id=rollout.id) if e.kind is EventKind.ROLLED_BACK]
    assert len(backs) == (now.state is State.ROLLED_BACK)
    team.stack.until("gateways that follow", team.followed, 30)


def test_of_two_starts_at_once_one_has_the_lease(team: Team) -> None:
    with shown(
        "two people at once: start and start", "one rollout is active, the other one's start is refused"
    ) as line:
        for _ in range(ROUNDS):
            free = [version for version in ("1", "2", "3") if version != team.traffic.champion]
            known = {each.id for each in team.parts.store.rollouts(team.model)}
            done = at_once(*(lambda version=version: team.start(version, 20, 100, loaded=False) for version in free))
            new = [each for each in team.parts.store.rollouts(team.model) if each.id not in known]
            assert (done.count(True), len(new)) == (1, 1)
            assert team.traffic.rollout_id == new[0].id
            assert team.traffic.challenger == new[0].challenger
            _tidy(team, new[0])
        line.times, line.result = ROUNDS, f"{ROUNDS} leases"


def test_by_the_command_line_of_an_expand_and_a_rollback_one_is_refused(team: Team) -> None:
    with shown(
        "two people at once: `rollouts expand` and `rollouts rollback`", "one is done, the other refused"
    ) as line:
        codes: Counter[tuple[int, int]] = Counter()
        for _ in range(BY_COMMAND):
            rollout = _opened(team, 20)
            both = [_command(team, deed, rollout.revision) for deed in ("expand", "rollback")]
            said = [process.communicate(timeout=120) for process in both]
            expand, back = (process.returncode for process in both)
            codes[expand, back] += 1
            assert 0 in (expand, back), said
            assert {expand, back} - {0} <= _REFUSED, said
            assert (expand, back) != (0, 0), said
            assert team.now(rollout).state is (State.CLEARED if expand == 0 else State.ROLLED_BACK)
            check_stages(team.parts.store, team.now(rollout))
            _tidy(team, rollout)
        line.times = BY_COMMAND
        line.result = ", ".join(f"expand {e}, rollback {b}: {count}" for (e, b), count in codes.items())


def _command(team: Team, deed: str, revision: int) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MODEL_ROLLOUTS_", "AIRFLOW"))}
    arguments = [deed, team.model, "--reason", "I say so", "--by", deed, "--revision", str(revision)]
    return subprocess.Popen(
        [sys.executable, "-m", "model_rollouts.cli", *arguments],
        env=inherited | team.stack.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_after_all_of_it_the_audit_is_whole_and_so_is_the_log(team: Team, asked: list[Callers]) -> None:
    with shown(
        "all deeds of two people together", "the audit has each move of the traffic; the log each answer once"
    ) as line:
        callers = Callers(team.stack.gateway_urls, team.model, RATE, "after")
        asked.append(callers)
        callers.run_for(1.0)
        team.wait_logged()
        events = check_audit(team.parts.store, team.model)
        rows = logged(team.stack.log_dir, team.model)
        rollouts = {each.id: each for each in team.parts.store.rollouts(team.model, limit=1000)}
        dealt = check_deals(rows, events, rollouts)
        assert dealt > 0, "no row is of an open stage"
        seen = check_log(rows, [request for each in asked for request in each.requests])
        line.times = sum(bool(event.evidence.get("by_hand")) for event in events)
        line.result = f"{len(events)} events, {seen['answered']:,} answers, {dealt:,} rows of open stages"
        assert team.parts.store.active(team.model) is None
