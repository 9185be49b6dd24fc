"""Pairs of answers, side by side: over real Delta tables, against the definition of `pair_counts`."""

import json
import math
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.unit_log import LOOKS, SECOND, START, Bench, Row, row

from model_rollouts.adapters import delta_report_log
from model_rollouts.adapters.comparison import wilson
from model_rollouts.adapters.delta_files import LogReadError
from model_rollouts.adapters.delta_log import REPEAT_SECONDS, table_path
from model_rollouts.adapters.delta_report_log import DeltaReportLog
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.adapters.offline_log import DeltaOfflineLog
from model_rollouts.adapters.pairs_report import PairsResult, RatedSlice, worst_slices, write_pairs
from model_rollouts.adapters.report_facts import Pairs, Slice
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import Pattern, Plan, Stage
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.offline import OfflineAnswer
from model_rollouts.ports import ModelVersion

END = START + timedelta(minutes=30)
ERRORS = Gate(Metric.ERROR_RATE)


@pytest.fixture
def bench(log_root: LogRoot, tmp_path: Path) -> Bench:
    return Bench(log_root, tmp_path)


def pairs(bench: Bench, tolerance: float | None = None) -> Pairs:
    return DeltaReportLog(bench.root).pairs("delays", "ro", 0, START, END, tolerance)


def slices(bench: Bench, feature: str) -> dict[str, tuple[int, int]]:
    return {each.value: (each.pairs, each.agreed) for each in pairs(bench).slices if each.feature == feature}


def rollout(mirror_percent: float = 100.0, tolerance: float | None = None, **changes: Any) -> Rollout:
    gates = (Gate(Metric.AGREEMENT, tolerance=tolerance), ERRORS)
    settings: dict[str, Any] = {"share": 0.0, "gates": gates, "bake_seconds": 0.0, "deadline_seconds": 7200.0}
    stage = Stage(**(settings | {"mirror_percent": mirror_percent} | changes))
    return Rollout(
        id="ro",
        model="delays",
        champion="3",
        challenger="4",
        plan=Plan(Pattern.SHADOW, (stage,)),
        state=State.BAKING,
        stage=0,
        salt="s",
        revision=2,
        created_at=START,
        created_by="test",
        opened_at=START,
        judged_from=START,
    )


