"""The verdict's sentence as the DAG run's note, where the grid shows it.

Airflow 3.3 lets a task write no note on its own run; its REST API does, for a user with the right to edit runs. So
there is a note where MODEL_ROLLOUTS_AIRFLOW_URL and credentials are set.
"""

import logging
from typing import TYPE_CHECKING

from model_rollouts.operators.base import PREFLIGHT, pull, run_of, wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

logger = logging.getLogger(__name__)


def note_run(context: "Context", end: str, reason: str) -> None:
    """Add how the stage ended and why to the run's note. Never raises: a note holds nothing up.

    Args:
        context: The task's context.
        end: The end's task: expand, cut_over, roll_back or hold.
        reason: One sentence.
    """
    try:
        parts = wiring()
        if not parts.settings.airflow_url:
            return
        opened = pull(context, PREFLIGHT) or {}
        rollout = parts.store.rollout(str(opened["rollout_id"]))
        stage = int(opened["stage"])
        share = rollout.plan.stage(stage).share
        place = f"Stage {stage + 1} of {len(rollout.plan.stages)} at {share:g} %"
        run = run_of(context)
        parts.airflow().add_note(run["dag_id"], run["run_id"], f"{place}: {end.replace('_', ' ')}. {reason}")
    except Exception as error:
        logger.warning("the run has no note: %s: %s", type(error).__name__, error)
