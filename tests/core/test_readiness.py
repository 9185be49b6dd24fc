"""The checklist of a plan."""

import json
import math
from dataclasses import asdict, fields
from typing import Any

import pytest

from model_rollouts.core.errors import PlanError
from model_rollouts.core.readiness import Monitored, Readiness

FULL = Readiness(
    on_call=("ops@example.org", "Ada"),
    acknowledge=True,
    may_be_missing=(Monitored.BUSINESS, Monitored.DRIFT),
    golden_requests=5,
    golden_file="golden.jsonl",
    golden_agreement=0.5,
    rehearse=False,
    drill_within_days=7,
)


def test_by_default_everything_must_be_monitored_the_way_back_is_rehearsed_and_nobody_is_asked() -> None:
    made = Readiness()
    assert (made.may_be_missing, made.rehearse, made.golden_requests) == ((), True, 20)
    assert (made.on_call, made.acknowledge, made.drill_within_days) == ((), False, None)


def test_it_survives_json_unchanged() -> None:
    for made in (Readiness(), FULL):
        assert Readiness.from_dict(asdict(made)) == made
        assert Readiness.from_dict(json.loads(json.dumps(asdict(made)))) == made
    assert Readiness.from_dict({}) == Readiness()
    assert all(getattr(FULL, f.name) != getattr(Readiness(), f.name) for f in fields(Readiness)), "all are tried"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"on_call": ["Ada"]}, r"on_call is \['Ada'\], must be a list of names"),
        ({"on_call": "Ada"}, "on_call is 'Ada', must be a list of names"),
        ({"on_call": ("",)}, r"on_call is \('',\), must be a list of names"),
        ({"on_call": (" ",)}, "must be a list of names"),
        ({"on_call": (5,)}, "must be a list of names"),
        ({"on_call": None}, "on_call is None"),
        ({"acknowledge": True}, "acknowledge is set and on_call is empty: name whom to ask"),
        ({"acknowledge": "false"}, "acknowledge is 'false'"),
        ({"acknowledge": 1}, "acknowledge is 1"),
        ({"rehearse": "no"}, "rehearse is 'no'"),
        ({"rehearse": None}, "rehearse is None"),
        ({"may_be_missing": ("drift",)}, r"may_be_missing is \('drift',\), must be among accuracy, latency, errors"),
        ({"may_be_missing": Monitored.DRIFT}, "may_be_missing is .*drift.*, must be among"),
        ({"may_be_missing": None}, "may_be_missing is None"),
        ({"golden_requests": -1}, "golden_requests is -1, must be between 0 and 1000"),
        ({"golden_requests": 1001}, "golden_requests is 1001, must be between 0 and 1000"),
        ({"golden_requests": 5.0}, "golden_requests is 5.0"),
        ({"golden_requests": True}, "golden_requests is True"),
        ({"golden_agreement": 1.1}, "golden_agreement is 1.1, must be between 0 and 1"),
        ({"golden_agreement": -0.1}, "golden_agreement is -0.1, must be between 0 and 1"),
        ({"golden_agreement": math.nan}, "golden_agreement is nan"),
        ({"golden_agreement": "1"}, "golden_agreement is '1'"),
        ({"golden_file": None}, "golden_file is None, must be a path or empty"),
        ({"golden_file": 5}, "golden_file is 5, must be a path or empty"),
        ({"drill_within_days": 0}, "drill_within_days is 0, must be between 0.001 and 366"),
        ({"drill_within_days": 367}, "drill_within_days is 367, must be between 0.001 and 366"),
        ({"drill_within_days": True}, "drill_within_days is True"),
        ({"drill_within_days": math.nan}, "drill_within_days is nan"),
        ({"drill_within_days": "7"}, "drill_within_days is '7'"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_value_and_the_bound(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Readiness(**values)


def test_an_agreement_that_no_request_would_be_asked_for_is_refused() -> None:
    with pytest.raises(PlanError, match=r"golden_agreement is 0\.9 and no golden request is asked"):
        Readiness(golden_requests=0, golden_agreement=0.9)
    assert Readiness(golden_requests=0, golden_file="golden.jsonl", golden_agreement=0.9).golden_agreement == 0.9
    assert Readiness(golden_requests=0).golden_agreement == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "readiness is None"),
        ([], r"readiness is \[\]"),
        ({"oncall": []}, "readiness has unknown oncall; known are acknowledge, drill_within_days"),
        ({"on_call": "Ada"}, "on_call is 'Ada'"),
        ({"may_be_missing": ["vibes"]}, "may_be_missing is 'vibes', must be one of accuracy, latency, errors"),
        ({"may_be_missing": [None]}, "may_be_missing is None, must be one of"),
        ({"may_be_missing": "drift"}, "may_be_missing is 'drift', must be among"),
        ({"may_be_missing": None}, "may_be_missing is None"),
    ],
)
def test_json_that_is_no_checklist_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Readiness.from_dict(data)
