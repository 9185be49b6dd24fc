"""A rollout on record, counted anew from the prediction log and judged anew, look by look.

The counts come from the same queries, the verdicts from the same tallies as they did live. With the rollout's own plan
the verdicts on record have to come out again, to the last digit; with other margins it shows what those would have
decided on the same traffic.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from model_rollouts.core.decision import ENGINE, Decision, Verdict, decide_from
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.evidence import Look
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.plan import Plan
from model_rollouts.core.recompute import recompute_from, unlabelled
from model_rollouts.core.rollout import EventKind, Rollout
from model_rollouts.looks import due_looks, seen_looks
from model_rollouts.replay.step import Step
from model_rollouts.service import RolloutService


class LogUnreadableError(RolloutError):
    """The log does not give what the verdicts rest on."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A verdict on record beside the one that the log gives now.

    Attributes:
        event: What the verdict led to.
        recorded: As it is on record.
        again: As the log gives it.
        differences: Paths of the numbers that differ; empty when it is the same.
    """

    event: EventKind
    recorded: Decision
    again: Decision
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordedReplay:
    """What came of it.

    Attributes:
        steps: Each look of each stage, up to the stage's verdict.
        changed_looks: (stage, index) of the looks whose counts in the log are not those that were kept: rows or labels
            came after the look was closed.
        comparisons: The verdicts on record, in order.
    """

    steps: tuple[Step, ...]
    changed_looks: tuple[tuple[int, int], ...]
    comparisons: tuple[Comparison, ...]


def replay_recorded(service: RolloutService, rollout: Rollout, plan: Plan | None = None) -> RecordedReplay:
    """Count and judge a rollout anew.

    Args:
        service: Reads store and log; nothing is written.
        rollout: The rollout.
        plan: Other gates for the same stages and looks; None for the rollout's own plan. Verdicts on record are then
            compared.

    Raises:
        ValueError: The plan has other stages, looks or maturity than the rollout: those decided when traffic moved.
        Exception: Whatever the log raises when it can't be read.
    """
    judged_by = rollout.plan if plan is None else plan
    _require_same_times(rollout.plan, judged_by)
    spans = service.spans(rollout)
    kept = service.evidence.looks(rollout.id)
    counted = due_looks(service.log, replace(rollout, plan=judged_by), spans, [], service.clock())
    if counted.failure:
        raise LogUnreadableError(f"the log of {rollout.model} can't be counted anew: {counted.failure}")
    looks = counted.looks
    known = {(look.stage, look.index) for look in kept}
    # Looks that nobody closed (after the verdict, before the next stage) were no evidence then and are none now.
    looks = [look for look in looks if (look.stage, look.index) in known]
    by_place = {(look.stage, look.index): look for look in looks}
    changed = tuple((look.stage, look.index) for look in kept if _differs(look, by_place.get((look.stage, look.index))))
    comparisons = () if plan is not None else tuple(_comparisons(service, rollout, looks))
    return RecordedReplay(tuple(_steps(service, rollout, judged_by, spans, looks)), changed, comparisons)


def _differs(kept: Look, counted: Look | None) -> bool:
    if counted is None:
        return True
    return kept != (counted if kept.matured else unlabelled(counted))


def _require_same_times(own: Plan, other: Plan) -> None:
    def times(plan: Plan) -> tuple[object, ...]:
        shares = tuple((stage.share, stage.control_percent) for stage in plan.stages)
        return shares, plan.look_seconds, plan.grace_seconds, plan.label_maturity_seconds

    if times(own) != times(other):
        raise ValueError(
            "the plan has other shares, looks, grace or maturity than the rollout had; replay a period of the log "
            "(--champion, --challenger, --from, --to) to try those"
        )


def _steps(
    service: RolloutService,
    rollout: Rollout,
    plan: Plan,
    spans: Mapping[int, tuple[datetime, datetime | None]],
    looks: list[Look],
) -> Iterator[Step]:
    """Each stage at its opening and whenever a look was closed while it was open, until there is a verdict.

    The last looks of a stage are closed when the next one is open already, and count for it.
    """
    resumed = service.resumed(rollout)
    length = timedelta(seconds=plan.look_seconds)
    grace, maturity = timedelta(seconds=plan.grace_seconds), timedelta(seconds=plan.label_maturity_seconds)
    closed = [spans[look.stage][0] + (look.index + 1) * length + grace for look in looks]
    ledger, decided = Ledger(plan), -1
    for now in sorted({*closed, *(opened for opened, _ in spans.values())}):
        stage = max(stage for stage, (opened, _) in spans.items() if opened <= now)
        if stage <= decided:
            continue
        seen = [
            look if at + maturity <= now else unlabelled(look)
            for look, at in zip(looks, closed, strict=True)
            if at <= now
        ]
        judged_from = max([spans[stage][0], *(at for at in resumed if spans[stage][0] < at <= now)])
        signals_from = seen_looks(plan, spans, seen, [at for at in resumed if at <= now])
        ledger.take(seen)
        decision = decide_from(ledger, stage, (now - judged_from).total_seconds(), signals_from)
        yield Step(now, stage, plan.stage(stage).share, decision)
        if decision.verdict is not Verdict.WAIT:
            decided = stage


def _comparisons(service: RolloutService, rollout: Rollout, looks: list[Look]) -> Iterator[Comparison]:
    for event in service.store.events(rollout_id=rollout.id):
        if event.evidence.get("engine") != ENGINE:
            continue  # a person's doing, the start, or an earlier engine's verdict
        recorded = Decision.from_dict(event.evidence)
        found = recompute_from(rollout.plan, looks, recorded)
        yield Comparison(event.kind, recorded, found.again, found.differences)
