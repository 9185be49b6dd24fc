"""What is looked at before traffic moves: can the model be monitored, and does the way back work."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model_rollouts.checklist import Check
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.golden import GoldenCase, judge_golden
from model_rollouts.core.monitoring import readiness_of
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import EventKind, Rollout
from model_rollouts.drills import drill_is_recent
from model_rollouts.ports import Gateways, GoldenRequests, MonitoringLog, ProbeAnswer
from model_rollouts.service import RolloutService

_SPAN = timedelta(days=1)


def _now() -> datetime:
    return datetime.now(UTC)


class Preflight:
    """The checklist.

    Args:
        service: Knows rollouts and the registry.
        gateways: Answer golden requests.
        golden: Where these come from.
        monitoring: What the log shows of the champion.
        clock: Current time, UTC.
    """

    def __init__(
        self,
        service: RolloutService,
        gateways: Gateways,
        golden: GoldenRequests,
        monitoring: MonitoringLog,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._service = service
        self._gateways = gateways
        self._golden = golden
        self._monitoring = monitoring
        self._clock = clock

    def before_start(self, model: str, champion: str, plan: Plan) -> list[Check]:
        """Whether the champion can be monitored, and whether a drill is recent enough where the plan asks for one.

        A log that can't be read monitors nothing.
        """
        now = self._clock()
        maturity = timedelta(seconds=plan.label_maturity_seconds)
        allowed = plan.readiness.may_be_missing
        try:
            counts = self._monitoring.monitored(model, champion, now - _SPAN - maturity, now, maturity)
            items = readiness_of(counts, allowed)
            checks = [Check(f"monitoring of {i.name}", not i.refuses, i.detail) for i in items]
        except Exception as error:  # whatever the log raises
            checks = [Check("monitoring", False, f"the log can't be read: {type(error).__name__}: {error}"[:500])]
        if plan.readiness.drill_within_days is not None:
            ok, detail = drill_is_recent(self._service.store, model, plan.readiness.drill_within_days, now)
            checks.append(Check("rollback drill", ok, detail))
        return checks

    def before_stage(self, rollout: Rollout, stage: int, actor: str) -> None:
        """Have the rollback target and the challenger answer the golden requests, on every gateway.

        Raises:
            NotReadyError: One of them does not; the message says which and how.
        """
        readiness = rollout.plan.readiness
        if rollout.plan.stage(stage).offline or not (readiness.golden_requests or readiness.golden_file):
            return
        cases = self._cases(rollout)
        answers = {v: self._ask(rollout.model, v, cases) for v in (rollout.champion, rollout.challenger)}
        results = {
            "champion": judge_golden(cases, answers[rollout.champion], exact=True, agreement=1.0),
            "challenger": judge_golden(
                cases, answers[rollout.challenger], exact=False, agreement=readiness.golden_agreement
            ),
        }
        said = "; ".join(f"{arm} {result.reason}" for arm, result in results.items())
        if bad := [arm for arm, result in results.items() if not result.ok]:
            who = " and ".join("the rollback target" if arm == "champion" else "the challenger" for arm in bad)
            raise NotReadyError(f"{who} of {rollout.id} failed the golden requests: {said}"[:2000])
        self._service.note(
            rollout.id,
            EventKind.CHECKED,
            actor,
            f"before stage {stage}: golden requests: {said}"[:1000],
            {arm: {"asked": r.asked, "answered": r.answered, "agreed": r.agreed} for arm, r in results.items()},
        )

    def _cases(self, rollout: Rollout) -> Sequence[GoldenCase]:
        readiness = rollout.plan.readiness
        cases: list[GoldenCase] = []
        if readiness.golden_requests:
            wanted = readiness.golden_requests
            cases += self._golden.recorded(rollout.model, rollout.champion, wanted, self._clock())
            if not cases:
                raise NotReadyError(
                    f"the log has no answers of version {rollout.champion} of {rollout.model} to make golden requests "
                    "of; let it serve for a while, or set golden_requests to 0 and name a golden_file"
                )
        if readiness.golden_file:
            cases += self._golden.load_file(Path(readiness.golden_file))
        return cases

    def _ask(self, model: str, version: str, cases: Sequence[GoldenCase]) -> list[list[ProbeAnswer]]:
        return self._gateways.probe(model, version, [case.inputs for case in cases])
