"""What one window of live traffic comes to: every metric, every state, and how often chance alone alarms."""

import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from model_rollouts.core.errors import PlanError
from model_rollouts.core.evidence import latency_bin
from model_rollouts.core.monitoring import MonitoredCounts
from model_rollouts.core.monitoring_alerts import DATA, Finding, Judgement, State, judge
from model_rollouts.core.monitoring_limits import Drift, Limits, Observed
from model_rollouts.core.readiness import Monitored

FAST, SLOW = latency_bin(10.0), latency_bin(40.0)
NO_DRIFT, FINE = Drift(True, 0, 4, "0 of 4 columns drifted"), (True, "all 40 expectations hold")


def requests(n: int = 2000, errors: int = 20, bin_at: int = FAST, **changes: Any) -> MonitoredCounts:
    answered = n - errors
    counts = MonitoredCounts(
        requests=n, errors=errors, with_status=n, answered=answered, timed=answered, latency={bin_at: answered},
        features=3, featured=n, units=n, seconds=3600.0, days=1,
    )  # fmt: skip
    return replace(counts, **changes)


def labels(n: int = 2000, wrong: int = 200, value: float = 5.0, **changes: Any) -> MonitoredCounts:
    counts = replace(
        requests(n, 0), due=n, labelled=n, wrong=wrong, label_delay_p50=5.0, label_delay_p95=9.0,
        value_due=n, valued=n, value_mean=value, value_error=0.05,
    )  # fmt: skip
    return replace(counts, **changes)


def seen(version: str = "3", of: MonitoredCounts | None = None, with_labels: MonitoredCounts | None = None) -> Observed:
    return Observed(version, of or requests(), with_labels or labels())