def write(bench: Bench, subject: Rollout | None = None) -> tuple[PairsResult, dict[str, Any], str]:
    out = Path(tempfile.mkdtemp(dir=bench.scratch))
    result = write_pairs(subject or rollout(), 0, DeltaReportLog(bench.root), (START, END), out)
    assert [file.name for file in result.files] == ["pairs.json", "pairs.html"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(result.files[0].read_text(), parse_constant=refuse)
    assert all(math.isfinite(value) for value in result.metrics.values())
    return result, document, result.files[1].read_text()


def both(name: str, at: float = 1.0, ours: Row | None = None, theirs: Row | None = None, **shared: Any) -> list[Row]:
    """A request that both versions were asked."""
    mine = row(name, at, **shared, **(ours or {}))
    return [mine, row(name, at, "challenger", **({"served": False} | shared | (theirs or {})))]


# --- the pairs are those of the evidence


def mixed(seed: int) -> list[Row]:
    dice = random.Random(seed)
    rows = []
    for i in range(400):
        at = dice.uniform(0, 1799)
        answer, status = dice.choice(["0", "1", "1.2", None]), dice.choice(["ok"] * 6 + ["error", "timeout"])
        cohort = dice.choice(["champion"] * 5 + ["challenger", None])
        rows.append(row(f"r{i}", at, cohort=cohort, prediction=answer, status=dice.choice(["ok"] * 9 + ["error"])))
        for _ in range(dice.choice([0, 1, 1, 1, 2])):
            other = {"prediction": dice.choice(["0", "1", "1.2", None]), "status": status}
            stage = dice.choice([0] * 8 + [1])
            later = dice.choice([0.0, 0.0, 5.0, -5.0, REPEAT_SECONDS])
            rows.append(row(f"r{i}", at + later, "challenger", stage=stage, **other))
        if dice.random() < 0.1:
            rows.append(rows[-1] | {"ts": rows[-1]["ts"] + timedelta(seconds=dice.choice([1.0, 899.0]))})
    return rows


@pytest.mark.parametrize("tolerance", [None, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_are_those_that_the_gate_counts(
    bench: Bench, seed: int, tolerance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_report_log, "MOST_DISAGREEMENTS", 1000)
    bench.predictions(*mixed(seed))
    counted = bench.pairs(tolerance, LOOKS[:3])
    found = pairs(bench, tolerance)
    assert found.asked == sum(each.asked for each in counted) > 200
    assert found.paired == sum(each.paired for each in counted) > 100
    assert found.agreed == sum(each.agreed for each in counted) > 10
    assert sum(each.count for each in found.disagreements) == found.paired - found.agreed


def test_failures_of_either_version_are_told_apart(bench: Bench) -> None:
    bench.predictions(
        *both("a"), *both("b", theirs={"status": "error", "prediction": None}),
        *both("c", theirs={"status": "timeout", "prediction": None}), *both("d", ours={"status": "error"}),
        row("alone", 2.0),
    )  # fmt: skip
    found = pairs(bench)
    assert (found.asked, found.paired, found.agreed) == (4, 3, 1)
    assert (found.errors, found.timeouts, found.champion_failed) == (1, 1, 1)


def test_the_time_before_the_window_tells_only_what_is_a_repeat(bench: Bench) -> None:
    bench.predictions(*both("early", -1.0), *both("twice", -5.0), *both("twice", 5.0), *both("late", 1800.0))
    bench.predictions(row("edge", 1799.0), row("edge", 1801.0, "challenger"))
    assert (pairs(bench).asked, pairs(bench).paired) == (1, 1)


def test_requests_of_the_control_sample_without_the_champions_answer_are_counted(bench: Bench) -> None:
    control = {"cohort": "champion"}
    bench.predictions(row("a", 1, served=False), row("a", 1, "challenger", **control))
    bench.predictions(row("b", 1, "challenger", **control), row("c", 1, "challenger"))
    bench.predictions(row("d", 1, "challenger", **control, rollout_id="other"))
    assert (pairs(bench).asked, pairs(bench).paired, pairs(bench).without_champion) == (1, 1, 1)
    share = {"share": 100.0, "control_percent": 10.0, "gates": (ERRORS,), "mirror_percent": 0.0}
    assert write(bench, rollout(**share))[1]["dropped"] == 1


# --- offline: the champion's answers are logged ones


def logged(name: str, days_ago: float, **changes: Any) -> Row:
    """An answer of the champion's from before the stage."""
    plain: Row = {"rollout_id": None, "stage": None, "cohort": None, "traffic_revision": 7}
    return row(name, -days_ago * 86_400, **(plain | changes))


def again(name: str, at: float = 60.0, **changes: Any) -> Row:
    """The challenger's answer to it, in the stage."""
    return row(name, at, "challenger", **({"served": False, "gateway_id": "offline", "traffic_revision": 7} | changes))


def offline(bench: Bench) -> Pairs:
    start = START - timedelta(days=30)
    return DeltaReportLog(bench.root).offline_pairs("delays", "ro", 0, "3", start, END, None)


def test_logged_requests_that_were_scored_again_are_pairs(bench: Bench) -> None:
    bench.predictions(
        logged("a", 3, features={"carrier": "AA"}, score=0.25), again("a", score=0.5),
        logged("b", 2, features={"carrier": "B6"}), again("b", 400.0, prediction="0"),
        logged("c", 2), again("c", status="error", prediction=None),
        logged("unfit", 1), again("unfit", cohort=None, status="error", prediction=None),
        logged("failed", 1, status="error", prediction=None), again("failed"), logged("unscored", 1),
        logged("other", 1, version="2"), again("other"), again("gone"), logged("old", 31), again("old"),
    )  # fmt: skip
    found = offline(bench)
    assert (found.asked, found.paired, found.agreed, found.errors) == (4, 3, 1, 1)
    assert (found.champion_failed, found.without_champion) == (1, 3)
    assert found.score is not None
    assert (found.score.count, found.score.mean) == (1, 0.25)
    assert {(s.value, s.pairs, s.agreed) for s in found.slices} == {("AA", 1, 1), ("B6", 1, 0), ("(null)", 1, 0)}


@pytest.mark.parametrize("seed", range(2))
def test_the_pairs_of_an_offline_stage_are_those_that_its_gate_counts(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    rows = []
    for i in range(300):
        changes = {
            "prediction": dice.choice("01"),
            "status": dice.choice(["ok"] * 9 + ["error"]),
            "unit_id": f"u{i % 9}",
        }
        rows.append(logged(f"r{i}", dice.uniform(0.1, 6), features={"x": dice.random()}, **changes))
        if dice.random() < 0.1:  # the id comes back under another traffic row
            rows.append(logged(f"r{i}", 0.05, features={"x": 0.0}, prediction="0", traffic_revision=8))
    bench.predictions(*rows)
    subject = rollout(mirror_percent=0.0, offline=True)
    log = DeltaOfflineLog(bench.root, subject, ModelVersion("delays", "4", inputs=(("x", "double"),)))
    for number in range(3):
        requests = log.requests(60)
        fates = [dice.choice(["ok"] * 6 + ["error", "timeout", "unfit"]) for _ in requests]
        answers = [
            OfflineAnswer("error" if fate == "unfit" else fate, 1.0, dice.choice("01"), asked=fate != "unfit")
            for fate in fates
        ]
        assert log.append(number, START + (number + 1) * SECOND, requests, answers)
    counted = log.pair_counts("delays", "ro", 0, [LOOKS[0].window], None)[0]
    found = offline(bench)
    assert (found.asked, found.paired, found.agreed) == (counted.asked, counted.paired, counted.agreed)
    assert (found.asked + found.champion_failed, found.without_champion) == (180, 0)
    assert 0 < found.agreed < found.paired < found.asked


def test_an_id_that_came_back_is_compared_with_the_request_that_was_scored(bench: Bench) -> None:
    bench.predictions(logged("a", 5, traffic_revision=6), logged("a", 2, prediction="0"), again("a", prediction="0"))
    bench.predictions(logged("b", 5), logged("b", 2, prediction="0"), again("b"), again("b", 90.0, prediction="0"))
    assert (offline(bench).asked, offline(bench).paired, offline(bench).agreed) == (2, 2, 2)


def test_answers_of_another_rollout_or_stage_are_none_of_an_offline_stage(bench: Bench) -> None:
    bench.predictions(logged("a", 1), again("a", rollout_id="other"), logged("b", 1), again("b", stage=1))
    bench.predictions(logged("c", 1), again("c", rollout_id="other", cohort=None))
    assert (offline(bench).asked, offline(bench).without_champion) == (0, 0)


def test_an_offline_stage_is_reported_by_its_logged_requests(bench: Bench) -> None:
    bench.predictions(logged("a", 100), again("a"), again("gone"))
    result, document, page = write(bench, rollout(mirror_percent=0.0, offline=True))
    assert (result.state, document["paired"], document["dropped"]) == ("ok", 1, 1)
    assert "Logged requests that were scored again" in page


# --- what they have in common


def test_the_most_frequent_disagreements_come_first_and_the_rest_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_report_log, "MOST_DISAGREEMENTS", 2)
    rows = [each for i in range(5) for each in both(f"x{i}", theirs={"prediction": "0"})]
    rows += [each for i in range(3) for each in both(f"y{i}", theirs={"status": "error", "prediction": None})]
    rows += both("z", ours={"prediction": "9" * 200})
    bench.predictions(*rows, *both("same"))
    found = pairs(bench)
    kinds = [(each.champion, each.challenger, each.status, each.count) for each in found.disagreements]
    assert kinds == [("1", "0", "ok", 5), ("1", None, "error", 3)]
    assert found.disagreement_kinds == 3


def test_scores_and_latencies_are_compared_pair_by_pair(bench: Bench) -> None:
    rows: list[Row] = []
    for i in range(101):
        ours, theirs = {"score": 0.5, "latency_ms": 10.0}, {"score": 0.5 + (i - 50) / 100, "latency_ms": 10.0 + i}
        rows += both(f"r{i}", ours=ours, theirs=theirs)
    for i, bad in enumerate([None, math.nan, math.inf]):
        rows += both(f"bad{i}", ours={"score": bad, "latency_ms": math.nan}, theirs={"score": 1.0})
    bench.predictions(*rows, *both("failed", ours={"score": 0.0}, theirs={"score": 9.0, "status": "error"}))
    found = pairs(bench)
    assert found.score is not None
    assert found.latency_ms is not None
    assert (found.score.count, found.score.mean) == (101, pytest.approx(0.0, abs=1e-12))
    assert found.score.mean_size == pytest.approx(2 * sum(range(51)) / 100 / 101)
    assert found.score.largest_size == pytest.approx(0.5)
    assert found.score.quantiles["p95"] == pytest.approx(0.45)
    assert found.latency_ms["difference"].quantiles["p50"] == 50.0
    assert found.latency_ms["champion"].count == 101
    assert found.latency_ms["challenger"].count == 104


def test_scores_that_nobody_gives_are_no_zeros(bench: Bench) -> None:
    bench.predictions(*both("a", ours={"latency_ms": math.inf}))
    result, document, page = write(bench)
    assert (document["score_difference"], "difference" in document["latency_ms"]) == (None, False)
    assert "pairs_score_difference" not in result.metrics
    assert "<tr><td>pairs</td><td>none</td><td>none</td><td>1</td><td>none</td></tr>" in page


def test_a_difference_beyond_a_float_is_left_out(bench: Bench) -> None:
    bench.predictions(*both("a", ours={"score": -1.7e308}, theirs={"score": 1.7e308}))
    assert pairs(bench).score is None
    bench.predictions(*both("b", ours={"score": 1.0}, theirs={"score": 2.0}))
    found = pairs(bench).score
    assert found is not None
    assert (found.count, found.mean, found.largest_size) == (1, 1.0, 1.0)


def test_texts_are_cut_at_the_most_frequent_values(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_report_log, "MOST_VALUES", 2)
    carriers = ["AA"] * 4 + ["B6"] * 3 + ["UA", "DL"] + [None]
    rows: list[Row] = []
    for i, carrier in enumerate(carriers):
        other = "0" if carrier == "B6" and i == 4 else "1"
        rows += both(f"r{i}", features={"carrier": carrier}, theirs={"prediction": other})
    bench.predictions(*rows)
    assert slices(bench, "carrier") == {"AA": (4, 4), "B6": (3, 2), "(other values)": (2, 2), "(null)": (1, 1)}


def test_numbers_are_cut_at_the_champions_quartiles_and_what_is_none_is_a_slice_of_its_own(bench: Bench) -> None:
    values = [*range(1, 101), None, None, math.nan, math.inf]
    rows: list[Row] = []
    for i, value in enumerate(values):
        other = "0" if value is None or (isinstance(value, int) and value > 75) else "1"
        rows += both(f"r{i}", features={"delay": value}, theirs={"prediction": other})
    bench.predictions(*rows)
    bench.predictions(*(row(f"alone{i}", 1.0, features={"delay": 1000.0 + i}) for i in range(4)))
    assert slices(bench, "delay") == {
        "1 to 26": (26, 26),
        "27 to 52": (26, 26),
        "53 to 78": (26, 23),
        "79 to 100": (22, 0),
        "(null)": (2, 0),
        "(not finite)": (2, 2),
    }


def test_a_flag_has_one_slice_for_each_of_its_values(bench: Bench) -> None:
    rows: list[Row] = []
    for i in range(100):
        rows += both(f"r{i}", features={"weekend": float(i < 3), "same": 7.0})
    bench.predictions(*rows)
    assert slices(bench, "weekend") == {"0": (97, 97), "1": (3, 3)}
    assert slices(bench, "same") == {"7": (100, 100)}


def test_the_columns_are_bounded_and_those_left_out_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_report_log, "MOST_COLUMNS", 2)
    bench.predictions(*both("a", features={"b": 1.0, "a": "x", "c": 2.0}))
    found = pairs(bench)
    assert ({each.feature for each in found.slices}, found.columns) == ({"a", "b"}, 2)
    assert found.columns_left_out == ("c",)
    assert "Not looked at, for the bound on columns: c." in write(bench)[2]


@pytest.mark.parametrize(
    "name", ['q"uote', "{predictions}", "a b", "%s", "$version", "$tolerance", "score", "{", "x;--"]
)
def test_any_name_of_an_input_is_looked_at(bench: Bench, name: str) -> None:
    bench.predictions(*both("a", features={name: 1.0}))
    assert slices(bench, name) == {"1": (1, 1)}


def test_an_input_that_older_files_lack_is_null_there(bench: Bench) -> None:
    bench.predictions(*both("a"))
    bench.predictions(*both("b", features={"new": "x"}))
    assert slices(bench, "new") == {"x": (1, 1), "(null)": (1, 1)}


# --- the worst slices


def test_a_tiny_slice_does_not_come_first_by_chance() -> None:
    def rated(name: str, agreed: int, of: int) -> RatedSlice:
        return RatedSlice("f", name, wilson(agreed, of), below_average=False)

    found = worst_slices(
        [rated("lucky", 1000, 1000), rated("small", 43, 50), rated("tiny", 0, 49), rated("bad", 880, 1000)], 2099
    )
    assert [each.value for each in found] == ["bad", "small", "lucky"]


def test_a_slice_that_holds_all_pairs_is_none_of_the_worst() -> None:
    everything = RatedSlice("f", "7", wilson(90, 100), below_average=False)
    assert worst_slices([everything], 100) == []


def test_the_worst_slice_is_named_with_its_numbers(bench: Bench) -> None:
    rows: list[Row] = []
    for i in range(400):
        carrier = "AA" if i % 4 else "HA"
        other = "0" if carrier == "HA" and i % 8 else "1"
        rows += both(f"r{i}", i / 10, features={"carrier": carrier}, theirs={"prediction": other})
    bench.predictions(*rows)
    result, document, page = write(bench)
    assert document["worst_slices"][0]["value"] == "HA"
    assert document["worst_slices"][0]["agreement"] | {"low": 0, "high": 0} == {
        "count": 50, "of": 100, "rate": 0.5, "low": 0, "high": 0,
    }  # fmt: skip
    assert "worst where carrier is HA (50.00% of 100)" in result.reason
    assert "Exploratory: 2 slices of 1 inputs were looked at" in page
    assert result.metrics["pairs_worst_slice_agreement"] == 0.5


def test_slices_are_not_called_worse_than_the_rest_without_proof(bench: Bench) -> None:
    rows: list[Row] = []
    for i in range(200):
        other = "0" if i in (1, 3, 5, 6) else "1"
        rows += both(f"r{i}", features={"carrier": "AA" if i % 2 else "HA"}, theirs={"prediction": other})
    bench.predictions(*rows)
    result, document, page = write(bench)
    assert [each["below_average"] for each in document["worst_slices"]] == [False, False]
    assert "worst where" not in result.reason
    assert "No slice&#x27;s interval is wholly below" in page


# --- what is written


def test_the_main_numbers_are_on_the_page_and_in_the_metrics(bench: Bench) -> None:
    rows: list[Row] = []
    for i in range(10):
        rows += both(f"r{i}", unit_id="u", theirs={"prediction": "0" if i == 0 else "1"})
    bench.predictions(*rows)
    bench.predictions(row("alone", 3.0))
    result, document, page = write(bench)
    assert (result.state, document["state"]) == ("ok", "ok")
    assert result.reason == "9 of 10 pairs agree (90.00%, 59.58% to 98.21%); 1 have one answer only"
    assert result.metrics["pairs_agreement"] == 0.9
    assert (result.metrics["pairs_paired"], result.metrics["pairs_dropped"]) == (10, 1)
    assert "10, of 1 units" in page
    assert document["challenger_failed"] == {"error": 0, "timeout": 0}


@pytest.mark.parametrize("rows", [[], [row("alone")], [row("a", status="error"), row("a", 0.0, "challenger")]])
def test_without_a_pair_the_report_is_missing_and_no_rate_is_zero(bench: Bench, rows: list[Row]) -> None:
    if rows:
        bench.predictions(*rows)
    result, document, page = write(bench)
    assert result.state == "missing"
    assert result.reason.startswith("no pairs: of ")
    assert document["agreement"]["rate"] is None
    assert "pairs_agreement" not in result.metrics
    assert "pairs_challenger_failed" not in result.metrics
    assert "none yet" in page


def test_where_a_sample_is_mirrored_the_drops_are_not_guessed(bench: Bench) -> None:
    bench.predictions(*both("a"), row("alone", 3.0))
    result, document, page = write(bench, rollout(mirror_percent=20.0))
    assert document["dropped"] is None
    assert "pairs_dropped" not in result.metrics
    assert "not known from the log" in page
    assert "20 % of the requests were sampled for mirroring, and the log does not say which" in page


def test_answers_agree_within_the_gates_tolerance(bench: Bench) -> None:
    bench.predictions(*both("a", ours={"prediction": "1"}, theirs={"prediction": "1.4"}))
    assert write(bench)[1]["agreement"]["count"] == 0
    _, document, page = write(bench, rollout(tolerance=0.5))
    assert (document["agreement"]["count"], document["tolerance"]) == (1, 0.5)
    assert "differ by at most 0.5" in page


def test_names_and_values_are_no_markup(bench: Bench) -> None:
    evil = "<script>alert(1)</script>"
    rows = [each for i in range(60) for each in both(f"r{i}", features={evil: evil if i % 60 else "x"})]
    bench.predictions(*rows, *both("z", features={evil: evil}, theirs={"prediction": evil}))
    page = write(bench)[2]
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3


def test_a_log_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    table_path(tmp_path / "log", "delays", "predictions").mkdir(parents=True)
    with pytest.raises(LogReadError):
        pairs(Bench(tmp_path / "log"))


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -0.1])
def test_a_tolerance_that_lets_everything_pass_is_refused(bench: Bench, tolerance: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        pairs(bench, tolerance)


def test_slices_add_up_to_the_pairs(bench: Bench) -> None:
    dice = random.Random(5)
    rows: list[Row] = []
    for i in range(300):
        features = {"n": dice.choice([None, dice.gauss(0, 1)]), "t": dice.choice(["a", "b", None])}
        rows += both(f"r{i}", i / 10, features=features, theirs={"prediction": dice.choice("01")})
    bench.predictions(*rows)
    found = pairs(bench)
    for feature in ("n", "t"):
        mine = [each for each in found.slices if each.feature == feature]
        assert (sum(s.pairs for s in mine), sum(s.agreed for s in mine)) == (found.paired, found.agreed)
        assert Slice(feature, "(null)", 0, 0).value in {s.value for s in mine}
