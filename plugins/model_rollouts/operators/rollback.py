"""Rolling back and drilling by hand, outside of a rollout's own run."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from model_rollouts.core.errors import RolloutError
from model_rollouts.operators.base import actor_of, wiring
from model_rollouts.operators.finish import undo_data
from model_rollouts.operators.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollBackModelOperator(BaseOperator):
    """Gives the champion all the traffic: of the active rollout, or after a promotion while the old one is kept.

    The traffic comes first and needs the store alone. On retry, or when it is rolled back already: only the registry
    and what is left of the data. When the store is missing: fails and is tried again.
    """

    ui_color = "#f7dcdc"

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"rollout_id", "champion", "reason", "data"}."""
        model, why = str(context["params"]["model"]), str(context["params"]["reason"])
        service = wiring().service
        try:
            before = service.to_roll_back(model)
            rollout = service.roll_back(before.id, actor_of(context), why)
        except RolloutError as error:
            # the same form gives the same answer, so a retry would only say it again
            raise AirflowFailException(str(error)) from error
        if before.state is not rollout.state:
            notify(context, event="rolled_back", model=model, reason=why, rollout_id=rollout.id)
        service.sync_registry(rollout.id)
        self.log.info("%s is rolled back: version %s answers all requests of %s", rollout.id, rollout.champion, model)
        data = undo_data(context, rollout.id)
        return {"rollout_id": rollout.id, "champion": rollout.champion, "reason": rollout.reason, "data": data}


class DrillOperator(BaseOperator):
    """Flips the traffic of a model without a rollout to another version, for no unit, and back; measures it.

    On retry: drills again. When a gateway does not follow: the traffic is the champion's again, and it fails.
    """

    ui_color = "#e8eef7"

    def execute(self, context: "Context") -> dict[str, Any]:
        """Return {"version", "gateways", "out_seconds", "back_seconds", "revision"}."""
        from dataclasses import asdict

        parts = wiring()
        model, wanted = str(context["params"]["model"]), context["params"].get("version")
        actor = actor_of(context)
        try:
            traffic = parts.service.adopt(model, actor)
            version = parts.registry.resolve(model, str(wanted)).version if wanted else traffic.previous
            if version is None:
                raise AirflowFailException(f"no old champion of {model} is kept as previous; name a version to drill")
            drill = parts.drills.drill(model, version, actor, "rollback drill")
        except RolloutError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", drill.summary)
        return asdict(drill)