def judged(
    current: Observed | None,
    reference: Observed | None = seen(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008
    drift: Drift | None = NO_DRIFT,
    data: tuple[bool, str] | None = FINE,
    **more: Any,
) -> Judgement:
    return judge(limits, current, reference, drift, data, **more)


def finding(judgement: Judgement, name: str) -> Finding:
    (found,) = [each for each in judgement.findings if each.name == name]
    return found


def test_as_good_as_the_reference_is_well() -> None:
    result = judged(seen())
    assert (result.state, result.alarms, result.harm) == (State.OK, False, False)
    assert {each.name for each in result.findings} == {*Monitored, DATA}
    assert result.reason == "all is well with accuracy, latency, errors, drift, business, data"
    assert json.loads(json.dumps(result.to_dict()))["state"] == "ok"


WORSE = [
    ("errors", {"of": requests(errors=100)}, {"max_error_rate": 0.03}, {"max_error_rate": 0.05}),
    ("latency", {"of": requests(bin_at=SLOW)}, {"max_p95_ms": 30}, {"max_p95_ms": 45}),
    ("accuracy", {"with_labels": labels(wrong=400)}, {"min_accuracy": 0.85}, {"min_accuracy": 0.8}),
    ("business", {"with_labels": labels(value=3.0)}, {"min_value": 4}, {"min_value": 3}),
]


@pytest.mark.parametrize(("name", "changes", "tight", "loose"), WORSE)
def test_what_is_proven_to_be_beyond_a_limit_is_an_alert_and_what_is_not_is_none(
    name: str, changes: dict[str, Any], tight: dict[str, Any], loose: dict[str, Any]
) -> None:
    result = judged(seen(**changes), limits=Limits.from_dict(tight))
    assert (result.state, result.harm) == (State.ALERT, True)
    assert [each.name for each in result.findings if each.state is State.ALERT] == [name]
    assert result.reason.startswith(f"alert: {name}: ")
    assert judged(seen(**changes), limits=Limits.from_dict(loose)).state is State.OK


@pytest.mark.parametrize(("name", "changes", "tight", "loose"), WORSE)
def test_without_a_limit_the_reference_and_the_margin_are_one(
    name: str, changes: dict[str, Any], tight: dict[str, Any], loose: dict[str, Any]
) -> None:
    result = judged(seen(**changes))
    assert [each.name for each in result.findings if each.state is State.ALERT] == [name]
    assert "the reference's limit is" in finding(result, name).detail
    assert judged(seen(**changes), reference=seen(**changes)).state is State.OK
    assert judged(seen(**changes), limits=Limits(margin=9.0)).state is State.OK


@pytest.mark.parametrize("name", ["errors", "latency", "accuracy", "business"])
def test_without_a_reference_and_a_limit_nothing_is_well(name: str) -> None:
    few = Observed("3", requests(199, 0), labels(199, 0))
    for reference in (None, few):
        found = finding(judged(seen(), reference=reference), name)
        assert found.state is State.TOO_LITTLE
        assert "set a limit of its own" in found.detail


def test_a_reference_too_small_to_bound_its_quantile_is_no_limit() -> None:
    reference = seen(of=requests(100, 0))
    found = finding(judged(seen(of=requests(bin_at=SLOW)), reference, Limits(min_requests=50)), "latency")
    assert found.state is State.TOO_LITTLE
    assert "too few to bound" in found.detail


def test_no_requests_are_blind() -> None:
    result = judged(Observed("3", MonitoredCounts(), MonitoredCounts()), drift=None)
    assert (result.state, result.alarms, result.harm) == (State.BLIND, True, False)
    assert "accuracy, latency, errors, drift, business: version 3 has no request in the window" in result.reason


def test_what_could_not_be_measured_is_blind() -> None:
    result = judged(None, None, drift=None, data=None)
    assert result.state is State.BLIND
    assert {each.state for each in result.findings} == {State.BLIND}


def test_what_may_be_missing_is_unwatched_and_no_alarm() -> None:
    current = seen(with_labels=replace(labels(), valued=0, value_mean=None, value_error=None))
    assert finding(judged(current), "business").state is State.BLIND
    result = judged(current, limits=Limits(may_be_missing=(Monitored.BUSINESS,)))
    assert finding(result, "business").state is State.UNWATCHED
    assert result.state is State.OK


def test_where_all_may_be_missing_nothing_is_called_well() -> None:
    empty = Observed("3", MonitoredCounts(), MonitoredCounts())
    result = judged(empty, limits=Limits(may_be_missing=tuple(Monitored)))
    assert (result.state, result.alarms) == (State.UNWATCHED, False)


def test_what_may_be_missing_still_alarms_when_it_is_there_and_bad() -> None:
    limits = Limits(max_error_rate=0.01, may_be_missing=(Monitored.ERRORS,))
    assert judged(seen(of=requests(errors=200)), limits=limits).state is State.ALERT


def test_an_alert_does_not_hide_a_blind_spot() -> None:
    result = judged(seen(of=requests(errors=400)), drift=None)
    assert result.reason.startswith("alert: errors: ")
    assert "; blind: drift: the drift report left no result" in result.reason


@pytest.mark.parametrize(
    ("changes", "state", "detail"),
    [
        ({"due": 0, "labelled": 0, "wrong": 0, "label_delay_p50": None, "label_delay_p95": None}, "blind", "no labels"),
        ({"labelled": 19, "wrong": 0}, "blind", "19 of 2,000 due labels have arrived"),
        ({"labelled": 20, "wrong": 0}, "too_little", "20 labels have arrived, needed 200"),
        ({"due": 199, "labelled": 199, "wrong": 0}, "too_little", "199 labels are due, needed 200"),
    ],
)
def test_labels_that_do_not_come_are_told_from_few_ones(changes: dict[str, Any], state: str, detail: str) -> None:
    found = finding(judged(seen(with_labels=labels(**changes))), "accuracy")
    assert found.state == state
    assert detail in found.detail


def test_labels_that_can_not_be_due_yet_are_no_blind_spot() -> None:
    current = seen(with_labels=MonitoredCounts())
    assert finding(judged(current), "accuracy").state is State.BLIND
    assert finding(judged(current, young=True), "accuracy").state is State.TOO_LITTLE


def test_answers_without_a_latency_are_a_blind_spot() -> None:
    found = finding(judged(seen(of=requests(timed=0, latency={}))), "latency")
    assert found.state is State.BLIND


def test_few_requests_are_too_little_however_bad_they_look() -> None:
    result = judged(Observed("3", requests(199, 150), labels(199, 150)))
    assert {each.name: each.state for each in result.findings if each.name not in (DATA, "drift")} == dict.fromkeys(
        ("accuracy", "latency", "errors", "business"), State.TOO_LITTLE
    )
    assert result.state is State.TOO_LITTLE
    assert not result.alarms


def test_many_rows_of_few_units_are_too_little() -> None:
    current = seen(of=requests(errors=1000, error_effect=100.0, slow_effect=100.0))
    for name in ("errors", "latency"):
        found = finding(judged(current, limits=Limits(max_error_rate=0.1)), name)
        assert found.state is State.TOO_LITTLE
        assert "needed 30" in found.detail


def test_repeats_widen_the_interval_that_an_alert_rests_on() -> None:
    limits = Limits(max_error_rate=0.04)
    assert judged(seen(of=requests(errors=120)), limits=limits).state is State.ALERT
    assert finding(judged(seen(of=requests(errors=120, error_effect=8.0)), limits=limits), "errors").state is State.OK


def test_drift_of_more_columns_than_the_limit_is_an_alert_that_no_rollback_helps() -> None:
    result = judged(seen(), drift=Drift(True, 3, 4, "3 of 4"))
    assert (result.state, result.harm) == (State.ALERT, False)
    assert judged(seen(), drift=Drift(True, 2, 4, "2 of 4")).state is State.OK
    assert judged(seen(), drift=Drift(True, 1, 4, "1 of 4"), limits=Limits(max_drift_share=0.2)).state is State.ALERT


def test_drift_that_was_not_told_is_blind_or_too_little() -> None:
    untold = Drift(False, 0, 3, "f_x: 0 values")
    assert finding(judged(seen(), drift=untold), "drift").state is State.BLIND
    few = seen(of=requests(20, 0))
    assert finding(judged(few, drift=untold), "drift").state is State.TOO_LITTLE
    assert finding(judged(seen(), few, drift=untold), "drift").state is State.TOO_LITTLE
    assert finding(judged(seen(), drift=Drift(True, 0, 0, "")), "drift").state is State.BLIND


def test_drift_that_is_known_alarms_whatever_is_not_known() -> None:
    partly = Drift(False, 2, 3, "2 of 3 columns that can be told of drifted; not known of f_note")
    found = finding(judged(seen(), drift=partly), "drift")
    assert (found.state, found.value) == (State.ALERT, pytest.approx(2 / 3))
    assert "not known of f_note" in found.detail
    allowed = judged(seen(), drift=partly, limits=Limits(may_be_missing=(Monitored.DRIFT,)))
    assert finding(allowed, "drift").state is State.ALERT
    assert finding(judged(seen(of=requests(20, 0)), drift=partly), "drift").state is State.ALERT
    for below in (Drift(False, 1, 3, "1 of 3"), Drift(False, 0, 0, "")):  # not well, for what is not known may drift
        assert finding(judged(seen(), drift=below), "drift").state is State.BLIND


def test_data_checks_that_fail_are_an_alert_and_those_that_are_not_there_a_blind_spot() -> None:
    result = judged(seen(), data=(False, "data checks fail: f_x is empty"))
    assert (result.state, result.harm) == (State.ALERT, False)
    assert "f_x is empty" in result.reason
    assert judged(seen(), data=None).state is State.BLIND


def test_chance_alone_hardly_ever_alarms_and_real_harm_does() -> None:
    """Two hundred windows of one law, with the reference itself drawn from it; and the same with half as much again."""
    dice = random.Random(20130101)

    def window(scale: float) -> Observed:
        n = 1000
        errors = sum(dice.random() < 0.05 * scale for _ in range(n))
        wrong = sum(dice.random() < 0.1 * scale for _ in range(n))
        histogram = Counter(latency_bin(scale * dice.lognormvariate(2, 0.5)) for _ in range(n - errors))
        of = requests(n, errors, latency=dict(histogram))
        return seen(of=of, with_labels=labels(n, wrong, value=dice.gauss(5 / scale, 0.05)))

    limits = Limits(margin=0.0)
    assert sum(judged(window(1), window(1), limits).state is State.ALERT for _ in range(200)) == 0
    assert all(judged(window(2.5), window(1), limits).state is State.ALERT for _ in range(20))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_error_rate": 1.1}, "max_error_rate is 1.1, must be between 0 and 1"),
        ({"min_requests": 29}, "min_requests is 29, must be between 30"),
        ({"level": 1.0}, "level is 1.0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"may_be_missing": ["weather"]}, "may_be_missing is 'weather', must be one of accuracy"),
        ({"may_be_missing": "drift"}, "must be a list"),
        ({"max_error": 1}, "limits has unknown max_error"),
    ],
)
def test_limits_out_of_their_bounds_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Limits.from_dict(values)


def test_an_observation_survives_json() -> None:
    assert Observed.from_dict(json.loads(json.dumps(seen().to_dict()))) == seen()
