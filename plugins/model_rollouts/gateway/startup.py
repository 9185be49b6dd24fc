"""The settings of a gateway, all checked at its start; what is wrong with any of them is said in one message."""

import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from model_rollouts.core.errors import RolloutError
from model_rollouts.gateway.settings import GatewaySettings

_SHOWN = 80
_PREFIX = "MODEL_ROLLOUTS_"
_ALIKE = 0.9
_PASSWORD = re.compile(r"([?&](?:password|passwd|pwd|token|sslpassword)=)[^&\s'\"]*", re.IGNORECASE)


class BadSettingsError(RolloutError):
    """The environment holds settings that can't be."""


def read_settings() -> GatewaySettings:
    """The settings from the environment.

    Raises:
        BadSettingsError: One line for each that does not hold: name of the variable, value, bound.
    """
    problems: list[str] = []
    unreadable: dict[str, str] = {}
    for name, field in GatewaySettings.model_fields.items():
        variable = _variable(name)
        if _is_json(field) and (problem := _json_problem(os.environ.get(variable))):
            unreadable[variable] = os.environ.pop(variable)  # it would hide what is wrong with the others
            problems.append(f"{variable} is {_without_users(unreadable[variable])[:_SHOWN]!r}, must be JSON: {problem}")
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        found = error.errors(include_url=False)  # a default that waits for another setting is no problem of its own
        problems += [_line(problem) for problem in found if problem["type"] != "default_factory_not_called"]
    except SettingsError as error:  # no JSON, under a name in other letters
        problems.append(_without_users(str(error)))
    finally:
        os.environ.update(unreadable)
    problems += _misspelt()
    if problems:
        raise BadSettingsError("\n".join(["the gateway can't start with these settings:", *problems]))
    return settings


def _misspelt() -> list[str]:
    """Variables that are nearly one of the settings: whoever wrote them means what would not take place."""
    known = {_variable(name) for name in GatewaySettings.model_fields}
    found = []
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable not in known:
            meant = get_close_matches(variable, known, 1, _ALIKE)
            found += [f"{variable} is no setting, did you mean {name}?" for name in meant]
    return found


def _variable(name: str) -> str:
    """The variable that a field, or its alias, is read from."""
    return name if name.isupper() else f"{_PREFIX}{name.upper()}"


def _is_json(field: FieldInfo) -> bool:
    return str(field.annotation).startswith(("tuple[", "dict[", "list["))


def _json_problem(text: str | None) -> str:
    try:
        json.loads(text or "null")
    except ValueError as error:
        return str(error)
    return ""


def _line(problem: Mapping[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = _without_users(message.replace("Input should be", "must be").replace("Input should", "must"))
    where = [str(part) for part in problem["loc"]]
    if not where:  # a rule about several of them, which names them itself
        return message
    variable = " / ".join([_variable(where[0]), *where[1:]])
    field = GatewaySettings.model_fields.get(where[0])
    secret = field is not None and SecretStr.__name__ in str(field.annotation)
    value = "(hidden)" if secret else _without_users(repr(problem["input"]), where[0])[:_SHOWN]
    return f"{variable} is {value}: {message}"


def _without_users(text: str, name: str = "") -> str:
    """A text with the users and passwords of its URLs hidden, whatever signs are in them.

    Args:
        text: To be said.
        name: The setting whose value it is; one that should be a URL may be none, and hold a password even so.
    """
    text = _PASSWORD.sub(r"\1(hidden)", text)
    before, at, after = text.rpartition("@")
    scheme, colon, _ = before.partition("://")
    if at and (colon or name.endswith(("_url", "_uri"))):
        quote = text[:1]
        return f"{scheme}{colon}(hidden)@{after}" if colon else f"{quote}(hidden)@{after}"
    return text
