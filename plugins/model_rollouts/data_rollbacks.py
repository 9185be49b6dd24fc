"""What a plan says must be undone with the model is done after a rollback, once, and put on record."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from model_rollouts.changing import change_traffic
from model_rollouts.core.errors import DataRollbackError, IllegalTransitionError
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import (
    Cause,
    Change,
    Event,
    EventKind,
    Rollout,
    State,
    begin_data,
    data_begun,
    data_end,
    data_left,
    data_until,
)
from model_rollouts.core.traffic import Traffic
from model_rollouts.ports import DataUndo
from model_rollouts.service import RolloutService

logger = logging.getLogger(__name__)

_POLL_SECONDS = 2.0


def _now() -> datetime:
    return datetime.now(UTC)


class DataRollbacks:
    """Pins before a rollout, undoes after a rollback.

    Args:
        service: Puts results on record.
        undo: Does it.
        clock: Current time, UTC.
        wait: Waits for so many seconds.
    """

    def __init__(
        self,
        service: RolloutService,
        undo: DataUndo,
        clock: Callable[[], datetime] = _now,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._service = service
        self._store = service.store
        self._undo = undo
        self._clock = clock
        self._wait = wait

    def pinned(self, plan: Plan) -> Plan:
        """The plan with every step as it must be put down: tables have the version that they have now.

        Raises:
            NotReadyError: Something that is to be undone is not there.
        """
        return replace(plan, data_rollback=tuple(self._undo.pin(step) for step in plan.data_rollback))

    def left(self, rollout: Rollout) -> list[int]:
        """Positions of the steps that are not on record as done."""
        return data_left(rollout, self._store.events(rollout_id=rollout.id))

    def run(self, rollout_id: str, actor: str) -> list[dict[str, Any]]:
        """Do what is left of the steps, in order; a step that fails stops those after it.

        Each result is put on record, a failure as well. What is on record as done is not done again. A step that
        somebody else is at is left to them: their result, or their failure, is this call's as well. One whose process
        died before its record is done again once its time is up, so a step must bear to be repeated.

        Returns:
            The results of what was left; empty where nothing was.

        Raises:
            IllegalTransitionError: The rollout was not rolled back.
            DataRollbackError: A step failed; the message says which, why, and how many are left.
        """
        rollout = self._store.rollout(rollout_id)
        if rollout.state is not State.ROLLED_BACK:
            raise IllegalTransitionError(
                f"{rollout_id} is {rollout.state}; data is rolled back after the traffic, and that has not been"
            )
        subject = {
            "id": rollout.id,
            "model": rollout.model,
            "champion": rollout.champion,
            "challenger": rollout.challenger,
        }
        results: list[dict[str, Any]] = []
        left = self.left(rollout)
        for position in left:
            try:
                results.append(self._step(rollout, position, actor, {**subject, "position": position}))
            except DataRollbackError as error:
                raise DataRollbackError(
                    f"{error}; {len(left) - len(results)} of {len(rollout.plan.data_rollback)} steps are left. The "
                    f"traffic is back. Mend the cause and run `rollouts rollback {rollout.model}` or the DAG rollback "
                    "again: what is done is not repeated"
                ) from error
        return results

    # --- inside

    def _step(self, rollout: Rollout, position: int, actor: str, subject: dict[str, Any]) -> dict[str, Any]:
        """The result of a step, whoever does it."""
        step = rollout.plan.data_rollback[position]
        name = f"data rollback {position + 1} ({step.name})"
        evidence = {
            "position": position,
            "step": asdict(step) | {"kind": step.kind.value},
            "claim": uuid4().hex,
        }
        while other := self._begun(rollout, position, self._cause(actor, f"{name} begins", evidence)):
            ended = self._end(rollout, other)
            if ended is None:
                continue
            if ended.kind is EventKind.DATA_ROLLBACK_FAILED:
                raise DataRollbackError(f"begun by {ended.actor}: {ended.reason}")
            return dict(ended.evidence["result"])
        try:
            result = self._undo.undo(step, subject)
        except BaseException as error:  # whatever it is, it must be told, and nothing after it may be done
            reason = f"{name} failed: {type(error).__name__}: {error}"[:1000]
            self._service.note(rollout.id, EventKind.DATA_ROLLBACK_FAILED, actor, reason, evidence)
            if not isinstance(error, Exception):  # the process, or its task, is being ended
                raise
            raise DataRollbackError(reason) from error
        said = f"{name}: {result.get('detail') or 'done'}"[:1000]
        self._service.note(rollout.id, EventKind.DATA_ROLLED_BACK, actor, said, {**evidence, "result": result})
        return result

    def _begun(self, rollout: Rollout, position: int, cause: Cause) -> Event | None:
        """Begin a step; gives the event of somebody's who is at it, or has done it, instead."""
        other: list[Event] = []

        def begin(traffic: Traffic) -> Change | None:
            now = self._store.rollout(rollout.id)  # before the events: one that comes after them has this revision
            events = self._store.events(rollout_id=rollout.id)
            other[:] = [event for event in events if _has_done(event, position)]
            if at_it := data_begun(now, events, position, cause.at):
                other.append(at_it)
            return None if other else begin_data(now, traffic, cause)

        change_traffic(self._store, rollout.model, begin)
        return other[0] if other else None

    def _end(self, rollout: Rollout, began: Event) -> Event | None:
        """Wait for the end of a step that somebody else has begun; None: its time is up."""
        if began.kind is EventKind.DATA_ROLLED_BACK:
            return began
        until = data_until(rollout, began)
        logger.warning("waiting until %s for %s, who is at it: %s", until, began.actor, began.reason)
        while True:
            if ended := data_end(began, self._store.events(rollout_id=rollout.id)):
                return ended
            if self._clock() >= until:
                return None
            self._wait(_POLL_SECONDS)

    def _cause(self, actor: str, reason: str, evidence: dict[str, Any]) -> Cause:
        return Cause(actor, self._clock(), reason[:1000], evidence)


def _has_done(event: Event, position: int) -> bool:
    return event.kind is EventKind.DATA_ROLLED_BACK and event.evidence.get("position") == position
