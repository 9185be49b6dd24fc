"""Reports of a rollout, as the page shows them: MLflow is asked for a bounded time, and files come in a sandbox.

A report is a page that tools made from logged values. It gets no origin of its own: it can run the scripts that are in
it and reach nothing, neither Airflow's cookies nor any address.
"""

import mimetypes
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from model_rollouts.core.rollout import Rollout

if TYPE_CHECKING:
    from model_rollouts.adapters.mlflow_reports import MlflowReports, StageReports

#: For files from reports: no origin, no network, only what the file itself holds.
SANDBOX = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline' "
    "'unsafe-eval' blob: data:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: What a browser may show; everything else is saved.
_SHOWN = frozenset({"text/html", "application/json", "text/plain", "text/csv", "image/png", "image/jpeg"})

_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 15.0  # from when on MLflow counts as away
_READ_SECONDS = 30.0
_FRESH_SECONDS = 10.0
_MOST_KEPT = 200
_ORDER = ("comparison.html", "drift.html", "data_checks_predictions.html", "data_checks_outcomes.html", "decision.json")


class SlowMlflowError(Exception):
    """MLflow has not answered in time, or not at all."""


class Reports:
    """What MLflow has of rollouts, asked for a bounded time.

    Args:
        source: MLflow.
        wait: Seconds that a request for a list waits; what is not there by then is said to be waited for.
        patience: Seconds until it is said that MLflow does not answer.
    """

    def __init__(
        self, source: "MlflowReports", wait: float = _WAIT_SECONDS, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._source, self._wait, self._patience = source, wait, patience
        self._workers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="rollouts-reports")
        self._asked: dict[str, tuple[float, Future[list[StageReports]]]] = {}

    def stages(self, rollout: Rollout, ui: str) -> dict[str, Any]:
        """The stages' reports, in JSON types; "waiting" while MLflow is asked.

        Raises:
            SlowMlflowError: MLflow does not answer.
        """
        at, asked = self._asked.get(rollout.id, (0.0, None))
        if asked is None or (asked.done() and time.monotonic() - at > _FRESH_SECONDS):
            at, asked = time.monotonic(), self._workers.submit(self._source.stages, rollout)
            self._asked.pop(rollout.id, None)
            self._asked[rollout.id] = (at, asked)
            while len(self._asked) > _MOST_KEPT:
                self._asked.pop(next(iter(self._asked)))
        try:
            found = self._bounded(asked, self._wait)
        except SlowMlflowError:
            if asked.done() or time.monotonic() - at > self._patience:
                raise
            return {"stages": [], "waiting": True}
        return {"stages": [_told(rollout, each, ui) for each in found], "waiting": False}

    def read(self, rollout: Rollout, run_id: str, path: str) -> bytes:
        """One file.

        Raises:
            NotFoundError: There is none.
            SlowMlflowError: MLflow does not answer.
        """
        asked = self._workers.submit(self._source.read, rollout, run_id, path)
        content: bytes = self._bounded(asked, _READ_SECONDS)
        return content

    @staticmethod
    def _bounded(asked: "Future[Any]", wait: float) -> Any:
        from model_rollouts.core.errors import RolloutError

        try:
            return asked.result(timeout=wait)
        except RolloutError:
            raise
        except TimeoutError as error:
            raise SlowMlflowError from error
        except Exception as error:  # whatever its client raises: connection, login, a proxy's page
            raise SlowMlflowError(type(error).__name__) from error


def _told(rollout: Rollout, found: "StageReports", ui: str) -> dict[str, Any]:
    share = rollout.plan.stages[found.stage].share if found.stage < len(rollout.plan.stages) else None
    paths = sorted(found.files, key=lambda path: (_ORDER.index(path) if path in _ORDER else len(_ORDER), path))
    return {
        "stage": found.stage,
        "share": share,
        "run_id": found.run_id,
        "url": f"{ui}/#/experiments/{found.experiment_id}/runs/{found.run_id}" if ui else None,
        "files": [{"path": path, "bytes": found.files[path]} for path in paths],
        "reason": found.tags.get("rollout.reason"),
    }


def headers_of(path: str) -> tuple[str, Mapping[str, str]]:
    """(content type, headers) of a report's file."""
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in path.rpartition("/")[2])
    way = "inline" if kind in _SHOWN else "attachment"
    kind = f"{kind}; charset=utf-8" if kind.startswith("text/") or kind == "application/json" else kind
    return kind, {**SANDBOX, "Content-Disposition": f'{way}; filename="{name}"'}
