"""What a plan says must be undone with the model is done after a rollback, once, and put on record."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from model_rollouts.core.errors import DataRollbackError, IllegalTransitionError
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import EventKind, Rollout, State, data_left
from model_rollouts.ports import DataUndo
from model_rollouts.service import RolloutService


def _now() -> datetime:
    return datetime.now(UTC)


class DataRollbacks:
    """Pins before a rollout, undoes after a rollback.

    Args:
        service: Puts results on record.
        undo: Does it.
        clock: Current time, UTC.
    """

    def __init__(self, service: RolloutService, undo: DataUndo, clock: Callable[[], datetime] = _now) -> None:
        self._service = service
        self._undo = undo
        self._clock = clock

    def pinned(self, plan: Plan) -> Plan:
        """The plan with every step as it must be put down: tables have the version that they have now.

        Raises:
            NotReadyError: Something that is to be undone is not there.
        """
        return replace(plan, data_rollback=tuple(self._undo.pin(step) for step in plan.data_rollback))

    def left(self, rollout: Rollout) -> list[int]:
        """Positions of the steps that are not on record as done."""
        return data_left(rollout, self._service.store.events(rollout_id=rollout.id))

    def run(self, rollout_id: str, actor: str) -> list[dict[str, Any]]:
        """Do what is left of the steps, in order; a step that fails stops those after it.

        Each result is put on record, a failure as well. What is on record as done is not done again; a step whose
        process died before its record is, so a step must bear to be repeated.

        Returns:
            The results of this call; empty where nothing was left.

        Raises:
            IllegalTransitionError: The rollout was not rolled back.
            DataRollbackError: A step failed; the message says which, why, and how many are left.
        """
        rollout = self._service.store.rollout(rollout_id)
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
            step = rollout.plan.data_rollback[position]
            evidence = {"position": position, "step": asdict(step) | {"kind": step.kind.value}}
            try:
                result = self._undo.undo(step, {**subject, "position": position})
            except BaseException as error:  # whatever it is, it must be told, and nothing after it may be done
                reason = f"data rollback {position + 1} ({step.name}) failed: {type(error).__name__}: {error}"[:1000]
                self._service.note(rollout_id, EventKind.DATA_ROLLBACK_FAILED, actor, reason, evidence)
                if not isinstance(error, Exception):  # the process, or its task, is being ended
                    raise
                raise DataRollbackError(
                    f"{reason}; {len(left) - len(results)} of {len(rollout.plan.data_rollback)} steps are left. The "
                    f"traffic is back. Mend the cause and run `rollouts rollback {rollout.model}` or the DAG rollback "
                    "again: what is done is not repeated"
                ) from error
            said = str(result.get("detail") or "done")
            self._service.note(
                rollout_id,
                EventKind.DATA_ROLLED_BACK,
                actor,
                f"data rollback {position + 1} ({step.name}): {said}"[:1000],
                {**evidence, "result": result},
            )
            results.append(result)
        return results
