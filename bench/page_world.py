"""A store as a large team has it after a year: 1,000 rollouts that have ended, 200 that go on, one of 10,000 looks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import sqlalchemy as sa

from model_rollouts.adapters import sql_tables as tables
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_rows import from_event, from_look, from_rollout, from_traffic
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts, latency_bin
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern, Plan
from model_rollouts.core.rollout import Cause, Change, Event, Rollout, State
from model_rollouts.core.traffic import Traffic
from model_rollouts.core.unit_evidence import UnitCounts

MODELS, PAST, BIG_LOOKS, SOME_LOOKS = 200, 5, 10_000, 20
BIG = "model-000-now"
_SEED = 11
_VALUES = {"look_seconds": 60.0, "label_maturity_seconds": 600.0}
_REQUESTS = 5000  # of a look and arm
_BINS = latency_bin(20.0) + np.arange(-110, 110)  # from 2 ms to 180 ms: what a look of a real service has
_SHAPE = np.exp(-0.5 * (np.arange(-110, 110) / 45) ** 2)


def plan_of(pattern: Pattern) -> Plan:
    """The pattern's plan with its defaults, but an hour's looks of a minute."""
    values = dict(_VALUES)
    if pattern is Pattern.AB_TEST:
        values |= {"horizon_seconds": 3 * 86_400.0}
    return plan_from(pattern, values)


def fill(url: str, now: datetime | None = None) -> None:
    """Make the tables and fill them. Rows are made by the state machine, and written in one go."""
    now = now or datetime.now(UTC)
    SqlStore(url).migrate()
    rng = np.random.default_rng(_SEED)
    plans = {pattern: plan_of(pattern) for pattern in Pattern}
    rows: dict[str, list[dict[str, object]]] = {"rollouts": [], "traffic": [], "events": [], "looks": []}
    for number in range(MODELS):
        model = f"model-{number:03d}"
        traffic = Traffic(model, "1")
        rows["events"].append(from_event(steps.adopt(model, "1", _cause(now - timedelta(days=400), "adopted")).event))
        for past in range(PAST):
            pattern = list(Pattern)[(number + past) % len(Pattern)]
            begin = now - timedelta(days=60 * (PAST - past) + number % 7)
            end = State.PROMOTED if (number + past) % 3 else State.ROLLED_BACK
            rollout, traffic = _record(rows, f"{model}-{past}", plans[pattern], traffic, begin, end, str(past + 2))
        pattern = Pattern.CANARY if number == 0 else list(Pattern)[number % len(Pattern)]
        state = State.BAKING
        if number:
            state = (State.PENDING, State.HOLDING, State.CLEARED, *[State.BAKING] * 7)[number % 10]
        begin = now - timedelta(minutes=BIG_LOOKS + 12 if number == 0 else 40)
        rollout, traffic = _record(rows, f"{model}-now", plans[pattern], traffic, begin, state, str(PAST + 2))
        rows["traffic"].append(from_traffic(traffic))
        if state is not State.PENDING:
            count = BIG_LOOKS if number == 0 else SOME_LOOKS
            rows["looks"] += [from_look(rollout.id, look) for look in looks(rng, rollout, count)]
    database = Database(url)
    with database.write() as connection:
        for name in ("rollouts", "traffic", "events", "looks"):
            table = getattr(tables, name)
            for first in range(0, len(rows[name]), 2000):
                connection.execute(sa.insert(table), rows[name][first : first + 2000])
    database.close()


def _record(
    rows: dict[str, list[dict[str, object]]],
    rollout_id: str,
    plan: Plan,
    traffic: Traffic,
    begin: datetime,
    end: State,
    challenger: str,
) -> tuple[Rollout, Traffic]:
    """Put a rollout's life into the rows; gives it and the traffic as they are then."""
    life = _Life(traffic)
    life.live(rollout_id, plan, begin, end, challenger)
    rollout = life.rollout
    if rollout is None:
        raise ValueError(f"{rollout_id} has not begun")
    rows["rollouts"].append(from_rollout(rollout))
    rows["events"] += [from_event(event) for event in life.events]
    return rollout, life.traffic


class _Life:
    """The steps of a rollout up to a state; promoted ones go through all stages."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.rollout: Rollout | None = None
        self.events: list[Event] = []

    def _take(self, change: Change | None) -> Rollout:
        if change is None or change.rollout is None:
            raise ValueError("a step that changes nothing is none of a new rollout's life")
        self.events.append(change.event)
        self.rollout, self.traffic = change.rollout, change.traffic or self.traffic
        return change.rollout

    def live(self, rollout_id: str, plan: Plan, begin: datetime, end: State, challenger: str) -> None:
        """Take the steps."""
        checks = [{"name": f"check {i}", "ok": True, "detail": "as it should be"} for i in range(12)]
        run = {"dag_id": plan.pattern.dag_id, "run_id": f"manual__{rollout_id}"}
        cause = _cause(begin, "started by hand", {"checks": checks, "run": run})
        rollout = self._take(steps.start(rollout_id, plan, challenger, "salt", self.traffic, cause))
        if end is State.PENDING:
            return
        last = len(plan.stages) - 1 if end is State.PROMOTED else 0
        for stage in range(last + 1):
            at = begin + timedelta(minutes=5 * stage)
            rollout = self._take(steps.open_stage(rollout, self.traffic, stage, _cause(at, "opened", {"run": run})))
            if end in (State.PROMOTED, State.CLEARED):
                passed = _cause(at + timedelta(minutes=4), "every gate passed")
                rollout = self._take(steps.clear(rollout, self.traffic, stage, passed))
        later = _cause(begin + timedelta(minutes=30), "the error rate is 2.1 times the champion's odds")
        if end is State.PROMOTED:
            self._take(steps.cut_over(rollout, self.traffic, later))
        elif end is State.ROLLED_BACK:
            self._take(steps.roll_back(rollout, self.traffic, later))
        elif end is State.HOLDING:
            self._take(steps.hold(rollout, self.traffic, rollout.stage, later))


def looks(rng: np.random.Generator, rollout: Rollout, count: int) -> Iterator[Look]:
    """Looks of the open stage: a challenger with slightly more errors, 5,000 requests a minute in both arms."""
    for index in range(count):
        arms = [_arm(rng, _REQUESTS, errors) for errors in (0.02, 0.022)]
        yield Look(
            max(rollout.stage, 0),
            index,
            *(counts for counts, _ in arms),
            *(labels for _, labels in arms),
            *(UnitCounts(new=50) for _ in arms),
        )


def _arm(rng: np.random.Generator, requests: int, rate: float) -> tuple[RequestCounts, LabelCounts]:
    errors = int(rng.binomial(requests, rate))
    timed = rng.multinomial(requests - errors, _SHAPE / _SHAPE.sum())
    histogram = {int(b): int(n) for b, n in zip(_BINS, timed, strict=True) if n}
    due = requests - errors
    known = int(rng.binomial(due, 0.9))
    return RequestCounts(requests, errors, histogram), LabelCounts(due, known, int(rng.binomial(known, 0.08)))


def _cause(at: datetime, reason: str, evidence: dict[str, object] | None = None) -> Cause:
    return Cause("alice via canary/manual__1", at, reason, evidence or {})
