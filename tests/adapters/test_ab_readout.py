"""The readout of an A/B test: over real Delta tables, against numbers worked out by hand."""

import json
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.adapters.log_kinds import another
from tests.adapters.unit_log import (
    ARMS,
    DAY,
    MINUTE,
    START,
    Bench,
    Row,
    label_counts,
    look,
    outcome,
    random_log,
    row,
    unit_of,
)

from model_rollouts.adapters.ab_effects import LEAST_UNITS, effects, sample_ratio_p_value
from model_rollouts.adapters.ab_readout import GUARDRAILS, ReadoutResult, read_out, write_readout
from model_rollouts.adapters.delta_ab_queries import COLUMNS, PAIRS
from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.delta_log import table_path
from model_rollouts.adapters.delta_report_log import DeltaReportLog
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.report_facts import ArmUnits, Moments
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.rollout import Rollout, State

END = START + timedelta(minutes=30)
PRIOR = (START - 30 * DAY, START)
VALUE = Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=0.0, coverage=0.8)
PLAIN = {"rollout_id": None, "stage": None, "cohort": None}


@pytest.fixture
def bench(log_root: LogRoot, tmp_path: Path) -> Bench:
    return Bench(log_root, tmp_path)


def stage_of(share: float = 50.0, **changes: Any) -> Stage:
    gates = (VALUE, Gate(Metric.ERROR_RATE, Role.TRIPWIRE))
    settings: dict[str, Any] = {"share": share, "gates": gates, "bake_seconds": 0.0, "deadline_seconds": 86_400.0}
    return Stage(**(settings | changes))


def rollout(share: float = 50.0, **changes: Any) -> Rollout:
    return Rollout(
        id="ro",
        model="delays",
        champion="3",
        challenger="4",
        plan=Plan(Pattern.AB_TEST, (stage_of(share, **changes),), label_maturity_seconds=60.0),
        state=State.BAKING,
        stage=0,
        salt="s",
        revision=2,
        created_at=START,
        created_by="test",
        opened_at=START,
        judged_from=START,
    )


def summed(bench: Bench, maturity: timedelta = MINUTE) -> ArmUnits:
    return DeltaReportLog(bench.root).arm_units("delays", "ro", 0, START, END, maturity, PRIOR)


