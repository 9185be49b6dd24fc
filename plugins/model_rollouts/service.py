"""The use cases: the one way in for operators, the command line and the page.

Each use case reads, lets the pure core make the change, and has the store apply it under the revisions that were
read. Traffic moves first and the registry follows, so that nothing that is slow or away can hold up a rollback;
`sync_registry` brings the registry to what the store says, and repeating it is harmless.
"""

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from model_rollouts.changing import change_traffic
from model_rollouts.checklist import Check, signature_check
from model_rollouts.core import rollout as steps
from model_rollouts.core.baseline import Baseline
from model_rollouts.core.conclusion import distrust, postponed
from model_rollouts.core.decision import Decision, Verdict, decide, decide_from
from model_rollouts.core.errors import (
    ActiveRolloutError,
    IllegalTransitionError,
    NotFoundError,
    NotReadyError,
    StaleRevisionError,
)
from model_rollouts.core.evidence import Look
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Cause, Change, Rollout, State
from model_rollouts.core.stage_power import StagePower, plan_power
from model_rollouts.core.traffic import Traffic
from model_rollouts.kept_looks import KeptLooks
from model_rollouts.logged_until import Backlog, LoggedUntil, logged_until
from model_rollouts.looks import Due, Spans, closed_ahead, due_looks, has_due, next_due
from model_rollouts.ports import EvidenceStore, ModelVersion, PredictionLog, Registry, RolloutStore
from model_rollouts.stage_times import judged_times, live_part, resumed_at, spans_of

logger = logging.getLogger(__name__)

_BASELINE = timedelta(days=1)
_SOON = timedelta(seconds=1)  # what waits for gateways' next commit is tried again then


def _now() -> datetime:
    return datetime.now(UTC)


def _salt() -> str:
    return secrets.token_hex(8)


