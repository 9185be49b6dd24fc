"""What the driver makes of what happened."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from demo.cases import CASES, FORMS, PATTERNS, Case
from demo.config import parse
from demo.summary import RolloutReport, problems, report_of, to_json
from model_rollouts.core import rollout as steps
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import Cause, Event, Rollout
from model_rollouts.core.traffic import Traffic

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def cause(seconds: float, reason: str, **evidence: object) -> Cause:
    return Cause("test", START + timedelta(seconds=seconds), reason, evidence)


def rolled_back_at_the_second_stage() -> tuple[Rollout, list[Event]]:
    traffic = Traffic(model="flights", champion="1")
    change = steps.start("r", plan_from(Pattern.CANARY, FORMS["canary"]), "3", "salt", traffic, cause(0, "started"))
    events = [change.event]
    taken = (
        lambda r, t: steps.open_stage(r, t, 0, cause(1, "opened")),
        lambda r, t: steps.clear(r, t, 0, cause(21, "proven", verdict="pass")),
        lambda r, t: steps.open_stage(r, t, 1, cause(23, "opened")),
        lambda r, t: steps.roll_back(r, t, cause(33.5, "too many errors", verdict="fail")),
    )
    rollout, traffic = change.rollout, change.traffic or traffic
    for step in taken:
        assert rollout is not None
        change = step(rollout, traffic)
        assert change is not None
        rollout, traffic = change.rollout, change.traffic or traffic
        events.append(change.event)
    assert rollout is not None
    return rollout, events


def report(challenger: str, expected: str) -> RolloutReport:
    rollout, events = rolled_back_at_the_second_stage()
    runs = {0: "run-a", 1: "run-b"}
    return report_of(rollout, events, runs, challenger=challenger, expected=expected, seconds=33.5)


def test_a_rollout_is_told_with_its_stages_shares_times_and_runs() -> None:
    told = report("raises", "roll_back").to_dict()
    assert told["action"] == told["expected_action"] == "roll_back"
    assert told["ok"]
    assert told["reason"] == "too many errors"
    assert told["mlflow_run_ids"] == ["run-a", "run-b"]
    first, second = told["stages"]
    assert (first["share"], first["verdict"], first["reason"]) == (1.0, "pass", "proven")
    assert (second["share"], second["verdict"], second["mlflow_run_id"]) == (5.0, "fail", "run-b")
    assert [stage.seconds for stage in report("raises", "roll_back").stages] == [20.0, 10.5]


BETTER, RAISES = Case("canary", "better", "cut_over"), Case("canary", "raises", "roll_back")


def test_each_pattern_has_a_good_and_a_bad_challenger_and_the_registry_starts_one() -> None:
    for pattern in PATTERNS:
        assert {case.expected for case in CASES if case.pattern == pattern} == {"cut_over", "roll_back"}
    assert sum(case.by_registry for case in CASES) == 1
    assert parse([], {}).cases == CASES
    assert {case.pattern for case in parse([], {"PATTERN": "shadow"}).cases} == {"shadow"}


def test_every_form_makes_a_plan() -> None:
    for pattern, values in FORMS.items():
        assert plan_from(Pattern(pattern), values).stages


def test_a_wrong_decision_is_a_problem() -> None:
    found = problems([BETTER], [report("better", "cut_over")])
    assert found == ["canary of better must come to cut_over, came to roll_back: too many errors"]


def test_a_rollout_that_is_missing_is_a_problem() -> None:
    slow = Case("canary", "slow", "roll_back")
    assert problems([RAISES, slow], [report("raises", "roll_back")]) == ["canary of slow was not rolled out"]


def test_right_decisions_are_no_problem() -> None:
    assert problems([RAISES], [report("raises", "roll_back")]) == []


def test_an_unfinished_rollout_is_never_ok() -> None:
    traffic = Traffic(model="flights", champion="1")
    change = steps.start("r", plan_from(Pattern.CANARY, FORMS["canary"]), "3", "salt", traffic, cause(0, "started"))
    assert change.rollout is not None
    told = report_of(change.rollout, [change.event], {}, challenger="raises", expected="roll_back", seconds=600)
    assert told.action == "none"
    assert not told.ok
    assert told.stages == ()


def test_the_summary_is_json_and_says_whether_all_is_well() -> None:
    reports = [report("better", "cut_over")]
    data = json.loads(json.dumps(to_json(reports, problems([BETTER], reports), 61.23, {"training": 9.5})))
    assert data["ok"] is False
    assert data["seconds"] == 61.2
    assert data["steps"] == {"training": 9.5}
    assert data["rollouts"][0]["version"] == "3"


def test_the_environment_names_challengers_and_ports_and_flags_win() -> None:
    config = parse(["--gateway-port", "9001"], {"CHALLENGERS": "slow, better", "GATEWAY_PORT": "9000", "KEEP": "1"})
    assert [(case.pattern, case.challenger) for case in config.cases] == [("canary", "slow"), ("canary", "better")]
    assert config.variants == ("champion", "slow", "better")
    assert config.gateway_port == 9001
    assert config.keep
    assert parse([], {"CHALLENGERS": "", "KEEP": "", "MLFLOW_PORT": ""}).mlflow_port == 5000


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CHALLENGERS": "best"}, "CHALLENGERS holds best, must be among better, inaccurate"),
        ({"PATTERN": "red-green"}, "PATTERN holds red-green, must be among canary, blue-green"),
        ({"PATTERN": "shadow", "CHALLENGERS": "slow"}, "CHALLENGERS is of canaries, and PATTERN is shadow"),
        ({"CHALLENGERS": "slow,slow"}, "names one twice"),
        ({"MLFLOW_PORT": "http"}, "MLFLOW_PORT is 'http', must be a number"),
        ({"AIRFLOW_PORT": "70000"}, "AIRFLOW_PORT is 70000, must be between 1 and 65535"),
        ({"AIRFLOW_PORT": "5000"}, "AIRFLOW_PORT=5000 are the same"),
    ],
)
def test_wrong_settings_are_refused_with_the_value_and_the_bound(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse([], environment)
