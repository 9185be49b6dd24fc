"""What people do to a rollout, by the command line or the page.

The store comes first and alone: what is done stands whether Airflow and MLflow are there or not. What follows from it
(a run that opens the next stage, the question that a run waits with, the registry's tags) is tried, and what could not
be done is told; the DAG `reconcile` and `rollouts sync` make up for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from model_rollouts.airflow_ports import Question, StageDags
from model_rollouts.changing import change_traffic
from model_rollouts.core import by_hand
from model_rollouts.core.by_hand import Deed
from model_rollouts.core.decision import Verdict
from model_rollouts.core.errors import (
    IllegalTransitionError,
    MissingReasonError,
    NotReadyError,
    RolloutError,
    StaleRevisionError,
)
from model_rollouts.core.names import stage_run_id
from model_rollouts.core.plan import Advance
from model_rollouts.core.rollout import Cause, Change, EventKind, Rollout, State
from model_rollouts.core.traffic import Traffic
from model_rollouts.service import RolloutService

__all__ = ["ByHand", "Done", "Question", "StageDags", "required"]

_BEYOND = (Deed.EXPAND, Deed.CUT_OVER)  # what the evidence allows
#: What a person's deed answers to the question of a run that waits for a person.
_ANSWERS = {
    Deed.HOLD: "Hold",
    Deed.EXPAND: "Approve",
    Deed.CUT_OVER: "Approve",
    Deed.ROLL_BACK: "Roll back",
}
_YES = ("Approve", "We stand by")
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_LONGEST = 300  # characters of an error in a warning


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it.

    Attributes:
        rollout: As it is now.
        follows: What was brought about besides, in sentences.
        warnings: What could not be, and who makes up for it.
    """

    rollout: Rollout
    follows: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ByHand:
    """What people do.

    Args:
        service: The use cases.
        airflow: Makes the way to Airflow; raises RolloutError where its address is not set.
        may_answer: Whether the person may answer what a rollout's run asks; None: they are trusted, as whoever has
            the store's address is, and an approval that they pass over is on record as skipped.
    """

    def __init__(
        self,
        service: RolloutService,
        airflow: Callable[[], StageDags],
        may_answer: Callable[[Rollout], bool] | None = None,
    ) -> None:
        self._service = service
        self._may_answer = may_answer
        self._store = service.store
        self._airflow = airflow

    def offers(self, rollout_id: str) -> list[by_hand.Offer]:
        """What may be done to a rollout now, and what it would change."""
        rollout = self._store.rollout(rollout_id)
        traffic = self._store.traffic(rollout.model)
        return [] if traffic is None else by_hand.offers(rollout, traffic, self._barred(rollout))

    def do(self, deed: Deed, rollout_id: str, actor: str, reason: str, seen: int | None = None) -> Done:
        """Do it, unless things have changed since they were seen.

        Args:
            deed: What.
            rollout_id: The rollout.
            actor: The person.
            reason: Why; goes on record.
            seen: The rollout's revision that the person saw; None: whatever it is.

        Raises:
            MissingReasonError: The reason is empty.
            StaleRevisionError: It has another revision by now.
            IllegalTransitionError: Its state does not allow it, or an approval that the person may not give.
            NotReadyError: Harm is proven, and the deed would give the challenger more.
        """
        reason = required(reason)
        barred = deed in _BEYOND and self._barred(self._store.rollout(rollout_id))
        evidence = self._looked_at(deed, rollout_id, seen, barred) | self._counted(rollout_id)
        before = self._step(deed, rollout_id, Cause(actor, self._service.clock(), reason, evidence), seen, barred)
        if deed is Deed.CUT_OVER and self._store.rollout(rollout_id).state is State.CLEARED:
            cleared = self._store.rollout(rollout_id).revision
            self._step(deed, rollout_id, Cause(actor, self._service.clock(), reason, evidence), cleared)
        return self._follow(deed, before, actor, reason)

    def approve(self, rollout_id: str, actor: str, reason: str, seen: int | None = None) -> Done:
        """Answer the question that the rollout's run waits with: yes.

        Raises:
            StaleRevisionError: The rollout has another revision than the one that was seen.
            IllegalTransitionError: Nothing waits for a person.
            RolloutError: Airflow can't be asked, or the reason is empty.
        """
        reason = required(reason)
        rollout = self._store.rollout(rollout_id)
        _require_seen(rollout, seen)
        question = self.question(rollout)
        if question is None:
            raise IllegalTransitionError(
                f"nothing of {rollout.id} waits for a person: it is {rollout.state} ({rollout.reason}); to go on "
                "without proof, expand or cut over"
            )
        option = next((yes for yes in _YES if yes in question.options), question.options[0])
        self._airflow().answer(question, option)
        said = f"{question.subject} {option}: {reason}"
        self._service.note(rollout_id, EventKind.ANSWERED, actor, said, {"task": question.task_id, "answer": option})
        return Done(self._store.rollout(rollout_id), (f"{question.task_id} was answered: {option}",))

    def question(self, rollout: Rollout) -> Question | None:
        """What the rollout's run waits for a person with.

        Raises:
            RolloutError: Airflow can't be asked.
        """
        run = self._service.run_of(rollout.id)
        if not (run and rollout.active):
            return None
        return next(iter(self._airflow().questions(run["dag_id"], run["run_id"])), None)

    # --- inside

    def _barred(self, rollout: Rollout) -> bool:
        """Whether the stage is left with an approval only that this person may not give."""
        if self._may_answer is None or self._may_answer(rollout):
            return False
        try:
            return by_hand.asks(rollout) or self.question(rollout) is not None
        except Exception:  # whatever Airflow says: what can't be known is not passed over
            return True

    def _looked_at(self, deed: Deed, rollout_id: str, seen: int | None, barred: bool) -> dict[str, Any]:
        """The verdict that a person goes beyond, for the record; proven harm lets nobody go on."""
        rollout = self._store.rollout(rollout_id)
        _require_seen(rollout, seen)
        if deed not in _BEYOND or rollout.opened_at is None or not rollout.active or barred:
            return {"by_hand": True}
        decision = self._service.look(rollout_id)
        if decision.verdict is Verdict.FAIL:
            raise NotReadyError(f"harm is proven, roll back instead: {decision.reason}")
        beyond = {"by_hand": True, "verdict_then": str(decision.verdict), "reason_then": decision.reason}
        if by_hand.asks(rollout):
            beyond["approval"] = "skipped" if self._may_answer is None else "given with this"
        return beyond

    def _counted(self, rollout_id: str) -> dict[str, int]:
        """Where in the course of the looks it is done, for charts; a deed does not fail for it."""
        try:
            looks, labelled = self._service.evidence.look_counts(rollout_id)
        except Exception:  # whatever the store says: if it is gone, the deed itself says so
            return {}
        return {"looks": looks, "labelled_looks": labelled}

    def _step(self, deed: Deed, rollout_id: str, cause: Cause, seen: int | None, barred: bool = False) -> Rollout:
        """One change under the revision that was seen; gives the rollout before it."""
        found: list[Rollout] = []

        def change(traffic: Traffic) -> Change:
            rollout = self._store.rollout(rollout_id)
            _require_seen(rollout, seen)
            found[:] = [rollout]
            if deed is Deed.RESUME:  # what the run before it still does is not to override this
                run = _resuming_run(rollout)
                return by_hand.step(deed, rollout, traffic, replace(cause, evidence={**cause.evidence, "run": run}))
            return by_hand.step(deed, rollout, traffic, cause, barred)

        change_traffic(self._store, self._store.rollout(rollout_id).model, change)
        return found[0]

    def _follow(self, deed: Deed, before: Rollout, actor: str, reason: str) -> Done:
        """What follows from it, each part for itself."""
        follows: list[str] = []
        warnings: list[str] = []
        rollout = self._store.rollout(before.id)

        def attempt(what: str, remedy: str, part: Callable[[], str]) -> None:
            try:
                if told := part():
                    follows.append(told)
            except Exception as error:  # the deed is done, whatever follows
                said = str(error) if isinstance(error, RolloutError) else f"{type(error).__name__}: {error}"
                line = _CREDENTIALS.sub("//", said.splitlines()[0])[:_LONGEST] if said else "no message"
                warnings.append(f"{what} ({line}); {remedy}")

        attempt(
            "MLflow's aliases and tags are not updated yet",
            f"no traffic depends on them; `rollouts sync {rollout.model}` does it when MLflow is there",
            lambda: self._sync(rollout),
        )
        if deed in (Deed.EXPAND, Deed.RESUME):
            attempt(
                "the stage's run was not started",
                _makes_up(deed, rollout),
                lambda: self._start(deed, rollout, actor, reason),
            )
        if before.active and before.state is not State.HOLDING and deed in _ANSWERS and self._set():
            attempt(
                "a question to a person may still be open in Airflow",
                "answer it there",
                lambda: self._answer(deed, rollout),
            )
        return Done(self._store.rollout(rollout.id), tuple(follows), tuple(warnings))

    def _sync(self, rollout: Rollout) -> str:
        self._service.sync_registry(rollout.id)
        return ""

    def _start(self, deed: Deed, rollout: Rollout, actor: str, reason: str) -> str:
        """The run that opens the next stage, or takes a held one up again."""
        stage = rollout.stage + 1 if deed is Deed.EXPAND else rollout.stage
        run = {"dag_id": rollout.plan.pattern_of(stage).dag_id, "run_id": stage_run_id(rollout.id, stage)}
        if deed is Deed.RESUME:
            run = self._service.run_of(rollout.id)
        dag_id, run_id = run["dag_id"], run["run_id"]
        airflow = self._airflow()
        dag = airflow.dag(dag_id)
        if dag is None:
            raise NotReadyError(f"Airflow has no DAG {dag_id}")
        conf = {"model": rollout.model, "challenger": rollout.challenger, "rollout_id": rollout.id, "stage": stage}
        new = airflow.trigger(dag_id, run_id, {**conf, "requested_by": actor}, reason)
        if dag.get("is_paused"):
            raise NotReadyError(f"run {run_id} is queued, and DAG {dag_id} is paused: unpause it")
        return f"run {run_id} of DAG {dag_id} {'starts' if new else 'is there already'}"

    def _answer(self, deed: Deed, rollout: Rollout) -> str:
        run = self._service.run_of(rollout.id)
        if not run:
            return ""
        airflow = self._airflow()
        for question in airflow.questions(run["dag_id"], run["run_id"]):
            wanted = _ANSWERS[deed]
            option = wanted if wanted in question.options else question.options[-1]  # "Not now", to a roll-back
            airflow.answer(question, option)
            return f"{question.task_id} was answered: {option}"
        return ""

    def _set(self) -> bool:
        """Whether Airflow's address is known; where it is not there is nothing to say about it."""
        try:
            self._airflow()
        except RolloutError:
            return False
        return True


