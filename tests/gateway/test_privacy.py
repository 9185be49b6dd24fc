"""What the log does not learn about callers."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from model_rollouts.gateway.answers import failure
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.mlflow_reading import MlflowReader
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.privacy import Privacy
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.settings import GatewaySettings

KEY = "sixteen or more!"
ROW = {"distance": 1.0, "Email": "a@example.org", "email_hash": "x", "tags[0]": "t", "user": "u1"}


def privacy(**settings: Any) -> Privacy:
    return Privacy.of(GatewaySettings(**settings))


def test_by_default_everything_is_kept_as_it_is() -> None:
    p = privacy()
    assert p.features("m", ROW) is ROW
    assert p.unit("u1") == "u1"
    assert p.unit(None) is None


def test_without_inputs_none_is_kept() -> None:
    p = privacy(log_features=False)
    assert p.features("m", ROW) == {}
    assert p.features("m", {}) == {}


@pytest.mark.parametrize(
    ("excepted", "left"),
    [
        (("*EMAIL*",), {"distance", "tags[0]", "user"}),
        (("email",), {"distance", "email_hash", "tags[0]", "user"}),
        (("tags[0]",), {"distance", "Email", "email_hash", "user"}),
        (("m/user", "n/distance"), {"distance", "Email", "email_hash", "tags[0]"}),
        (("*/user",), {"distance", "Email", "email_hash", "tags[0]"}),
        (("m/*",), set()),
        (("*",), set()),
        (("other",), set(ROW)),
    ],
)
def test_what_is_excepted_is_not_kept_however_it_is_spelled(excepted: tuple[str, ...], left: set[str]) -> None:
    p = privacy(log_features_except=excepted)
    assert p.features("m", ROW) == {name: ROW[name] for name in ROW if name in left}
    assert p.features("m", ROW).keys() == left, "also when it was decided before"


def test_the_rule_of_one_model_is_not_anothers() -> None:
    p = privacy(log_features_except=("m/user",))
    assert "user" not in p.features("m", ROW)
    assert p.features("n", ROW) is ROW


def test_a_hashed_unit_is_one_unit_everywhere_and_not_to_be_guessed_without_the_key() -> None:
    one, other = privacy(hash_units=True, unit_hash_key=KEY), privacy(hash_units=True, unit_hash_key=KEY + "2")
    assert one.unit("u1") == privacy(hash_units=True, unit_hash_key=KEY).unit("u1")
    assert one.unit("u1") != one.unit("u2")
    assert one.unit("u1") != other.unit("u1")
    assert one.unit("u1") == "b21994f05f20a7d9efeeb126d85a9836", "stays the same over releases"
    assert one.unit(None) is None
    assert len({one.unit(text) for text in ("", "\ud800", "\U0001f600", "u" * 10_000)}) == 4


def test_every_character_of_a_long_key_counts() -> None:
    long = "k" * 100
    units = {privacy(hash_units=True, unit_hash_key=key).unit("u") for key in (long, long + "x", "k" * 64)}
    assert len(units) == 3


def test_the_column_that_names_the_unit_is_not_kept_where_units_are_hashed() -> None:
    settings: dict[str, Any] = {"unit_columns": {"m": "User"}}
    assert "user" not in privacy(hash_units=True, unit_hash_key=KEY, **settings).features("m", ROW)
    assert "user" in privacy(hash_units=True, unit_hash_key=KEY, **settings).features("n", ROW)
    assert "user" in privacy(**settings).features("m", ROW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hash_units": True}, "unit_hash_key has 0 characters, must have 16"),
        ({"hash_units": True, "unit_hash_key": "short"}, "unit_hash_key has 5 characters"),
        ({"log_features_except": ("a", " ")}, "must be column names or patterns"),
        ({"log_features_except": (" email",)}, "must be column names or patterns"),
    ],
)
def test_settings_that_would_hide_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GatewaySettings(**settings)


def test_the_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_FEATURES_EXCEPT", '["*email*"]')
    monkeypatch.setenv("MODEL_ROLLOUTS_HASH_UNITS", "true")
    monkeypatch.setenv("MODEL_ROLLOUTS_UNIT_HASH_KEY", KEY)
    settings = GatewaySettings()
    assert KEY not in repr(settings)
    p = Privacy.of(settings)
    assert "Email" not in p.features("m", ROW)
    assert p.unit("u1") != "u1"


MAIL = "alice@example.com"


@pytest.mark.parametrize("share", [100.0, 0.0])
def test_an_input_that_only_the_challenger_refuses_is_in_no_row_and_no_report(
    gateway: Callable[..., Any], rollout: Any, share: float
) -> None:
    async def run() -> None:
        async with gateway(log_features=False, breaker_failures=1) as g:
            g.models.columns["2"] = (Column("x", "long"),)
            g.set(rollout(share, mirror_percent=0.0 if share else 100.0))
            await g.routes_by(2)
            assert (await g.score(4711.25)).json() == {"predictions": [9422.5]}
            await g.happens(lambda: share or g.mirror.status("m")["mirrored"] == 1)
            failed = next(row for row in await g.rows() if row["arm"] == "challenger")
            assert failed["error"].startswith("BadRequestError: Incompatible input types for column x. Row 0 has a fl")
            assert "it must be a whole number" in failed["error"]
            assert "4711" not in str([failed, g.reports])
            assert g.reports or not share, "and the breaker has told why"

    asyncio.run(run())


def test_what_mlflow_says_of_an_input_is_for_the_caller_alone() -> None:
    from mlflow.types import Schema, TensorSpec

    reader = MlflowReader(Schema([TensorSpec(np.dtype("float64"), (-1, 1))]))
    with pytest.raises(BadRequestError, match=MAIL) as raised:
        reader.read(Document("inputs", [[MAIL]]), None, 10)
    assert failure(raised.value).error == "BadRequestError: the version can't take the input, which is not told here"


def test_what_the_model_itself_raises_is_kept_as_it_is() -> None:
    assert failure(ValueError(MAIL)).error == f"ValueError: {MAIL}"