def write(bench: Bench, subject: Rollout | None = None) -> tuple[ReadoutResult, dict[str, Any], str]:
    out = Path(tempfile.mkdtemp(dir=bench.scratch))
    result = write_readout(subject or rollout(), 0, DeltaReportLog(bench.root), (START, END), out)
    assert [file.name for file in result.files] == ["readout.json", "readout.html"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(result.files[0].read_text(), parse_constant=refuse)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert document["state"] == result.readout.state
    return result, document, result.files[1].read_text()


def total(units: ArmUnits, arm: str, column: str, among: str = "requests") -> float:
    return units.moments[among][arm].total(column)


def dealt(
    seed: int,
    units: int = 400,
    lift: float = 0.0,
    prior: bool = False,
    noise: float = 1.0,
    wrong: tuple[float, float] = (0.1, 0.1),
    errors: tuple[float, float] = (0.02, 0.02),
    values: Callable[[float], float] = float,
) -> tuple[list[Row], list[Row]]:
    """Units in fixed arms, each worth something of its own, with some requests each."""
    dice = random.Random(seed)
    rows, known = [], []
    for u in range(units):
        theirs = u % 2
        arm, worth = ARMS[theirs], dice.lognormvariate(2.0, 0.5)
        for k in range(dice.randint(1, 5)):
            name, at = f"u{u}k{k}", dice.uniform(0, 1700)
            failed = dice.random() < errors[theirs]
            rows.append(row(name, at, arm, unit_id=f"u{u}", status="error" if failed else "ok"))
            value = values(worth * (1 + lift * theirs) + dice.gauss(0, noise))
            known.append(outcome(name, at + 30, "0" if dice.random() < wrong[theirs] else "1", value))
        if prior:
            for k in range(2):
                name, at = f"p{u}k{k}", -dice.uniform(100, 86_400)
                rows.append(row(name, at, unit_id=f"u{u}", **PLAIN))
                known.append(outcome(name, at + 30, None, worth + dice.gauss(0, noise)))
    return rows, known


def fill(bench: Bench, rows: Iterable[Row], outcomes: Iterable[Row] = ()) -> None:
    bench.predictions(*rows)
    if outcomes := list(outcomes):
        bench.outcomes(*outcomes)


# --- the sums are those that the gates count


def sticky(seed: int) -> tuple[list[Row], list[Row]]:
    """All that can go wrong with a row, but no unit in both arms."""
    rows, outcomes = random_log(seed)
    rows = [r for r in rows if r["stage"] is None or (r["stage"] == 0 and r["ts"] < END)]
    first: dict[Any, str] = {}
    for r in rows:
        if r["cohort"] is not None:
            first.setdefault(unit_of(r), r["arm"])
    return [r for r in rows if r["cohort"] is None or first[unit_of(r)] == r["arm"]], outcomes


@pytest.mark.parametrize("seed", range(3))
def test_requests_values_and_labels_are_those_that_the_gates_count(bench: Bench, seed: int) -> None:
    rows, outcomes = sticky(seed)
    bench.predictions(*rows)
    bench.outcomes(*outcomes)
    whole = [look(0, 0, 0, 30)]
    requests = bench.log.request_counts("delays", "ro", 0, [whole[0].window])[0]
    labels = label_counts(bench.log, "delays", "ro", 0, [whole[0].window], MINUTE)[0]
    values = bench.values(whole)[0]
    # read out a minute later, when all that was asked is old enough
    found = DeltaReportLog(bench.root).arm_units("delays", "ro", 0, START, END + MINUTE, MINUTE, PRIOR)
    for at, arm in enumerate(ARMS):
        assert total(found, arm, "requests") == pytest.approx(requests[at].requests)
        assert total(found, arm, "errors") == pytest.approx(requests[at].errors)
        assert total(found, arm, "labelled") == pytest.approx(labels[at].labelled)
        assert total(found, arm, "labelled") - total(found, arm, "correct") == pytest.approx(labels[at].wrong)
        assert total(found, arm, "due") == pytest.approx(getattr(values, f"{arm}_due"))
        assert total(found, arm, "valued") == pytest.approx(getattr(values, f"{arm}_n"))
        assert total(found, arm, "value") == pytest.approx(getattr(values, f"{arm}_y"))
        assert found.moments["valued"][arm].units == getattr(values, f"{arm}_units")
    assert requests[0].requests > 50


def test_an_answer_that_the_caller_did_not_get_has_no_value(bench: Bench) -> None:
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, unit_id="u", served=False))
    bench.predictions(row("c", 3, "challenger", unit_id="v", status="error", served=False))
    bench.predictions(row("c", 3, unit_id="v", cohort="challenger"))
    bench.outcomes(*(outcome(name, 20, "1", 5.0) for name in "abc"))
    found = summed(bench)
    assert [total(found, "champion", c) for c in ("requests", "due", "valued", "value")] == [2, 1, 1, 5.0]
    assert [total(found, "champion", c) for c in ("labelled", "correct")] == [2, 2]
    assert [total(found, "challenger", c) for c in ("requests", "errors", "due", "value")] == [1, 1, 0, 0]


def test_a_value_is_due_once_it_is_mature(bench: Bench) -> None:
    bench.predictions(row("old", 0, unit_id="u"), row("edge", 1740, unit_id="u"), row("young", 1740.1, unit_id="u"))
    bench.outcomes(outcome("old", 61, "1", 99.0), outcome("edge", 1800, "1", 2.0), outcome("young", 1750, "1", 4.0))
    found = summed(bench)
    assert [total(found, "champion", c) for c in ("requests", "due", "valued", "value")] == [3, 2, 1, 2.0]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, 1e300, 1.0000001e9])
def test_a_value_that_is_no_number_or_too_large_is_missing(bench: Bench, missing: float | None) -> None:
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, unit_id="u"))
    bench.outcomes(outcome("a", 10, "1", missing), outcome("b", 10, "1", 3.0))
    found = summed(bench)
    assert [total(found, "champion", c) for c in ("due", "valued", "value")] == [2, 1, 3.0]


