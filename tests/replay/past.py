"""A past to replay: answers of two versions to the same requests, in a real Delta log."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from model_rollouts.adapters.log_places import log_appender
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Plan
from model_rollouts.gateway.routing import Arm, route
from model_rollouts.ports import ModelVersion
from model_rollouts.service import RolloutService

MODEL = "flights"
START = datetime(2026, 5, 1, 12, tzinfo=UTC)

# each version's own rates of errors and of wrong predictions
GOOD, BAD = {"errors": 0.02, "wrong": 0.10}, {"errors": 0.02, "wrong": 0.35}


def quick_plan(**changes: Any) -> Plan:
    """A canary that is over in minutes."""
    quick: dict[str, Any] = {
        "steps": [10, 50, 100], "bake_seconds": 20, "deadline_seconds": 300, "look_seconds": 5, "grace_seconds": 2,
        "label_maturity_seconds": 10, "control_percent": 40, "first_pass_odds": 4, "pass_odds": 2.5, "min_requests": 20,
        "negligible_error_rate": 0.06,
    }  # fmt: skip
    return plan_canary(CanaryParameters.from_dict(quick | changes))


@dataclass
class Past:
    """Writes rows of requests as time goes by.

    Attributes:
        root: The log.
        rates: Version -> its rates of errors and wrong predictions.
        per_second: Requests a second.
    """

    root: Any  # a folder, or a log that is none
    rates: dict[str, dict[str, float]] = field(default_factory=lambda: {"1": GOOD, "2": GOOD})
    per_second: int = 60
    seed: int = 1

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.writer = log_appender(self.root, "past")
        self.batch = 0

    def mirrored(self, seconds: float, start: datetime = START) -> None:
        """Requests that both versions answered, outside of any rollout."""
        self._write(start, seconds, lambda unit, request: [("1", "champion", None), ("2", "challenger", None)], {})

    def live(self, traffic: Any, seconds: float, start: datetime) -> None:
        """Requests that a gateway dealt by a traffic row."""

        def rows(unit: str, request: str) -> list[tuple[str, str, str | None]]:
            dealt = route(traffic, unit, request, challenger_ready=True)
            if dealt.control:
                return [("2", "challenger", "champion"), ("1", "champion", "champion")]
            version = traffic.challenger if dealt.arm is Arm.CHALLENGER else traffic.champion
            return [(version, str(dealt.arm), dealt.cohort and str(dealt.cohort))]

        own = {"rollout_id": traffic.rollout_id, "stage": traffic.stage, "traffic_revision": traffic.revision}
        self._write(start, seconds, rows, own)

    def _write(self, start: datetime, seconds: float, rows: Any, own: dict[str, Any]) -> None:
        predictions, outcomes = [], []
        for i in range(int(seconds * self.per_second)):
            self.batch += 1
            at = int((start + timedelta(seconds=i / self.per_second)).timestamp() * 1e6)
            request, unit, label = f"r{self.batch}", f"u{self.rng.randrange(3000)}", self.rng.randrange(2)
            for version, arm, cohort in rows(unit, request):
                rates = self.rates[version]
                failed, wrong = self.rng.random() < rates["errors"], self.rng.random() < rates["wrong"]
                predictions.append(
                    {
                        "request_id": request, "ts": at, "model": MODEL, "version": version, "arm": arm,
                        "cohort": cohort, "served": arm == "champion", "unit_id": unit,
                        "status": "error" if failed else "ok", "error": "KeyError" if failed else None,
                        "latency_ms": self.rng.lognormvariate(2, 0.3),
                        "prediction": None if failed else str(1 - label if wrong else label), "score": None,
                        "gateway_id": "past", "traffic_revision": 1, "rollout_id": None, "stage": None, "features": {},
                    } | own
                )  # fmt: skip
            outcomes.append({"request_id": request, "ts": at + 3_000_000, "label": str(label)})
        self.writer.append(MODEL, "predictions", predictions, self.batch)
        self.writer.append(MODEL, "outcomes", outcomes, self.batch)


class Registry:
    """Two versions with one signature; a stand-in for MLflow, which a replay does not ask."""

    def resolve(self, model: str, version_or_alias: str) -> ModelVersion:
        return ModelVersion(
            model, {"champion": "1", "challenger": "2"}.get(version_or_alias, version_or_alias), inputs=()
        )

    def set_roles(self, model: str, roles: Any) -> None: ...

    def tag(self, model: str, version: str, tags: Any) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Live:
    """A live rollout on a clock of the test's, with a real store and a real log."""

    past: Past
    store: SqlStore
    service: RolloutService
    clock: Clock

    def roll_out(self, plan: Plan, seconds: float = 600, poll: float = 3.7, late: float = 0.0) -> str:
        """Play a rollout to its end as a DAG would; returns its id.

        Args:
            plan: The plan.
            seconds: Give up after this long.
            poll: Time between looks; no multiple of a look's length, as in life.
            late: How late rows reach the log.
        """
        self.service.start("live-1", MODEL, "2", plan, "test", "test")
        stage = 0
        self.service.open_stage("live-1", 0, "test")
        while self.clock.now < START + timedelta(seconds=seconds):
            before, traffic = self.clock.now, self.store.traffic(MODEL)
            self.clock.now += timedelta(seconds=poll)
            if not late:
                self.past.live(traffic, poll, before)
            decision = self.service.look("live-1")
            if late:
                self.past.live(traffic, poll, before)
            if decision.action == "roll_back":
                self.service.roll_back("live-1", "test", decision.reason, decision.to_dict())
                return "live-1"
            if decision.verdict == "inconclusive":
                self.service.hold("live-1", stage, "test", decision.reason, decision.to_dict())
                return "live-1"
            if decision.verdict == "pass":
                self.service.clear("live-1", stage, "test", decision.reason, decision.to_dict())
                if decision.action == "cut_over":
                    self.service.cut_over("live-1", "test", decision.reason, decision.to_dict())
                    return "live-1"
                stage += 1
                self.service.open_stage("live-1", stage, "test")
        return "live-1"