def _resuming_run(rollout: Rollout) -> dict[str, str]:
    """The run that takes a held stage up again; its id is another one each time."""
    stage = rollout.stage
    run_id = f"{stage_run_id(rollout.id, stage)}--resumed-{rollout.revision + 1}"
    return {"dag_id": rollout.plan.pattern_of(max(stage, 0)).dag_id, "run_id": run_id}


def _makes_up(deed: Deed, rollout: Rollout) -> str:
    """Who starts the run that was not started."""
    if deed is Deed.EXPAND and rollout.plan.advance is Advance.ON_SCHEDULE:
        return "the stage opens at the schedule's next tick, once Airflow runs, or expand again"
    return "the DAG reconcile starts one within some minutes, once Airflow runs"


def required(reason: str) -> str:
    """A reason without blanks around it.

    Raises:
        MissingReasonError: It is empty.
    """
    if not reason.strip():
        raise MissingReasonError("reason is empty; say why, it goes on record")
    return reason.strip()


def _require_seen(rollout: Rollout, seen: int | None) -> None:
    if seen is not None and rollout.revision != seen:
        raise StaleRevisionError(
            f"{rollout.id} is at revision {rollout.revision} by now ({rollout.state}, stage {rollout.stage + 1}: "
            f"{rollout.reason}), you saw {seen}; look at it again and decide again"
        )