def test_what_a_unit_was_worth_before_is_summed_up_over_thirty_days(bench: Bench) -> None:
    day = 86_400
    bench.predictions(
        row("p1", -30 * day, unit_id="u", **PLAIN), row("p2", -400, unit_id="u", **PLAIN),
        row("old", -30 * day - 1, unit_id="u", **PLAIN), row("p3", -300, unit_id="u", served=False, **PLAIN),
        row("p4", -200, "challenger", unit_id="u", **PLAIN), row("p5", -10, unit_id="u", **PLAIN),
        row("p6", -5, unit_id="w", **PLAIN), row("a", 1, unit_id="u"), row("b", 1, unit_id="v"),
    )  # fmt: skip
    bench.outcomes(
        outcome("p1", -29 * day, None, 1.0), outcome("p2", -1, None, 3.0), outcome("old", -29 * day, None, 50.0),
        *(outcome(name, -1, None, 50.0) for name in ("p3", "p4", "p6")), outcome("p5", 0, None, 50.0),
    )  # fmt: skip
    found = summed(bench)
    assert (total(found, "champion", "prior_value"), total(found, "champion", "prior_valued")) == (4.0, 2)
    assert found.moments["requests"]["champion"].with_prior == 1


def test_a_time_before_that_reaches_into_the_stage_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="values from within the stage would hide its effect"):
        DeltaReportLog(bench.root).arm_units("delays", "ro", 0, START, END, MINUTE, (START, START + MINUTE))


def test_units_in_both_arms_are_counted_and_left_out(bench: Bench) -> None:
    bench.predictions(row("a", 1, unit_id="u"), row("b", 2, "challenger", unit_id="u"), row("c", 3, unit_id="v"))
    bench.predictions(row("d", 4, "challenger", unit_id="w"), row("e", 5), row("f", 6, "challenger"))
    bench.predictions(row("g", 7, unit_id="w", cohort=None), row("h", 8, unit_id="w", stage=1))  # not this test's
    found = summed(bench)
    assert (found.units, found.exposed_to_both, found.requests, found.requests_exposed) == (5, 1, 6, 2)
    assert {arm: each.units for arm, each in found.moments["requests"].items()} == {"champion": 2, "challenger": 2}


# --- the numbers


def by_unit(rows: list[Row], outcomes: list[Row]) -> dict[str, np.ndarray]:
    """Unit by unit (requests, errors, valued, value, prior_valued, prior_value) of each arm, in plain Python."""
    value = {o["request_id"]: o["value"] for o in outcomes}
    label = {o["request_id"]: o["label"] for o in outcomes}
    tallies: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 8)
    arms = {r["unit_id"]: r["arm"] for r in rows if r["stage"] == 0}
    for r in rows:
        mine = tallies[arms[r["unit_id"]], r["unit_id"]]
        if r["stage"] is None:
            mine[4] += 1
            mine[5] += value[r["request_id"]]
            continue
        mine[0] += 1
        mine[1] += r["status"] != "ok"
        if r["status"] == "ok":
            mine[2] += 1
            mine[3] += value[r["request_id"]]
            mine[6] += 1
            mine[7] += label[r["request_id"]] == r["prediction"]
    return {arm: np.array([t for (a, _), t in sorted(tallies.items()) if a == arm]) for arm in ARMS}


def welch(ours: np.ndarray, theirs: np.ndarray, means: tuple[float, float]) -> tuple[float, float, float, float]:
    """Difference, its ends and its p-value, of unit-level residuals and the means they belong to."""
    parts = [x.var(ddof=1) / len(x) for x in (ours, theirs)]
    df = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (ours, theirs), strict=True))
    difference, se = means[1] - means[0], math.sqrt(sum(parts))
    half = stats.t.ppf(0.975, df) * se
    return difference, difference - half, difference + half, 2 * stats.t.sf(abs(difference / se), df)