class RolloutService:
    """Start, advance and end rollouts.

    Args:
        store: Rollouts, traffic, events.
        registry: Roles of versions.
        evidence: Closed looks.
        log: Where looks are counted from.
        clock: Current time, UTC.
        new_salt: A fresh salt for each rollout.
        backlog: What gateways have not logged yet: looks wait for it. None: the log is all that there is.
    """

    def __init__(
        self,
        store: RolloutStore,
        registry: Registry,
        evidence: EvidenceStore,
        log: PredictionLog,
        clock: Callable[[], datetime] = _now,
        new_salt: Callable[[], str] = _salt,
        backlog: Backlog | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        self.evidence = evidence
        self.log = log
        self.clock = clock
        self.new_salt = new_salt
        self.backlog = backlog
        self._kept = KeptLooks(evidence)
        self._judging = threading.Lock()

    # --- before anything moves

    def adopt(self, model: str, actor: str) -> Traffic:
        """The model's traffic row; made from the registry's champion where there is none yet.

        Raises:
            NotFoundError: The registry has no such model, or it has no champion.
        """
        if traffic := self.store.traffic(model):
            return traffic
        champion = self.champion(model)
        with contextlib.suppress(StaleRevisionError):  # somebody else was first, which is just as good
            self.store.apply(steps.adopt(model, champion, self._cause(actor, "first seen by model-rollouts")))
        traffic = self.store.traffic(model)
        if traffic is None:
            raise NotFoundError(f"traffic of {model} is gone right after it was written; check the store")
        return traffic

    def champion(self, model: str) -> str:
        """The version that takes the traffic, or would once the model is adopted; nothing is written.

        Raises:
            NotFoundError: The registry has no such model, or it has no champion.
        """
        traffic = self.store.traffic(model)
        return traffic.champion if traffic else self.registry.resolve(model, "champion").version

    def readiness(self, model: str, challenger: str) -> tuple[list[Check], ModelVersion | None]:
        """Everything that must hold before the lease is taken, and the challenger's version.

        Args:
            model: Registered model name.
            challenger: Version number or alias.
        """
        checks: list[Check] = []
        try:
            champion = self.registry.resolve(model, "champion")
            checks.append(Check("champion", True, f"version {champion.version} is the champion"))
        except NotFoundError as error:
            return [*checks, Check("champion", False, f"{error}; set the alias champion first")], None
        traffic = self.store.traffic(model)
        serving = traffic.champion if traffic else champion.version
        checks.append(
            Check(
                "registry and traffic agree",
                serving == champion.version,
                f"traffic is on version {serving}, alias champion is on version {champion.version}",
            )
        )
        try:
            version = self.registry.resolve(model, challenger)
        except NotFoundError as error:
            return [*checks, Check("challenger", False, str(error))], None
        checks.append(
            Check(
                "challenger",
                version.version != champion.version,
                f"{challenger} is version {version.version}; the champion is version {champion.version}",
            )
        )
        checks.append(signature_check(champion, version))
        other = self.store.active(model)
        checks.append(Check("no other rollout", other is None, other.summary if other else "no rollout is active"))
        return checks, version

    def start(
        self,
        rollout_id: str,
        model: str,
        challenger: str,
        plan: Plan,
        actor: str,
        reason: str,
        more_checks: Sequence[Check] = (),
        run: Mapping[str, str] | None = None,
    ) -> Rollout:
        """Take the lease. Starting the same rollout again gives the one that is there.

        Args:
            rollout_id: Its id, the same for a repetition.
            model: Registered model name.
            challenger: Version number or alias.
            plan: What it goes through.
            actor: Who or what starts it.
            reason: Why.
            more_checks: Further items of the readiness checklist.
            run: The DAG run behind it: "dag_id" and "run_id".

        Raises:
            NotReadyError: An item of the readiness checklist does not hold; the message lists them.
            ActiveRolloutError: The model has an active rollout; the message names it.
        """
        try:
            return self.store.rollout(rollout_id)
        except NotFoundError:
            pass
        if other := self.store.active(model):
            raise ActiveRolloutError(f"model {model} can't take a second rollout: {other.summary}")
        checks, version = self.readiness(model, challenger)
        checks += more_checks
        if version is None or not all(check.ok for check in checks):
            failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
            raise NotReadyError(f"{model} {challenger} is not ready for a rollout: {failed}")
        traffic = self.adopt(model, actor)
        shown = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        told = self.power_told(model, traffic.champion, plan)
        cause = self._cause(actor, reason, {"checks": shown, "power": told, "run": dict(run or {})})
        self.store.apply(steps.start(rollout_id, plan, version.version, self.new_salt(), traffic, cause))
        self.sync_registry(rollout_id)
        return self.store.rollout(rollout_id)

    # --- the stages

    def open_stage(self, rollout_id: str, stage: int, actor: str, run: Mapping[str, str] | None = None) -> Rollout:
        """Move the traffic to a stage's share; resumes the stage where it is held.

        A stage that is open already stays as it is; that another DAG run has taken it up is put on record.
        """

        def step(rollout: Rollout, traffic: Traffic) -> Change | None:
            share = rollout.plan.stage(stage).share
            evidence = {"run": dict(run or {})}
            if rollout.state is State.HOLDING:
                cause = self._cause(actor, f"stage {stage} at {share:g} % resumed", evidence)
                return steps.resume(rollout, traffic, stage, cause)
            cause = self._cause(actor, f"stage {stage} opened at {share:g} %", evidence)
            change = steps.open_stage(rollout, traffic, stage, cause)
            if change is None and run and dict(run) != self.run_of(rollout.id):
                taken = self._cause(actor, f"stage {stage} is watched by another run", evidence)
                return steps.note(steps.EventKind.TAKEN_UP, rollout, traffic, taken)
            return change

        return self._apply(rollout_id, step)

    def look(self, rollout_id: str) -> Decision:
        """Close the looks that are due and judge the open stage on all of them.

        A log that can't be read, or that a gateway's rows are missing in, never passes: the stage waits, and is
        inconclusive at its deadline.
        """
        return self.look_ahead(rollout_id)[0]

    def look_ahead(self, rollout_id: str) -> tuple[Decision, datetime | None]:
        """The same, with the first time at which another look can tell anything new; None: try again soon."""
        rollout = self.store.rollout(rollout_id)
        now = self.clock()
        events = self.store.events(rollout_id=rollout_id)
        spans, resumed = spans_of(rollout, events), resumed_at(events)
        looks, due, logged = self._kept.looks(rollout_id), Due([]), LoggedUntil(now)
        try:
            if self._has_due(rollout, spans, looks, now):
                logged = logged_until(self.backlog, rollout.model, now)
                due = self._due(rollout, spans, looks, logged.time)
            if ahead := closed_ahead(rollout.plan, spans, looks, now):
                due = Due(due.looks, ahead)
            if due.looks and not due.failure:
                self.evidence.save_looks(rollout_id, due.looks)
                looks = self._kept.looks(rollout_id)  # the first writer wins, and may have been another one
            waits = bool(logged.missing) and self._has_due(rollout, spans, looks, now)
            if waits and logged.late and not due.failure:  # what is there still tells harm
                due = Due(self._due(rollout, spans, looks, now).looks, logged.missing)
        except Exception as error:  # whatever a log engine raises, the answer is to wait
            due, waits = Due([], f"{type(error).__name__}: {error}"[:500]), False
        if due.failure:
            logger.warning("looks of %s can't be closed: %s", rollout_id, due.failure)
            if harm := self._harm(rollout, looks, due.looks, now):
                return harm, None
        elapsed, signals_from = judged_times(rollout, spans, looks, now, resumed)
        with self._judging:  # several threads of the triggerer judge rollouts
            ledger = self._kept.ledger(rollout_id, rollout.plan, looks)
            decision = decide_from(ledger, rollout.stage, elapsed, signals_from)
        if due.failure:
            return distrust(decision, due.failure, rollout.plan), None
        if waits and not rollout.plan.stage(rollout.stage).offline:
            return postponed(decision, logged.missing), now + _SOON
        return decision, next_due(rollout.plan, rollout.stage, rollout.judged_from or now, spans, now)

    def matured(self, rollout_id: str, late: timedelta = timedelta(0)) -> bool:
        """Whether every label that can still count for a rollout that has ended could be counted, `late` ago."""
        rollout = self.store.rollout(rollout_id)
        if rollout.ended_at is None:
            return False
        plan = rollout.plan
        last = plan.label_maturity_seconds + plan.grace_seconds + plan.look_seconds
        return self.clock() >= rollout.ended_at + timedelta(seconds=last) + late

    def _due(self, rollout: Rollout, spans: Spans, looks: Sequence[Look], now: datetime) -> Due:
        """What can be closed by now. Looks of offline stages are not of the clock: whoever scores makes them."""
        return due_looks(self.log, rollout, *live_part(rollout, spans, looks), now)

    def _has_due(self, rollout: Rollout, spans: Spans, looks: Sequence[Look], now: datetime) -> bool:
        return has_due(rollout, *live_part(rollout, spans, looks), now)

    def _harm(self, rollout: Rollout, looks: list[Look], more: list[Look], now: datetime) -> Decision | None:
        """The verdict with looks that could only be counted in part, if it is harm; they are kept then, as they are."""
        places = {(look.stage, look.index): look for look in [*looks, *more]}
        decision = self.judge(rollout, [places[place] for place in sorted(places)], now)
        if not more or decision.verdict is not Verdict.FAIL:
            return None
        self.evidence.save_looks(rollout.id, more)
        return decision

    def judge(self, rollout: Rollout, looks: list[Look], now: datetime) -> Decision:
        """The verdict on given looks at a given time."""
        elapsed, signals_from = judged_times(rollout, self.spans(rollout), looks, now, self.resumed(rollout))
        return decide(rollout.plan, rollout.stage, looks, elapsed, signals_from)

    def resumed(self, rollout: Rollout) -> list[datetime]:
        """When the rollout was resumed."""
        return resumed_at(self.store.events(rollout_id=rollout.id))

    def power(self, model: str, version: str, plan: Plan) -> tuple[StagePower, ...]:
        """What each stage needs to see its margins, at the champion's traffic of the last day.

        Raises:
            Exception: Whatever the log raises when it can't be read.
        """
        return plan_power(plan, self.baseline(model, version, plan.label_maturity_seconds))

    def baseline(self, model: str, version: str, label_maturity_seconds: float) -> Baseline:
        """What a version did as champion in the last day, with a day of requests whose labels are due by now.

        Raises:
            Exception: Whatever the log raises when it can't be read.
        """
        now = self.clock()
        maturity = timedelta(seconds=label_maturity_seconds)
        return self.log.baseline(model, version, now - _BASELINE - maturity, now, maturity)

    def power_told(self, model: str, version: str, plan: Plan) -> list[dict[str, Any]]:
        """The same in JSON types; where the log can't be read, one entry that says so. It stops nobody."""
        try:
            return [stage.to_dict() for stage in self.power(model, version, plan)]
        except Exception as error:  # the gates judge by what they see, whatever could be told beforehand
            return [{"underpowered": True, "summary": f"power is unknown: {type(error).__name__}: {error}"[:500]}]

    def run_of(self, rollout_id: str) -> dict[str, str]:
        """The DAG run that has taken the rollout's stage up last: "dag_id" and "run_id"; empty where none is known."""
        for event in reversed(self.store.events(rollout_id=rollout_id)):
            if run := event.evidence.get("run"):
                return dict(run)
        return {}

    def note(
        self, rollout_id: str, kind: steps.EventKind, actor: str, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> None:
        """Put something on record that changes nothing."""
        self._apply(rollout_id, lambda r, t: steps.note(kind, r, t, self._cause(actor, reason, evidence or {})))

    def spans(self, rollout: Rollout) -> dict[int, tuple[datetime, datetime | None]]:
        """When each stage's traffic moved, and when it moved on; an ended rollout's last stage ended with it."""
        return spans_of(rollout, self.store.events(rollout_id=rollout.id))

    def clear(
        self,
        rollout_id: str,
        stage: int,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        seen: int | None = None,
    ) -> Rollout:
        """Put on record that the stage passed, by its gates.

        Args:
            rollout_id: The rollout.
            stage: Position of the stage.
            actor: Who or what.
            reason: Why.
            evidence: The numbers.
            seen: The rollout's revision that was judged; None: whatever it is.

        Raises:
            StaleRevisionError: It has another revision by now.
        """

        def step(rollout: Rollout, traffic: Traffic) -> Change | None:
            change = steps.clear(rollout, traffic, stage, self._cause(actor, reason, evidence))
            return change and _of_revision(change, seen)

        return self._apply(rollout_id, step)

    def hold(
        self,
        rollout_id: str,
        stage: int,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        seen: int | None = None,
    ) -> Rollout:
        """Keep the share of a stage that is judged, expand no further. What has passed only a person holds.

        Args:
            rollout_id: The rollout.
            stage: Position of the stage.
            actor: Who or what.
            reason: Why.
            evidence: The numbers.
            seen: The rollout's revision that was judged; None: whatever it is.

        Raises:
            IllegalTransitionError: The stage is not being judged.
            StaleRevisionError: The rollout has another revision by now.
        """

        def step(rollout: Rollout, traffic: Traffic) -> Change | None:
            change = steps.hold(rollout, traffic, stage, self._cause(actor, reason, evidence))
            if change is not None and rollout.state is not State.BAKING:
                raise IllegalTransitionError(
                    f"stage {stage} of {rollout.id} can't be held: the rollout is {rollout.state}, must be "
                    f"{State.BAKING}; a person can hold it by `rollouts hold`"
                )
            return change and _of_revision(change, seen)

        return self._apply(rollout_id, step)

    def cut_over(self, rollout_id: str, actor: str, reason: str, evidence: Mapping[str, Any]) -> Rollout:
        """Make the challenger the champion."""
        rollout = self._apply(rollout_id, lambda r, t: steps.cut_over(r, t, self._cause(actor, reason, evidence)))
        self.sync_registry(rollout_id)
        return rollout

    def roll_back(self, rollout_id: str, actor: str, reason: str, evidence: Mapping[str, Any] | None = None) -> Rollout:
        """Give the champion all the traffic. Needs the store alone: the registry is left to `sync_registry`."""
        return self._apply(rollout_id, lambda r, t: steps.roll_back(r, t, self._cause(actor, reason, evidence or {})))

    def to_roll_back(self, model: str) -> Rollout:
        """The rollout that a rollback of a model is about: the active one, or else the newest.

        Raises:
            NotFoundError: The model never had one.
        """
        if rollout := self.store.active(model):
            return rollout
        newest = self.store.rollouts(model, limit=1)
        if not newest:
            raise NotFoundError(f"model {model} never had a rollout; there is nothing to roll back to")
        return newest[0]

    def sync_registry(self, rollout_id: str) -> None:
        """Bring the registry's aliases and tags to what the store says."""
        rollout = self.store.rollout(rollout_id)
        traffic = self.store.traffic(rollout.model)
        if traffic is None:
            raise NotFoundError(f"traffic of {rollout.model} is missing though {rollout_id} exists; check the store")
        if traffic.rollout_id not in (rollout_id, None):
            return  # a later rollout owns the roles by now
        self.sync_roles(traffic)
        share = 100.0 if rollout.state is State.PROMOTED else traffic.share
        self.registry.tag(
            rollout.model,
            rollout.challenger,
            {
                "rollout.id": rollout.id,
                "rollout.pattern": rollout.plan.pattern,
                "rollout.state": rollout.state,
                "rollout.stage": str(rollout.stage),
                "rollout.share": f"{share:g}",
                "rollout.reason": rollout.reason[:1000],
                # last: that it is there says that all of the rest is
                "rollout.revision": str(traffic.revision),
            },
        )

    def sync_roles(self, traffic: Traffic) -> None:
        """Bring the registry's aliases of a model to what its traffic row says; it may never have had a rollout."""
        roles = {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous}
        try:
            self.registry.set_roles(traffic.model, roles)
        except NotFoundError:
            if traffic.previous is None:
                raise
            # an old champion that was deleted from the registry must not hold up the roles of those that serve
            logger.warning("version %s of %s (previous) is gone from the registry", traffic.previous, traffic.model)
            self.registry.set_roles(traffic.model, {**roles, "previous": None})

    # --- inside

    def _cause(self, actor: str, reason: str, evidence: Mapping[str, Any] | None = None) -> Cause:
        return Cause(actor=actor, at=self.clock(), reason=reason, evidence=evidence or {})

    def _apply(self, rollout_id: str, step: Callable[[Rollout, Traffic], Change | None]) -> Rollout:
        """Read, change, write; read again when somebody else was faster."""
        model = self.store.rollout(rollout_id).model
        change_traffic(self.store, model, lambda traffic: step(self.store.rollout(rollout_id), traffic))
        return self.store.rollout(rollout_id)


def _of_revision(change: Change, seen: int | None) -> Change:
    """The change, where it is one of the revision that was judged."""
    if seen is not None and change.expected_rollout_revision != seen:
        raise StaleRevisionError(
            f"the rollout is at revision {change.expected_rollout_revision} by now, revision {seen} was judged; it is "
            "to be judged again"
        )
    return change
