"""Buttons on a task's page in Airflow: the rollout, the stage's MLflow run, the report.

A task works its links out when it ends, from what preflight has left; what can't be worked out is no button.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import attrs
from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

_PREFLIGHT = "preflight"  # base.py imports this module
REPORT_KEY = "report"


@attrs.define()
class RolloutLink(BaseOperatorLink):
    """The rollout on the page "Rollouts"."""

    name = "Rollout"

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """An address on the same server."""
        rollout_id = _opened(ti_key).get("rollout_id")
        return page_address(str(rollout_id)) if rollout_id else ""


@attrs.define()
class MlflowRunLink(BaseOperatorLink):
    """The stage's run in MLflow."""

    name = "MLflow run"

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """Its address."""
        return str(_opened(ti_key).get("mlflow_run_url") or "")


@attrs.define()
class ReportLink(BaseOperatorLink):
    """The report that the task has made."""

    name = "Report"

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """Its address, among the run's artifacts."""
        run = _opened(ti_key).get("mlflow_run_url")
        file = _pulled(ti_key, operator.task_id, REPORT_KEY)
        return f"{run}/artifacts/{quote(str(file))}" if run and file else ""


def page_address(rollout_id: str) -> str:
    """A rollout on the page, from the root of Airflow's server."""
    from airflow.configuration import conf

    from model_rollouts.web.app import PAGE_PREFIX

    base = urlsplit(str(conf.get("api", "base_url", fallback=""))).path.rstrip("/")
    return f"{base}{PAGE_PREFIX}/#/rollout/{quote(rollout_id, safe='')}"


def _opened(ti: Any) -> dict[str, Any]:
    """What preflight left; Airflow gives the running task instance, in the name of its key."""
    found = _pulled(ti, _PREFLIGHT)
    return found if isinstance(found, dict) else {}


def _pulled(ti: Any, task_id: str, key: str = "return_value") -> Any:
    found = ti.xcom_pull(task_ids=task_id, key=key)
    return found[0] if isinstance(found, list) and found else found
