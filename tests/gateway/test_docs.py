"""docs/gateway.md names every setting of a gateway, with the default that it has, and none that there is not."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from model_rollouts.gateway.settings import GatewaySettings

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
FIELDS = GatewaySettings.model_fields
#: Defaults that depend on other settings or on the machine, so the page has them in words.
IN_WORDS = {
    "gateway_id": "host name and port",
    "mirror_timeout_seconds": "as the challenger's",
    "flavours": "all that MLflow loads itself, and `python_function`",
}


def variable(name: str) -> str:
    """The environment variable of a field."""
    return "MLFLOW_TRACKING_URI" if name == "mlflow_tracking_uri" else f"MODEL_ROLLOUTS_{name.upper()}"


def shown(field: FieldInfo) -> str:
    """A default as the page writes it."""
    value: Any = field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_setting_is_on_the_page_and_no_other() -> None:
    found = set(re.findall(r"\b(?:MODEL_ROLLOUTS|MLFLOW)_[A-Z_]*[A-Z]\b", PAGE))
    also = {"MODEL_ROLLOUTS_MLFLOW_TRACKING_URI"}
    assert found == {variable(name) for name in FIELDS} | also


def test_the_tables_have_one_line_a_setting_of_the_gateways_own() -> None:
    lines = re.findall(r"^\| `((?:MODEL_ROLLOUTS|MLFLOW)_\w+)` \|", PAGE, re.MULTILINE)
    assert len(lines) == len(set(lines))
    own = GatewaySettings.__annotations__
    assert {variable(name) for name in own} <= set(lines)


@pytest.mark.parametrize(("name", "default"), re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE, re.MULTILINE))
def test_a_default_on_the_page_is_the_one_that_holds(name: str, default: str) -> None:
    (field_name,) = (field for field in FIELDS if variable(field) == name)
    field = FIELDS[field_name]
    assert default == IN_WORDS.get(field_name, shown(field))
    assert field_name in IN_WORDS or field.default is not PydanticUndefined


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([\w./-]+\.md)", PAGE))))
def test_pages_that_it_points_to_are_there(target: str) -> None:
    assert (Path(__file__).parents[2] / "docs" / target).is_file()
