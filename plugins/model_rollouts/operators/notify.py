"""Tells people, through Airflow's notifiers. Telling never stops or fails a task.

Who is told is set by MODEL_ROLLOUTS_NOTIFIERS, a JSON list of Airflow notifiers:

    [{"class": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
      "kwargs": {"to": "{{ rollout.on_call }}", "subject": "{{ rollout.model }}: {{ rollout.event }}",
                 "html_content": "{{ rollout.reason | e }}"},
      "events": ["rolled_back", "stuck"]}]

`events` may be left out: all of them. Templated fields know `rollout` (see `Notice` in model_rollouts/notifiers.py)
beside Airflow's own context. MODEL_ROLLOUTS_NOTIFY_URL alone sends everything to a webhook.
"""

import contextvars
import importlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from model_rollouts.operators.base import wiring

if TYPE_CHECKING:
    from airflow.sdk import Context

logger = logging.getLogger(__name__)

_LIMIT_SECONDS = 30.0
_KEYS = frozenset({"class", "kwargs", "events"})
_WEBHOOK = "model_rollouts.notifiers.WebhookNotifier"


class Happening(StrEnum):
    """What people are told of."""

    STARTED = "started"
    EXPANDED = "expanded"
    CUT_OVER = "cut_over"
    ROLLED_BACK = "rolled_back"
    HELD = "held"
    INCONCLUSIVE = "inconclusive"
    STUCK = "stuck"
    ACKNOWLEDGED = "acknowledged"
    DATA_ROLLBACK_FAILED = "data_rollback_failed"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class NotifierSetting:
    """One notifier as it is set.

    Attributes:
        name: Its class, with its module.
        kwargs: What it is made with; may hold secrets.
        events: What it is told of.
    """

    name: str
    kwargs: Mapping[str, Any]
    events: frozenset[Happening]


def notify(
    context: "Context",
    *,
    event: str,
    model: str,
    reason: str,
    rollout_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Call every notifier that is set for the event. Never raises: what fails is a warning in the task's log.

    Args:
        context: The task's context. It is left as it is.
        event: One of `Happening`.
        model: Registered model name.
        reason: One sentence for a person.
        rollout_id: The rollout, whose plan says who is on call.
        details: More of it, by name.
    """
    try:
        settings, problems = configured()
        for problem in problems:
            logger.warning("somebody may not be told of %s of %s: %s", event, model, problem)
        if not settings:
            return
        from model_rollouts.notifiers import Notice

        notice = Notice(event, model, reason, rollout_id or "", _on_call(rollout_id), dict(details or {}))
        for setting in settings:
            if event in setting.events or event not in set(Happening):  # rather told twice than not at all
                _tell(setting, {**context, "rollout": notice})
    except Exception as error:
        logger.warning("nobody was told of %s of %s: %s: %s", event, model, type(error).__name__, error)


def configured() -> tuple[list[NotifierSetting], list[str]]:
    """The notifiers that are set, and what is wrong with those that can't be used, as sentences."""
    settings = wiring().settings
    found, problems = [], []
    if settings.notify_url is not None:
        kwargs = {"url": settings.notify_url.get_secret_value()}
        found.append(NotifierSetting(_WEBHOOK, kwargs, frozenset(Happening)))
    try:
        items = json.loads(settings.notifiers.get_secret_value() or "[]")
    except ValueError as error:
        items, problem = [], f"MODEL_ROLLOUTS_NOTIFIERS is no JSON: {error}"
        problems.append(problem)
    if not isinstance(items, list):
        items, problem = [], f"MODEL_ROLLOUTS_NOTIFIERS is a {type(items).__name__}, must be a list"
        problems.append(problem)
    for position, item in enumerate(items, 1):
        try:
            found.append(_setting(item))
        except (ValueError, TypeError) as error:
            problems.append(f"notifier {position} of MODEL_ROLLOUTS_NOTIFIERS: {error}")
    return found, problems


def _setting(item: Any) -> NotifierSetting:
    if not isinstance(item, dict) or not isinstance(item.get("class"), str):
        raise TypeError('must be an object with "class", the name of an Airflow notifier with its module')
    if unknown := sorted(item.keys() - _KEYS):
        raise ValueError(f"has unknown {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    kwargs = item.get("kwargs", {})
    if not isinstance(kwargs, dict):
        raise TypeError(f"kwargs is a {type(kwargs).__name__}, must be an object")
    events = item.get("events", list(Happening))
    if not isinstance(events, list) or not events or not set(events) <= set(Happening):
        raise ValueError(f"events is {events!r}, must be a list of {', '.join(Happening)}")
    return NotifierSetting(item["class"], kwargs, frozenset(Happening(event) for event in events))


def _on_call(rollout_id: str | None) -> str:
    """Who the rollout's plan names; a store that is away must not keep the others from being told."""
    if not rollout_id:
        return ""
    try:
        return ", ".join(wiring().store.rollout(rollout_id).plan.readiness.on_call)
    except Exception as error:
        logger.warning("who is on call for %s is not known: %s: %s", rollout_id, type(error).__name__, error)
        return ""


def _tell(setting: NotifierSetting, context: dict[str, Any]) -> None:
    """One notifier, in a thread of its own: one that hangs holds nobody up for longer than the limit."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            _load(setting)(context)
        except BaseException as error:  # Airflow ends tasks by exceptions that are no Exception
            failures.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(call,), name="notify", daemon=True)
    thread.start()
    thread.join(_LIMIT_SECONDS)
    notice = context["rollout"]
    if thread.is_alive():
        logger.warning("%s is still at it after %g s: %s", setting.name, _LIMIT_SECONDS, notice.text)
    elif failures:
        logger.warning("%s failed: %s: %s: %s", setting.name, type(failures[0]).__name__, failures[0], notice.text)


def _load(setting: NotifierSetting) -> Any:
    """A new notifier: templating one alters it.

    Raises:
        TypeError: The class is none of Airflow's notifiers.
    """
    from airflow.sdk import BaseNotifier

    module, _, name = setting.name.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    if not isinstance(kind, type) or not issubclass(kind, BaseNotifier):
        raise TypeError(f"{setting.name} is no subclass of airflow.sdk.BaseNotifier")
    return kind(**setting.kwargs)
