"""Finds and mends what a crash or a hand has left."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_rollouts.operators.base import actor_of, wiring
from model_rollouts.operators.finish import next_run
from model_rollouts.operators.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import Context

_ALIVE = ["queued", "running"]


class ReconcileOperator(BaseOperator):
    """Looks at every model: runs that died, aliases moved by hand, gateways that do not follow, old champions kept.

    What is provably unfinished is finished, everything else is reported (see reconcile.py). On retry: looks again.
    When the store is missing: fails, and nothing is changed.
    """

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Return arguments for TriggerDagRunOperator: the stage runs that take up what has lost its run."""
        from model_rollouts.reconcile import Reconciler

        parts, ti = wiring(), context["ti"]

        def state(dag_id: str, run_id: str) -> str | None:
            if not ti.get_dr_count(dag_id, run_ids=[run_id]):
                return None
            return "alive" if ti.get_dr_count(dag_id, run_ids=[run_id], states=_ALIVE) else "ended"

        found = Reconciler(parts.service, parts.gateway, state, actor_of(context)).check()
        for finding in found:
            self.log.warning("%s", finding.what)
            if not finding.repaired:
                notify(context, event="stuck", model=finding.model, reason=finding.what, rollout_id=finding.rollout_id)
        runs = []
        for finding in found:
            if finding.resume is not None and finding.rollout_id is not None:
                run = next_run(parts.store.rollout(finding.rollout_id), finding.resume)
                runs.append({**run, "trigger_run_id": finding.run_id})
        return runs
