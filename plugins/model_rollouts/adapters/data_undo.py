"""Undoes data with a model: a Delta table goes back, a function is called, a DAG is run."""

import contextvars
import importlib
import inspect
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote, urlsplit

from model_rollouts.adapters import delta_restore
from model_rollouts.adapters.airflow_client import ENDED, AirflowClient, AirflowError
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import DataRollbackError, NotReadyError

_RESULT_CHARS = 10_000
_RUN_ID = re.compile(r"[^A-Za-z0-9_.~:+-]+")  # what Airflow allows, turned round
_DELTA = f"{DataRollbackKind.DELTA_RESTORE}:"
_BETWEEN = re.compile(r"[/\\?#]")  # what ends a segment, for one reader of URLs or another
_WILD = re.compile(r"[*?\[]")
_DECODED = 4  # times that percent signs are looked behind


class DataUndoer:
    """Implements `DataUndo`.

    Args:
        airflow: Makes a client of Airflow, once a DAG is to be run.
        allowed: What may be undone, as patterns of `kind:target`. A plan comes from a form, and who may send that may
            not therefore call any function, or run any DAG, with this process's rights. A Delta table on this machine
            must be allowed by its path as it is given, and by its path without links.
    """

    def __init__(self, airflow: Callable[[], AirflowClient], allowed: Sequence[str] = ("*",)) -> None:
        self._airflow = airflow
        self._allowed = tuple(allowed)

    def pin(self, step: DataRollback) -> DataRollback:
        """The step as it must be put down when a rollout starts.

        A Delta table's current version is put in; a version that is named must be readable. A callable must be there
        and take the arguments. A DAG must be there and not be paused.

        Raises:
            NotReadyError: It could not be undone; says why.
        """
        if problem := self._refusal(step):
            raise NotReadyError(problem)
        if step.kind is DataRollbackKind.DELTA_RESTORE:
            if step.version is None:
                return replace(step, version=delta_restore.current_version(step.target))
            delta_restore.check_version(step.target, step.version)
        elif step.kind is DataRollbackKind.CALLABLE:
            _function(step)
        else:
            try:
                dag = self._airflow().dag(step.target)
            except AirflowError as error:
                raise NotReadyError(f"{step.name} can't be checked: {error}") from error
            if dag is None:
                raise NotReadyError(f"Airflow has no DAG {step.target}, which the data rollback would run")
            if problem := _can_not_run(step, dag):
                raise NotReadyError(problem)
        return step

    def undo(self, step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
        """Do it, and wait for its end.

        Args:
            step: What to undo, pinned.
            rollout: JSON types: "id", "model", "champion", "challenger", and "position" of the step in the plan.

        Returns:
            JSON types: "kind", "target", "seconds", "detail" and what the kind has to tell.

        Raises:
            DataRollbackError: It failed, may not be done, or took longer than the step's time limit.
        """
        if problem := self._refusal(step):
            raise DataRollbackError(problem)
        do = {
            DataRollbackKind.DELTA_RESTORE: _restore,
            DataRollbackKind.CALLABLE: _call,
            DataRollbackKind.DAG: self._run_dag,
        }[step.kind]
        began = time.monotonic()
        try:
            result = do(step, rollout)
        except DataRollbackError:
            raise
        except Exception as error:
            raise DataRollbackError(f"{step.name} failed: {type(error).__name__}: {error}") from error
        seconds = round(time.monotonic() - began, 3)
        return {"kind": step.kind.value, "target": step.target, "seconds": seconds, **result}

    def _refusal(self, step: DataRollback) -> str:
        """Why a step may not be done; "": it may."""
        what = f"{step.kind}:{step.target}"
        if step.kind is DataRollbackKind.DELTA_RESTORE and (problem := _dubious(step.target)):
            return f"{step.name} may not be done: {problem}"
        if any(fnmatchcase(what, pattern) for pattern in self._allowed):
            path = _local(step.target) if step.kind is DataRollbackKind.DELTA_RESTORE else None
            real = None if path is None else _DELTA + os.path.realpath(path)
            if real is None or any(fnmatchcase(real, _without_links(pattern)) for pattern in self._allowed):
                return ""
            what = f"{real}, which {step.target} leads to,"
        return (
            f"{step.name} may not be done: {what} is not in MODEL_ROLLOUTS_UNDO_ALLOWED "
            f"({', '.join(self._allowed) or 'nothing'}); add it there, where Airflow runs"
        )

    def _run_dag(self, step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
        """Run it under an id of its own for this rollout: a run that is there is waited for, or taken up again."""
        until = time.monotonic() + step.timeout_seconds
        airflow = self._airflow()
        run_id = f"{_RUN_ID.sub('-', str(rollout['id']))}--data-rollback-{int(rollout['position']) + 1}"
        dag = airflow.dag(step.target)
        if dag is None:
            raise DataRollbackError(f"Airflow at {airflow.url} has no DAG {step.target}")
        if problem := _can_not_run(step, dag):
            raise DataRollbackError(problem)
        note = f"Data rollback of {rollout['model']}, rollout {rollout['id']}"
        new = airflow.trigger(step.target, run_id, step.arguments, note)
        began = "ran"
        if not new:
            began = "had been started before"
            if airflow.state(step.target, run_id) == "failed":
                airflow.run_again(step.target, run_id)
                began = "had failed before, and ran again"
        state = airflow.wait(step.target, run_id, until - time.monotonic())
        run = f"run {run_id} of DAG {step.target}"
        if state not in ENDED:
            raise DataRollbackError(
                f"{run} is still {state} after {step.timeout_seconds:g} s; it goes on: look at it in Airflow, and roll "
                "back again to have its end put on record"
            )
        if state != "success":
            raise DataRollbackError(f"{run} has failed; its log in Airflow says why")
        return {"run_id": run_id, "state": state, "detail": f"{run} {began} and has succeeded"}


# --- inside


def _dubious(target: str) -> str:
    """Why a table's path or URI may lead elsewhere than it says; "": it does not."""
    if not target.isprintable():
        return f"its target is {target!r}, must have no control characters"
    seen = target
    for _ in range(_DECODED):
        if ".." in (part.strip() for part in _BETWEEN.split(seen)):
            return f"its target is {target!r}, must have no '..'; give the path that it leads to"
        before, seen = seen, unquote(seen)
        if seen == before:
            return ""
    return f"its target is {target!r}, must not be percent-encoded {_DECODED} times over"


def _local(target: str) -> str | None:
    """The path of a table on this machine; None: it is elsewhere."""
    url = urlsplit(target.strip())
    if url.scheme == "file":
        return "/" + unquote(url.path).lstrip("/")
    return None if "://" in target else os.path.expanduser(target)  # as Delta does


def _without_links(pattern: str) -> str:
    """A pattern with the folder that it names outright as it is without links."""
    if not pattern.startswith(_DELTA):
        return pattern
    target = pattern.removeprefix(_DELTA)
    wild = _WILD.search(target)
    head, slash, _ = target[: wild.start() if wild else len(target)].rpartition("/")
    path = _local(head) if slash else None
    if path is None:
        return pattern
    real = os.path.realpath(path).rstrip("/")
    return _DELTA + _WILD.sub(r"[\g<0>]", real) + target[len(head) :]


def _can_not_run(step: DataRollback, dag: Mapping[str, Any]) -> str:
    if dag.get("is_paused"):
        return f"DAG {step.target} is paused, so its run would never begin; unpause it in Airflow"
    if dag.get("has_import_errors"):
        return f"DAG {step.target} has import errors; Airflow's page of DAGs shows them"
    return ""


def _restore(step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
    version = step.version
    if version is None:
        raise DataRollbackError(
            f"{step.name} names no version to go back to, and none was put down when the rollout started; restore it "
            "by hand"
        )
    mark = f"{rollout['id']}/{rollout['position']}"
    result: dict[str, Any] = _within(step, lambda: delta_restore.restore(step.target, version, mark))
    return result


def _call(step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
    function = _function(step)
    result = _within(step, lambda: function(**step.arguments, rollout=dict(rollout)))
    if inspect.isawaitable(result) or inspect.isgenerator(result):
        getattr(result, "close", lambda: None)()
        raise DataRollbackError(
            f"{step.target} gave a {type(result).__name__}: nothing has run; make it a plain function"
        )
    try:
        told = json.dumps(result, allow_nan=False)
        kept = result
    except (TypeError, ValueError, RecursionError):
        told = kept = str(result)
    if len(told) > _RESULT_CHARS:
        kept = told[:_RESULT_CHARS]
    return {"result": kept, "detail": f"{step.target} returned {told[:200]}"}


def _function(step: DataRollback) -> Callable[..., Any]:
    """The callable of a step, which takes its arguments.

    Raises:
        NotReadyError: It can't be imported, is none, or takes other arguments.
    """
    module, _, name = step.target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module raises
        raise NotReadyError(f"{step.target} can't be imported here: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise NotReadyError(f"{step.target} is a {type(function).__name__}, must be a function")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise NotReadyError(f"{step.target} is a coroutine or generator function, must be a plain one")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function  # some built-in functions do not tell
    try:
        signature.bind(**step.arguments, rollout={})
    except TypeError as error:
        raise NotReadyError(
            f"{step.target}{signature} can't be called with its arguments and rollout: {error}"
        ) from error
    return function


def _within(step: DataRollback, work: Callable[[], Any]) -> Any:
    """The work's result, if it comes in time. Python can't end a thread: work that is late goes on unheard."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # one that calls sys.exit has failed, too
            failures.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="data-rollback", daemon=True)
    thread.start()
    thread.join(step.timeout_seconds)
    if failures:
        if isinstance(failures[0], Exception):
            raise failures[0]
        raise DataRollbackError(f"{step.name} ended with {type(failures[0]).__name__}: {failures[0]}")
    if not results:
        raise DataRollbackError(
            f"{step.name} took more than {step.timeout_seconds:g} s and may still go on; see how far it came before it "
            "is tried again"
        )
    return results[0]
