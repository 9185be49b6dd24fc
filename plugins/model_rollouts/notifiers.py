"""Airflow notifiers of our own: plain webhooks. Any other notifier of Airflow's works, too; see operators/notify.py."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context

_CONNECT_SECONDS = 3.0
_LONGEST_SECONDS = 60.0
_SHOWN = 2_000
_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # otherwise <!channel> in a reason wakes everybody


class WebhookError(Exception):
    """The receiver did not take the notice."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened; in a notifier's templated fields it is `rollout`, as in `{{ rollout.reason }}`.

    Attributes:
        event: started, expanded, cut_over, rolled_back, ...; see operators/notify.py.
        model: Registered model name.
        reason: One sentence for a person.
        id: The rollout's id, or "".
        on_call: Who stands by, separated by commas; "" where the plan names nobody.
        details: More of it, by name.
    """

    event: str
    model: str
    reason: str
    id: str = ""
    on_call: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of it in one line."""
        told = f"{self.model}: {self.event.replace('_', ' ')}. {self.reason}"
        told += f" (rollout {self.id})" if self.id else ""
        return told + (f" On call: {self.on_call}" if self.on_call else "")


class WebhookNotifier(BaseNotifier):
    """POSTs JSON: {"text", "event", "model", "reason", "rollout_id", "on_call", "details"}; Slack reads `text`.

    Args:
        url: Where to; http or https. It is never shown in errors, since such addresses are often secrets.
        text: What to say, templated; empty: event, model and reason.
        headers: Further headers, templated.
        timeout: Longest wait for the receiver's answer, in seconds, above 0, at most 60.
    """

    template_fields: Sequence[str] = ("url", "text", "headers")

    def __init__(
        self,
        url: str,
        text: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < timeout <= _LONGEST_SECONDS:
            raise ValueError(f"timeout of a webhook is {timeout}, must be above 0 and at most {_LONGEST_SECONDS:g} s")
        self.url = url
        self.text = text
        self.headers = dict(headers or {})
        self.timeout = timeout

    def notify(self, context: "Context") -> None:
        """Send it, once.

        Raises:
            WebhookError: The receiver can't be reached, or answers with anything but success.
        """
        import orjson
        import requests

        where = urlsplit(str(self.url))
        if where.scheme not in ("http", "https") or not where.hostname:
            raise WebhookError(
                f"the webhook's address is of scheme {where.scheme!r}, must be http or https with a host"
            )
        body = orjson.dumps(self._content(context), default=str, option=orjson.OPT_NON_STR_KEYS)
        headers = {"Content-Type": "application/json", **{k: str(v) for k, v in self.headers.items()}}
        limits = (min(_CONNECT_SECONDS, self.timeout), self.timeout)
        try:
            # the answer's body is of no interest, so it can't hold anybody up
            answer = requests.post(
                str(self.url), data=body, headers=headers, timeout=limits, allow_redirects=False, stream=True
            )
            answer.close()
        except requests.RequestException as error:
            raise WebhookError(f"{where.hostname} can't be reached: {type(error).__name__}") from None
        if not answer.ok or answer.is_redirect:
            raise WebhookError(f"{where.hostname} answered HTTP {answer.status_code}")

    def _content(self, context: "Context") -> dict[str, Any]:
        told: Mapping[str, Any] = context
        notice = told.get("rollout")
        if not isinstance(notice, Notice):  # a plain callback of a DAG or task
            run = told.get("dag_run")
            notice = Notice("alert", "", f"Airflow run {getattr(run, 'dag_id', '?')}/{getattr(run, 'run_id', '?')}")
        content = asdict(notice)
        text = (str(self.text) or notice.text).translate(_SLACK)[:_SHOWN]
        return {"text": text, "rollout_id": content.pop("id"), **content}
