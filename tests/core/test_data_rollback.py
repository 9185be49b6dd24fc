"""What must be undone with a model: only what could be done is taken down."""

import json
import math
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import PlanError

DAG, DELTA, CALLABLE = DataRollbackKind.DAG, DataRollbackKind.DELTA_RESTORE, DataRollbackKind.CALLABLE
FITTING = {DAG: "undo_features", DELTA: "/lake/features", CALLABLE: "shop.undo:features"}


@pytest.mark.parametrize(
    ("kind", "target", "version", "arguments", "name"),
    [
        (DAG, "undo_features", None, {"hours": 3, "tables": ["a", {"b": None}]}, "dag undo_features"),
        (DELTA, "s3://lake/features", 12, {}, "delta_restore s3://lake/features to version 12"),
        (DELTA, "/lake/features", 0, {}, "delta_restore /lake/features to version 0"),
        (DELTA, "/lake/features", None, {}, "delta_restore /lake/features"),
        (CALLABLE, "shop.undo:features", None, {"dry": False}, "callable shop.undo:features"),
    ],
)
def test_each_kind_survives_json_unchanged_and_has_a_name(
    kind: DataRollbackKind, target: str, version: int | None, arguments: dict[str, Any], name: str
) -> None:
    made = DataRollback(kind, target, version, arguments, 30.0)
    assert made.name == name
    assert DataRollback.from_dict(asdict(made)) == made
    assert DataRollback.from_dict(json.loads(json.dumps(asdict(made)))) == made
    assert made.arguments == arguments


def test_the_defaults_are_no_version_no_arguments_and_ten_minutes() -> None:
    made = DataRollback.from_dict({"kind": "dag", "target": "undo"})
    assert made == DataRollback(DAG, "undo", None, {}, 600.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dag"}, "kind of a data rollback is 'dag', must be a DataRollbackKind"),
        ({"kind": None}, "kind of a data rollback is None, must be a DataRollbackKind"),
        ({"target": ""}, "target of a data rollback is '', must name what to undo"),
        ({"target": "  "}, "target of a data rollback is '  ', must name what to undo"),
        ({"target": 5}, "target of a data rollback is 5, must name what to undo"),
        ({"target": None}, "target of a data rollback is None, must name what to undo"),
        ({"version": 3}, "version of a data rollback is 3, must be left out for dag"),
        ({"version": 0}, "version of a data rollback is 0, must be left out for dag"),
        ({"arguments": None}, "arguments of a data rollback is None, must be a mapping"),
        ({"arguments": [1]}, r"arguments of a data rollback is \[1\], must be a mapping"),
        ({"arguments": {1: 2}}, r"arguments of a data rollback is \{1: 2\}, must be a mapping"),
        ({"arguments": {"a": {1: 2}}}, r"arguments of a data rollback is .*, must be of JSON types"),
        ({"arguments": {"a": (1, 2)}}, r"arguments of a data rollback is .*, must be of JSON types: lists, not tuples"),
        ({"arguments": {"a": math.nan}}, "arguments of a data rollback must be of JSON types"),
        ({"arguments": {"a": math.inf}}, "arguments of a data rollback must be of JSON types"),
        ({"arguments": {"a": {1, 2}}}, "arguments of a data rollback must be of JSON types: .*set is not JSON"),
        ({"arguments": {"a": object()}}, "arguments of a data rollback must be of JSON types"),
        ({"timeout_seconds": 0.5}, "timeout_seconds of a data rollback is 0.5, must be between 1 and 86400"),
        ({"timeout_seconds": 86_401}, "timeout_seconds of a data rollback is 86401, must be between 1 and 86400"),
        ({"timeout_seconds": math.nan}, "timeout_seconds of a data rollback is nan"),
        ({"timeout_seconds": True}, "timeout_seconds of a data rollback is True"),
        ({"timeout_seconds": "60"}, "timeout_seconds of a data rollback is '60'"),
        ({"timeout_seconds": None}, "timeout_seconds of a data rollback is None"),
    ],
)
def test_what_could_not_be_done_is_refused_with_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        DataRollback(**({"kind": DAG, "target": "undo"} | values))


@pytest.mark.parametrize(
    "target", ["undo", "shop.undo", "shop.undo:", ":undo", "shop undo:features", "shop..undo:f", "shop.:f", "a:b:c",
               "a:b.c", "1a:b", "a:b()", " a:b", "a:b\n"],
)  # fmt: skip
def test_a_callable_is_named_by_its_module_and_itself(target: str) -> None:
    with pytest.raises(PlanError, match=r"must be like package\.module:function"):
        DataRollback(CALLABLE, target)


def test_an_argument_that_a_callable_is_given_anyway_is_refused_before_it_would_be_called() -> None:
    with pytest.raises(PlanError, match="arguments of a data rollback name 'rollout', which a callable is given"):
        DataRollback(CALLABLE, "shop.undo:features", arguments={"rollout": "r1"})
    assert DataRollback(DAG, "undo", arguments={"rollout": "r1"}).arguments == {"rollout": "r1"}


@pytest.mark.parametrize("version", [-1, 2**63, 1.0, True, "3", math.nan])
def test_a_version_that_no_delta_table_has_is_refused(version: Any) -> None:
    with pytest.raises(PlanError, match="version of a data rollback is"):
        DataRollback(DELTA, "/lake/features", version)


def test_arguments_without_effect_are_refused() -> None:
    with pytest.raises(PlanError, match="must be left out for delta_restore: they have no effect"):
        DataRollback(DELTA, "/lake/features", arguments={"a": 1})


def test_a_plan_does_not_change_with_the_mapping_that_it_was_made_of() -> None:
    inner = [1]
    mine: dict[str, Any] = {"tables": inner}
    made = DataRollback(DAG, "undo", arguments=mine)
    inner.append(2)
    mine["more"] = True
    assert made.arguments == {"tables": [1]}
    assert asdict(DataRollback(DAG, "undo", arguments=MappingProxyType({"a": 1})))["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data rollback is None"),
        ("undo", "data rollback is 'undo'"),
        ({"target": "undo"}, "data rollback lacks kind"),
        ({"kind": "dag"}, "data rollback lacks target"),
        ({"kind": "prayer", "target": "x"}, "kind of a data rollback is 'prayer', must be one of dag, delta_restore"),
        ({"kind": "dag", "target": "x", "conf": {}}, "data rollback has unknown conf; known are arguments, kind"),
    ],
)
def test_json_that_is_no_step_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        DataRollback.from_dict(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None)
@given(
    st.sampled_from([DAG, CALLABLE]),
    st.dictionaries(st.text().filter(lambda name: name != "rollout"), json_values, max_size=3),
    st.floats(1, 86_400),
)
def test_any_arguments_of_json_types_come_back_as_they_went(
    kind: DataRollbackKind, arguments: dict[str, Any], timeout: float
) -> None:
    made = DataRollback(kind, FITTING[kind], arguments=arguments, timeout_seconds=timeout)
    assert DataRollback.from_dict(json.loads(json.dumps(asdict(made), allow_nan=False))) == made
