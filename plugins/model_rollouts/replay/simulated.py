"""Any plan over a past period: a rollout that never was, through the same service, with the clock of the past."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.decision import Verdict
from model_rollouts.core.errors import NotFoundError
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Plan
from model_rollouts.ports import ModelVersion
from model_rollouts.replay.scenario import Scenario
from model_rollouts.replay.step import Step
from model_rollouts.service import RolloutService

_ACTOR, _ROLLOUT = "replay", "replay"


class _Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class _Registry:
    """The two versions of the replay; roles and tags go nowhere."""

    def __init__(self, model: str, champion: str, challenger: str) -> None:
        self.versions = {"champion": champion, champion: champion, challenger: challenger}
        self.model = model

    def resolve(self, model: str, version_or_alias: str) -> ModelVersion:
        if version_or_alias not in self.versions:
            raise NotFoundError(f"the replay knows versions {', '.join(sorted(set(self.versions.values())))} alone")
        return ModelVersion(model, self.versions[version_or_alias], inputs=())

    def set_roles(self, model: str, roles: Mapping[str, str | None]) -> None:
        pass

    def tag(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        pass


def simulate(
    log: LogRoot,
    model: str,
    champion: str,
    challenger: str,
    plan: Plan,
    start: datetime,
    end: datetime,
    salt: str = _ROLLOUT,
) -> Iterator[Step]:
    """Play a plan over the answers that two versions gave between two times, and say each look's verdict.

    Stages open as they are earned, at once; where the plan asks a person, the answer is taken to be yes. It ends with
    the first verdict that is not a pass, with the last stage, or with the period. The assignment of units is not
    judged: it was another one's. What units were worth before is not known, so values are judged without CUPED.

    Args:
        log: The prediction log.
        model: Registered model name.
        champion: Version that plays the champion.
        challenger: Version that plays the challenger.
        plan: What to play.
        start: From, UTC.
        end: To, UTC.
        salt: Deals the units; another one shows how much of a verdict is chance.

    Raises:
        ValueError: The period is empty.
        LogReadError: The log can't be read.
    """
    if not start < end:
        raise ValueError(f"the period is from {start.isoformat()} to {end.isoformat()}, must begin before it ends")
    with _world(log, model, champion, challenger, start, salt) as (service, scenario, clock):
        service.start(_ROLLOUT, model, challenger, without_assignment(plan), _ACTOR, "replay")
        look, grace = timedelta(seconds=plan.look_seconds), timedelta(seconds=plan.grace_seconds)
        for stage, setting in enumerate(plan.stages):
            opened = clock.now
            service.open_stage(_ROLLOUT, stage, _ACTOR)
            traffic = service.store.traffic(model)
            assert traffic is not None  # noqa: S101 - the stage has just been opened in it
            until = min(end, opened + timedelta(seconds=setting.deadline_seconds) + look)
            scenario.deal(traffic, opened, until)
            verdict = Verdict.WAIT
            while verdict is Verdict.WAIT:
                clock.now = max(clock.now, opened + grace) + look
                if clock.now - grace > end:
                    return
                decision = service.look(_ROLLOUT)
                verdict = decision.verdict
                yield Step(clock.now, stage, setting.share, decision)
            if verdict is not Verdict.PASS:
                return
            service.clear(_ROLLOUT, stage, _ACTOR, decision.reason, decision.to_dict())


def without_assignment(plan: Plan) -> Plan:
    """The plan without its sample-ratio gates: of a past that was split, only a part remains, and not by the share."""

    def kept(gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        return tuple(gate for gate in gates if gate.metric is not Metric.SAMPLE_RATIO)

    return replace(plan, stages=tuple(replace(stage, gates=kept(stage.gates)) for stage in plan.stages))


@contextmanager
def _world(
    source: LogRoot, model: str, champion: str, challenger: str, start: datetime, salt: str
) -> Iterator[tuple[RolloutService, Scenario, _Clock]]:
    clock = _Clock(start)
    with tempfile.TemporaryDirectory(prefix="rollouts-replay-") as folder:
        root = Path(folder)
        store = SqlStore(f"sqlite:///{root / 'store.db'}")
        store.migrate()
        log = DeltaPredictionLog(root / "log")
        registry = _Registry(model, champion, challenger)
        service = RolloutService(store, registry, evidence=store, log=log, clock=clock, new_salt=lambda: salt)
        try:
            yield service, Scenario(source, root / "log", model, start), clock
        finally:
            store.close()
