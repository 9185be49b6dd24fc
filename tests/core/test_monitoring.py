"""What the log shows of the five that have to be there before anything is deployed."""

from dataclasses import replace
from typing import Any

import pytest

from model_rollouts.core.monitoring import MonitoredCounts, readiness_of, told_time
from model_rollouts.core.readiness import Monitored

GOOD = MonitoredCounts(
    requests=1000,
    errors=20,
    with_status=1000,
    answered=980,
    timed=980,
    latency={300: 980},
    features=4,
    featured=1000,
    units=400,
    seconds=7200.0,
    days=1,
    due=900,
    labelled=450,
    wrong=45,
    label_delay_p50=30.0,
    label_delay_p95=5400.0,
    value_due=900,
    valued=90,
    value_mean=3.5,
    value_error=0.1,
)


def refused(counts: MonitoredCounts, *may_be_missing: Monitored, **more: Any) -> list[Monitored]:
    return [item.name for item in readiness_of(counts, may_be_missing, **more) if item.refuses]


def test_a_champion_whose_log_has_it_all_can_be_monitored() -> None:
    items = readiness_of(GOOD, ())
    assert [item.name for item in items] == list(Monitored)
    assert all(item.ok for item in items)
    details = {item.name: item.detail for item in items}
    assert details[Monitored.ACCURACY].startswith("450 of 900 due labels have arrived (50.0%)")
    assert details[Monitored.ACCURACY].endswith("half of them within 30 s, 95 % within 1.5 h")
    assert details[Monitored.LATENCY].startswith("980 of 980 answers have a latency")
    assert details[Monitored.BUSINESS].endswith("3.5 on average")
    assert details[Monitored.DRIFT].endswith("4 input columns")


def test_an_empty_log_shows_nothing() -> None:
    assert refused(MonitoredCounts()) == list(Monitored)
    assert not any(item.ok for item in readiness_of(MonitoredCounts(), tuple(Monitored)))


def test_what_may_be_missing_is_named_and_refuses_nothing() -> None:
    (item,) = [i for i in readiness_of(MonitoredCounts(), [Monitored.BUSINESS]) if i.name is Monitored.BUSINESS]
    assert (item.ok, item.missing_allowed, item.refuses) == (False, True, False)
    assert refused(MonitoredCounts(), Monitored.BUSINESS, Monitored.DRIFT) == ["accuracy", "latency", "errors"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"due": 49, "labelled": 49, "wrong": 0}, "accuracy"),
        ({"labelled": 9, "wrong": 0}, "accuracy"),
        ({"labelled": 0, "wrong": 0, "label_delay_p50": None, "label_delay_p95": None}, "accuracy"),
        ({"timed": 930, "latency": {300: 930}}, "latency"),
        ({"timed": 0, "latency": {}}, "latency"),
        ({"with_status": 949}, "errors"),
        ({"featured": 949}, "drift"),
        ({"features": 0}, "drift"),
        ({"valued": 8}, "business"),
        ({"valued": 0, "value_mean": None, "value_error": None}, "business"),
    ],
)
def test_what_is_missing_is_the_one_that_refuses(changes: dict[str, Any], name: str) -> None:
    assert refused(replace(GOOD, **changes)) == [name]


def test_ten_labels_of_too_many_due_are_no_coverage() -> None:
    assert refused(replace(GOOD, labelled=10, wrong=0, due=980)) == []
    many = replace(GOOD, requests=2000, with_status=2000, featured=2000, answered=1980, timed=1980, latency={1: 1980})
    assert refused(replace(many, labelled=10, wrong=0, due=1001)) == ["accuracy"]


@pytest.mark.parametrize("requests", [49, 50])
def test_fewer_requests_than_the_least_show_nothing(requests: int) -> None:
    few = MonitoredCounts(
        requests=requests, with_status=requests, answered=requests, timed=requests, latency={9: requests}, days=1,
        features=1, featured=requests, units=1, due=requests, labelled=requests, label_delay_p50=1.0,
        label_delay_p95=1.0, value_due=requests, valued=requests, value_mean=1.0,
    )  # fmt: skip
    assert refused(few) == ([] if requests == 50 else list(Monitored))
    assert refused(few, least_requests=49) == []


def test_a_least_of_no_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="least_requests is 0, must be at least 1"):
        readiness_of(GOOD, (), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"errors": 1001}, "errors is 1001, must be between 0 and 1000"),
        ({"due": 981}, "due is 981, must be between 0 and 980"),
        ({"latency": {300: 981}}, "sum of the latency bins is 981"),
        ({"valued": 0}, "value_mean is 3.5 of 0"),
        ({"label_delay_p50": None}, "label_delay_p50 is None of 450"),
        ({"value_mean": float("nan")}, "value_mean is nan"),
        ({"error_effect": float("inf")}, "error_effect is inf"),
        ({"requests": 1e3}, "requests is 1000.0"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GOOD, **changes)


def test_counts_survive_json() -> None:
    import json

    assert MonitoredCounts.from_dict(json.loads(json.dumps(GOOD.to_dict()))) == GOOD
    with pytest.raises(KeyError):
        MonitoredCounts.from_dict({"requests": 3})


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.5 s"), (90, "1.5 min"), (7200, "2 h"), (3 * 86400.0, "3 days")])
def test_times_are_told_in_a_unit_that_fits(seconds: float, text: str) -> None:
    assert told_time(seconds) == text
