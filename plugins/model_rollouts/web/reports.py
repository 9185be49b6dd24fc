"""Reports of a rollout, as the page shows them: MLflow is asked for a bounded time, and files come in a sandbox.

A report is a page that tools made from logged values, which may hold what a caller put there. It has no origin: the
scripts that are in it run, and read neither Airflow's cookies nor its pages. It may load nothing. A page that stands
alone could still go to another site, and take along what it shows; so it is only ever shown in a frame of a page of
ours, which lets its frame show nothing of other sites.
"""

import mimetypes
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from model_rollouts.core.rollout import Rollout

if TYPE_CHECKING:
    from model_rollouts.adapters.mlflow_reports import MlflowReports, StageReports

#: For files from reports: no origin, no windows, only what the file itself holds.
SANDBOX = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' "
    "'unsafe-eval' blob: data:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",
    "Vary": "Sec-Fetch-Dest, Referer",
}
#: For the page around a report. What is in its frame can't go where the frame may not go.
AROUND = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Vary": "Sec-Fetch-Dest, Referer",
}
_AROUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<style>html, body {{ height: 100%; margin: 0; }}
iframe {{ border: 0; width: 100%; height: 100%; display: block; }}</style>
</head><body><iframe title="{name}" sandbox="allow-scripts" src="?frame=1"></iframe></body></html>
"""
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


def around(path: str) -> str:
    """The page around a report, at the report's own address."""
    return _AROUND.format(name=escape(path, quote=True))


def needs_frame(path: str, own: str, destination: str | None, referrer: str | None) -> bool:
    """Whether the page around a report is the answer, and not the report itself.

    Args:
        path: The report's file.
        own: Path of the address that is asked for.
        destination: What the browser says that it asks for. Over plain HTTP it says nothing of it.
        referrer: Where it says that it comes from.
    """
    if headers_of(path)[0].partition(";")[0] != "text/html":
        return False
    if destination is not None:
        return destination != "iframe"
    return referrer is None or unquote(urlsplit(referrer).path) != own