def linear(top: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
    """A ratio of sums, and what each unit contributes to it by the delta method."""
    ratio = top.sum() / below.sum()
    return ratio, (top - ratio * below) / below.mean()


def shown(effect: Any) -> tuple[float, float, float, float]:
    return effect.difference, effect.low, effect.high, effect.p_value


def test_effects_are_welchs_by_the_delta_method_as_worked_out_by_hand(bench: Bench) -> None:
    rows, outcomes = dealt(3, lift=0.05, errors=(0.05, 0.15))
    fill(bench, rows, outcomes)
    found = effects(summed(bench))
    arms = by_unit(rows, outcomes)
    for name, top, below in (("value_per_request", 3, 2), ("error_rate", 1, 0), ("accuracy", 7, 6)):
        kept = {arm: table[table[:, below] > 0] for arm, table in arms.items()}
        (ours, a), (theirs, b) = (linear(kept[arm][:, top], kept[arm][:, below]) for arm in ARMS)
        assert shown(found[name]) == pytest.approx(welch(a, b, (ours, theirs)), rel=1e-9)
        assert (found[name].champion, found[name].challenger) == pytest.approx((ours, theirs))
        assert found[name].champion_units == len(kept["champion"])
    kept = {arm: table[table[:, 2] > 0][:, 3] for arm, table in arms.items()}
    hand = welch(kept["champion"], kept["challenger"], (kept["champion"].mean(), kept["challenger"].mean()))
    assert shown(found["value_per_unit"]) == pytest.approx(hand, rel=1e-9)
    by_scipy = stats.ttest_ind(kept["challenger"], kept["champion"], equal_var=False)
    assert found["value_per_unit"].p_value == pytest.approx(by_scipy.pvalue)
    assert found["value_per_unit"].adjusted is False


def test_relative_intervals_are_of_the_log_ratio(bench: Bench) -> None:
    rows, outcomes = dealt(4, lift=0.1)
    fill(bench, rows, outcomes)
    effect = effects(summed(bench))["value_per_request"]
    kept = [table[table[:, 2] > 0] for table in by_unit(rows, outcomes).values()]
    (ours, a), (theirs, b) = (linear(table[:, 3], table[:, 2]) for table in kept)
    _, low, high, _ = welch(a / ours, b / theirs, (math.log(ours), math.log(theirs)))
    assert effect.relative == pytest.approx(theirs / ours - 1)
    assert (effect.relative_low, effect.relative_high) == pytest.approx((math.exp(low) - 1, math.exp(high) - 1))


def test_what_was_known_before_narrows_the_interval_as_worked_out_by_hand(bench: Bench) -> None:
    rows, outcomes = dealt(5, lift=0.05, prior=True, noise=0.5)
    fill(bench, rows, outcomes)
    found = effects(summed(bench))
    adjusted, plain = found["value_per_request"], found["value_per_request_unadjusted"]
    assert (adjusted.adjusted, plain.adjusted) == (True, False)
    assert adjusted.high - adjusted.low < 0.5 * (plain.high - plain.low)
    kept = {arm: table[table[:, 2] > 0] for arm, table in by_unit(rows, outcomes).items()}
    both = np.vstack([kept[arm] for arm in ARMS])
    _, y = linear(both[:, 3], both[:, 2])
    before, x = linear(both[:, 5], both[:, 4])
    theta = np.cov(y, x)[0, 1] / x.var(ddof=1)
    means, parts = [], []
    for arm in ARMS:
        (ratio, own), (was, own_before) = (
            linear(kept[arm][:, 3], kept[arm][:, 2]),
            linear(kept[arm][:, 5], kept[arm][:, 4]),
        )
        means.append(ratio - theta * (was - before))
        parts.append(own - theta * own_before)
    assert shown(adjusted) == pytest.approx(welch(parts[0], parts[1], (means[0], means[1])), rel=1e-6)


def test_a_history_of_few_units_or_without_differences_is_not_used(bench: Bench) -> None:
    rows, outcomes = dealt(6)
    few = [row(f"p{u}", -500, unit_id=f"u{u}", **PLAIN) for u in range(2 * (LEAST_UNITS - 1))]
    fill(bench, rows + few, outcomes + [outcome(r["request_id"], -400, None, 3.0 + i) for i, r in enumerate(few)])
    assert effects(summed(bench))["value_per_request"].adjusted is False
    more = [row(f"q{u}", -500, unit_id=f"u{u}", **PLAIN) for u in range(400)]
    same = Bench(another(bench.root), bench.scratch)
    fill(same, rows + more, outcomes + [outcome(r["request_id"], -400, None, 0.1) for r in more])
    assert effects(summed(same))["value_per_request"].adjusted is False


def arm_of(table: np.ndarray) -> Moments:
    """Moments of units in columns as in `COLUMNS`."""
    covariance = np.cov(table, rowvar=False)
    at = {column: i for i, column in enumerate(COLUMNS)}
    return Moments(
        len(table),
        int((table[:, at["prior_valued"]] > 0).sum()),
        dict(zip(COLUMNS, table.mean(axis=0).tolist(), strict=True)),
        {(one, other): float(covariance[at[one], at[other]]) for one, other in PAIRS},
    )


def simulated(rng: np.random.Generator, lift: float, units: int = 300) -> ArmUnits:
    arms = {}
    for arm in ARMS:
        n = rng.integers(1, 8, units).astype(float)
        worth = rng.lognormal(1.0, 0.7, units)
        value = n * worth * (1 + lift * (arm == "challenger")) + rng.normal(0, 1, units) * np.sqrt(n)
        errors, correct = rng.binomial(n.astype(int), 0.05), rng.binomial(n.astype(int), 0.8)
        before = np.where(rng.random(units) < 0.7, 3.0, 0.0)
        columns = [n, errors, n, n, value, n, correct, before, before * worth]
        arms[arm] = arm_of(np.column_stack(columns))
    return ArmUnits(2 * units, 0, 1, 0, 0, dict.fromkeys(("requests", "due", "valued", "labelled"), arms))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(20260301)
    wrong: dict[str, int] = defaultdict(int)
    for _ in range(300):
        found = effects(simulated(rng, 0.1))
        for name in ("error_rate", "accuracy"):
            wrong[name] += found[name].direction != 0
        for name in ("value_per_request", "value_per_unit"):
            wrong[name] += not found[name].relative_low <= 0.1 <= found[name].relative_high
    # 5 % of 300 is 15, its standard deviation 3.8: within 3.5 of them
    assert all(1 < count < 29 for count in wrong.values()), dict(wrong)


# --- the verdict


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_two_equal_versions_have_no_winner(bench: Bench, seed: int) -> None:
    fill(bench, *dealt(seed, prior=True))
    result, document, page = write(bench)
    assert (result.readout.state, result.readout.verdict) == ("ok", "no difference")
    assert document["effects"]["value_per_request"]["low"] < 0 < document["effects"]["value_per_request"]["high"]
    assert result.readout.reason.startswith("no difference: value per request ")
    assert "challenger: no difference" in page


@pytest.mark.parametrize(("lift", "verdict"), [(0.1, "winner"), (-0.1, "loser")])
def test_a_planted_lift_is_found_and_is_within_the_interval(bench: Bench, lift: float, verdict: str) -> None:
    fill(bench, *dealt(8, lift=lift, prior=True, noise=0.5))
    result, document, page = write(bench)
    effect = document["effects"]["value_per_request"]
    assert (result.readout.state, result.readout.verdict) == ("ok", verdict)
    assert effect["relative_low"] < lift < effect["relative_high"]
    assert f"{verdict}: value per request" in result.readout.reason
    assert result.metrics["readout_value_per_request_relative"] == effect["relative"]
    assert "guardrails: error rate holds, accuracy holds" in page


def test_guardrails_that_are_worse_are_named_beside_the_winner(bench: Bench) -> None:
    fill(bench, *dealt(9, lift=0.3, errors=(0.02, 0.2), wrong=(0.1, 0.3)))
    result, document, page = write(bench)
    assert result.readout.verdict == "winner"
    assert document["guardrails"] == {"error_rate": "worse", "accuracy": "worse"}
    assert "guardrails: error rate worse, accuracy worse" in result.readout.reason
    assert 'class="banner inconclusive"' in page


def test_a_guardrail_that_is_better_holds(bench: Bench) -> None:
    fill(bench, *dealt(9, lift=0.3, errors=(0.2, 0.02), wrong=(0.3, 0.1)))
    assert write(bench)[1]["guardrails"] == {"error_rate": "holds", "accuracy": "holds"}


def test_guardrails_without_any_variance_are_told_by_their_means(bench: Bench) -> None:
    fill(bench, *dealt(10, errors=(0.0, 0.0), wrong=(0.0, 1.0)))
    readout = write(bench)[0].readout
    assert readout.guardrails == {"error_rate": "holds", "accuracy": "worse"}
    assert readout.effects["accuracy"].p_value is None
    assert "does not vary" in readout.effects["accuracy"].problem


def test_a_guardrail_without_labels_is_unknown(bench: Bench) -> None:
    rows, outcomes = dealt(11)
    fill(bench, rows, [o | {"label": None} for o in outcomes])
    readout = write(bench)[0].readout
    assert (readout.state, readout.guardrails["accuracy"]) == ("ok", "unknown")


# --- what it rests on


def test_units_in_both_arms_make_the_check_fail_above_one_percent(bench: Bench) -> None:
    rows, outcomes = dealt(1)
    stray = [row(f"x{i}", 900, "challenger", unit_id=f"u{2 * i}") for i in range(5)]
    within = Bench(another(bench.root), bench.scratch)
    fill(within, rows + stray[:4], outcomes)
    assert write(within)[0].readout.state == "ok"
    fill(bench, rows + stray, outcomes)
    result, document, page = write(bench)
    assert (result.readout.state, result.readout.verdict) == ("failed", "none")
    assert "5 of 400 units were in both arms (1.25%) and are left out; must be at most 1%" in result.readout.reason
    assert (document["units_in_both_arms"], document["effects"]["error_rate"]["champion_units"]) == (5, 195)
    assert "challenger: no verdict" in page


def test_units_that_are_not_dealt_as_planned_make_it_fail(bench: Bench) -> None:
    fill(bench, *dealt(1, lift=0.5))
    assert write(bench)[0].readout.state == "ok"
    result, document, _ = write(bench, rollout(share=40.0))
    assert (result.readout.state, result.readout.verdict) == ("failed", "none")
    assert document["sample_ratio_p_value"] < 0.001
    assert "50.00% of the units are the challenger's, planned 40 %" in result.readout.reason


def test_the_plan_of_a_control_group_is_half_and_half(bench: Bench) -> None:
    fill(bench, *dealt(1))
    assert write(bench, rollout(share=10.0, control_group=True))[0].readout.state == "ok"


@pytest.mark.parametrize(("ours", "theirs", "planned"), [(520, 480, 50.0), (90, 10, 15.0), (5000, 5200, 50.0)])
def test_the_sample_ratios_p_value_is_the_binomials(ours: int, theirs: int, planned: float) -> None:
    exact = stats.binomtest(theirs, ours + theirs, planned / 100).pvalue
    assert sample_ratio_p_value(ours, theirs, planned) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("arguments", [(0, 0, 50.0), (10, 10, 0.0), (10, 10, 100.0)])
def test_without_units_or_a_plan_there_is_no_sample_ratio(arguments: tuple[int, int, float]) -> None:
    assert sample_ratio_p_value(*arguments) is None


def test_values_that_are_missing_in_one_arm_more_make_it_fail(bench: Bench) -> None:
    rows, outcomes = dealt(1, units=800)
    theirs = {r["request_id"] for r in rows if r["arm"] == "challenger"}
    thin = [o | {"value": None} if o["request_id"] in theirs and i % 6 == 0 else o for i, o in enumerate(outcomes)]
    fill(bench, rows, thin)
    readout = write(bench)[0].readout
    assert readout.state == "failed"
    assert "missing values: the arms' coverage differs by -1" in readout.reason


def test_values_that_are_missing_alike_are_enough_down_to_the_gates_coverage(bench: Bench) -> None:
    rows, outcomes = dealt(1, units=800)
    fill(bench, rows, [o | {"value": None} if i % 3 == 0 else o for i, o in enumerate(outcomes)])
    readout = write(bench)[0].readout
    assert readout.state == "missing"
    assert "of the values that are due are there, must be at least 80% in each arm" in readout.reason
    lax = (Gate(Metric.VALUE, Role.OBJECTIVE, coverage=0.5),)
    assert write(bench, rollout(gates=lax))[0].readout.state == "ok"


# --- little, nothing, and too much


def nothing() -> tuple[list[Row], list[Row]]:
    return [], []


def no_values() -> tuple[list[Row], list[Row]]:
    rows, outcomes = dealt(1)
    return rows, [o | {"value": None} for o in outcomes]


def bad_values(value: float) -> Callable[[], tuple[list[Row], list[Row]]]:
    def made() -> tuple[list[Row], list[Row]]:
        rows, outcomes = dealt(1)
        return rows, [o | {"value": value} for o in outcomes]

    return made


def one_arm() -> tuple[list[Row], list[Row]]:
    rows, outcomes = dealt(1)
    return [r for r in rows if r["arm"] == "champion"], outcomes


def few_units() -> tuple[list[Row], list[Row]]:
    return dealt(1, units=2 * LEAST_UNITS - 2, lift=1.0)


def one_unit_an_arm() -> tuple[list[Row], list[Row]]:
    return dealt(1, units=2)


def all_failed() -> tuple[list[Row], list[Row]]:
    return dealt(1, errors=(1.0, 1.0))


def young() -> tuple[list[Row], list[Row]]:
    rows, outcomes = dealt(1)
    return [r | {"ts": END - MINUTE / 2} for r in rows], [o | {"ts": END - MINUTE / 4} for o in outcomes]


def no_labels_or_values() -> tuple[list[Row], list[Row]]:
    return dealt(1)[0], []


@pytest.mark.parametrize(
    "made",
    [
        nothing,
        no_values,
        one_arm,
        few_units,
        one_unit_an_arm,
        all_failed,
        young,
        no_labels_or_values,
        *(
            pytest.param(bad_values(value), id=f"values of {value:g}")
            for value in (math.nan, math.inf, 1e300, 0.0, 0.1, -7.7)
        ),
    ],
)
def test_data_that_tell_nothing_are_never_ok_and_never_raise(
    bench: Bench, made: Callable[[], tuple[list[Row], list[Row]]]
) -> None:
    rows, outcomes = made()
    if rows:
        fill(bench, rows, outcomes)
    result, document, page = write(bench)
    assert result.readout.state in ("missing", "failed")
    assert result.readout.verdict == "none"
    assert result.readout.reason.startswith("no verdict: ")
    assert document["effects"]["value_per_request"]["low"] is None
    assert "readout_value_per_request_low" not in result.metrics
    assert "challenger: no verdict" in page


@pytest.mark.parametrize("share", [0.0, 100.0])
def test_a_stage_that_deals_no_units_has_no_readout(bench: Bench, share: float) -> None:
    fill(bench, *dealt(1, lift=0.5))
    other = {"mirror_percent": 100.0} if share == 0 else {"control_percent": 5.0}
    readout = write(bench, rollout(share=share, gates=(Gate(Metric.ERROR_RATE),), **other))[0].readout
    assert (readout.state, readout.verdict) == ("missing", "none")
    assert "nothing is dealt" in readout.reason


def test_the_largest_values_are_added_up_without_harm(bench: Bench) -> None:
    fill(bench, *dealt(1, values=lambda value: math.copysign(min(abs(value), 9.0) * 1e8, value)))
    readout = write(bench)[0].readout
    assert (readout.state, readout.verdict) == ("ok", "no difference")


def test_means_around_zero_have_no_relative_effect(bench: Bench) -> None:
    fill(bench, *dealt(1, values=lambda value: value - 30.0))
    result, document, page = write(bench)
    assert result.readout.state == "ok"
    assert document["effects"]["value_per_request"]["relative"] is None
    assert "not known" in page


@pytest.mark.parametrize("part", ["value", "prior_value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_sums_that_are_no_numbers_give_no_effect(part: str, bad: float) -> None:
    units = simulated(np.random.default_rng(1), 0.0)
    for moments in units.moments["valued"].values():
        moments.means[part] = bad  # type: ignore[index]
    readout = read_out(units, stage_of())
    if part == "value" and bad != 1e308:
        assert readout.state == "missing"
    assert all(
        end is None or math.isfinite(end) for e in readout.effects.values() for end in (e.low, e.high, e.relative_low)
    )
    assert set(readout.guardrails) == set(GUARDRAILS)


@pytest.mark.parametrize("wide", [False, True])
def test_a_mean_of_almost_nothing_or_a_spread_beyond_a_float_is_missing(wide: bool) -> None:
    units = simulated(np.random.default_rng(1), 0.0)
    spread = math.inf if wide else 1.0
    arms = {
        arm: replace(
            moments,
            with_prior=0,
            means={**moments.means, "value": 1e-9},
            covariances={**moments.covariances, ("value", "value"): spread},
        )
        for arm, moments in units.moments["valued"].items()
    }
    readout = read_out(replace(units, moments={**units.moments, "valued": arms}), stage_of())
    assert (readout.state, readout.verdict) == ("missing", "none")
    assert "value per request: no finite interval comes out of it" in readout.reason


def test_a_log_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    table_path(tmp_path / "log", "delays", "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError):
        summed(Bench(tmp_path / "log"))


def test_names_are_no_markup(bench: Bench) -> None:
    evil = "<script>alert(1)</script>"
    subject = replace(rollout(), champion=evil, challenger="<b>4")
    page = write(bench, subject)[2]
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;4" in page
