"""What is logged, and how: one JSON object a line for machines, or text for people, without secrets in either.

The gateway and the command line log to standard error as `MODEL_ROLLOUTS_LOG_FORMAT` says. Airflow's tasks and triggers
log through Airflow, which writes JSON lines of its own; they only say which rollout they are about, see `about`.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

VARIABLE = "MODEL_ROLLOUTS_LOG_FORMAT"
Format = Literal["json", "text"]

_HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|TOKEN|SECRET|CONNECTION_STRING|(ACCESS|ACCOUNT|API|PRIVATE|FERNET)_KEY)S?(_PREVIOUS|_OLD)?$"
)
_NOTIFIERS = "MODEL_ROLLOUTS_NOTIFIERS"
_SECRET_VARIABLES = frozenset({"MODEL_ROLLOUTS_NOTIFY_URL", _NOTIFIERS})
# What a notifier is made with is mostly words, such as a channel; these names, and such addresses, may be secret.
_SECRET_KEY = re.compile(r"url|uri|token|passw|pwd|secret|header|key|auth|credential|webhook|dsn", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"content-type|accept|user-agent", re.IGNORECASE)
_SECRET_URL = re.compile(r"(?!https?://)[a-z][a-z0-9+.-]*://\S+|[a-z]+://\S*(?:@|hook|/services/|\?)\S*", re.IGNORECASE)
# A user without a password may be a token. A password may have a slash in it; so have addresses with a port.
_URL_USER = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://)(?:"
    r"(?<=http://)[^/\s'\"@:]*:(?!\d{1,5}[/?#])[^\s'\"]*|(?<=https://)[^/\s'\"@:]*:(?!\d{1,5}[/?#])[^\s'\"]*"
    r"|(?<!http://)(?<!https://)[^/\s'\"@:]*:[^\s'\"]*|[^/\s'\"]+)@",
    re.IGNORECASE,
)
_QUERY = re.compile(r"([?&;](?:token|sig|signature)=)[^&;\s'\"]*", re.IGNORECASE)
_PAIR = re.compile(
    r"((?:password|passwd|pwd|secret|(?:access|account|api)_?key)(?: = |=))"
    r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;'\"]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE)
_SHORTEST = 4  # what is shorter hides words that are no secrets
_DEEPEST = 6
_STANDARD_LEVEL = logging.WARNING


def format_of(default: Format) -> Format:
    """What the environment asks for.

    Raises:
        ValueError: It asks for something else.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower() or default
    if asked == "json":
        return "json"
    if asked == "text":
        return "text"
    raise ValueError(f"{VARIABLE} is {asked[:80]!r}, must be json or text")


def log_to_stderr(default: Format) -> Format:
    """Log to standard error from here on, also what libraries log through `logging`. Repeating it is harmless.

    Args:
        default: What it is where the environment asks for nothing.

    Raises:
        ValueError: The environment asks for something else than json or text.
    """
    asked = format_of(default)
    hide = Hiding(os.environ)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _named_alike,
        hide,
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if asked == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(processors=[*shared, render], logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if getattr(each, "model_rollouts", False)]:
        root.removeHandler(old)
    handler.model_rollouts = True  # type: ignore[attr-defined]  # to know it again
    root.addHandler(handler)
    root.setLevel(_STANDARD_LEVEL)
    return asked


@contextmanager
def about(**names: Any) -> Iterator[None]:
    """Everything that is logged within says which rollout (or model, stage, request) it is about."""
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in names.items() if value is not None}):
        yield


def bind(**names: Any) -> None:
    """The same until the task ends: a task has a process of its own."""
    structlog.contextvars.bind_contextvars(**{name: value for name, value in names.items() if value is not None})


class Hiding:
    """Takes secrets out of what is logged: those of the environment wherever they turn up, and users in URLs.

    Args:
        environment: Variables; those whose names end like a secret's are secrets.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        found = {
            secret
            for name, value in environment.items()
            if _SECRET_NAME.search(name) or name in _SECRET_VARIABLES
            for secret in (value, *(_notifiers_secrets(value) if name == _NOTIFIERS else _leaves(value)))
            if len(secret) >= _SHORTEST
        }
        self._secrets = sorted(found, key=len, reverse=True)  # one may be the beginning of another

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A step of structlog's."""
        for name, value in event.items():
            event[name] = self.hidden(value)
        return event

    def hidden(self, value: Any, depth: int = 0) -> Any:
        """The value without secrets; what is nested deeper than anybody reads becomes text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth < _DEEPEST:
            if isinstance(value, Mapping):
                return {self.text(str(key)): self.hidden(item, depth + 1) for key, item in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self.hidden(item, depth + 1) for item in value]
        return self.text(str(value))

    def text(self, text: str) -> str:
        """A text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        text = _PAIR.sub(rf"\1{_HIDDEN}", _URL_USER.sub(rf"\1{_HIDDEN}@", text))
        return _BEARER.sub(rf"\1 {_HIDDEN}", _QUERY.sub(rf"\1{_HIDDEN}", text))


def _leaves(value: str) -> Iterator[str]:
    """The texts in a variable that holds JSON, such as tokens by name."""
    return (text for _, text in _named_leaves(value))


def _notifiers_secrets(value: str) -> Iterator[str]:
    """Those of them that may be secret: by a name that they are under, or as addresses that whoever knows may use."""
    for names, text in _named_leaves(value):
        if _PLAIN_KEY.fullmatch(names[-1]) is None and any(map(_SECRET_KEY.search, names)):
            yield text
        yield from _SECRET_URL.findall(text)


def _named_leaves(value: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts in a variable that holds JSON, each with the names that it is under, outermost first."""
    try:
        waiting: list[tuple[tuple[str, ...], Any]] = [(("",), json.loads(value))] if value[:1] in "[{" else []
    except ValueError:
        return
    while waiting:
        match waiting.pop():
            case names, str() as text:
                yield names, text
            case names, dict() as named:
                waiting += [((*names, name), item) for name, item in named.items()]
            case names, list() as several:
                waiting += [(names, item) for item in several]


def _named_alike(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """One name for a rollout's id everywhere, whoever logs it."""
    if "rollout" in event and "rollout_id" not in event:
        event["rollout_id"] = event.pop("rollout")
    return event
