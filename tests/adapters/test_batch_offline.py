"""A challenger that is asked for the requests of a team's own table."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_rollouts.adapters.batch_mapping import MappingError, load_mapping
from model_rollouts.adapters.batch_offline import BatchShadow, ShadowTerms, shadow_batch
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.mapped_log import MappedLog
from model_rollouts.adapters.paired_rows import FileRows, PairedLog, PairedRows
from model_rollouts.core.decision import Verdict
from model_rollouts.core.errors import NotReadyError, RolloutError
from model_rollouts.core.gates import Metric
from model_rollouts.offline import LoggedRequest, OfflineAnswer
from model_rollouts.ports import ModelVersion

START = datetime(2026, 5, 1, tzinfo=UTC)
END = START + timedelta(days=4)
NOW = END + timedelta(days=10)
VERSION = ModelVersion("late flights", "4", inputs=(("distance", "double"), ("carrier", "string")))
TERMS = ShadowTerms(0.98, None, timedelta(days=2), 200_000)
MAPPING = """
model: late flights
predictions:
  parquet: table.parquet
  columns: {request_id: id, ts: scored_at, version: model_version, prediction: late, score: p, unit_id: customer}
  features: {distance: km, carrier: carrier}
outcomes:
  columns: {request_id: id, ts: known_at, label: was_late}
"""


def late(km: float) -> bool:
    return km > 1000


def table(rows: int = 2_000) -> pa.Table:
    """The champion's answers alone; it is right in nine of ten."""
    dice = random.Random(5)
    made = []
    for at in range(rows):
        km, when = dice.gauss(1000, 100), START + at * (END - START) / rows
        made.append(
            {"id": at, "scored_at": when, "model_version": 3, "late": late(km), "p": dice.random(),
             "customer": at % 900, "km": km, "carrier": dice.choice(["UA", "AA", None]) if at else "UA",
             "known_at": when + timedelta(days=1),
             "was_late": late(km) != (dice.random() < 0.1)}
        )  # fmt: skip
    return pa.Table.from_pylist(made)


class Model:
    """Answers as `answer` says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[LoggedRequest], OfflineAnswer]) -> None:
        self.asked: list[LoggedRequest] = []
        self._answer = answer

    def score(self, requests: Sequence[LoggedRequest]) -> list[OfflineAnswer]:
        self.asked += requests
        return [self._answer(each) for each in requests]


def same(request: LoggedRequest) -> OfflineAnswer:
    return OfflineAnswer("ok", 1.0, str(int(late(request.features["f_distance"]))), 0.5)


def log_of(tmp_path: Path, rows: pa.Table, **changes: Any) -> MappedLog:
    pq.write_table(rows, tmp_path / "table.parquet")
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    return MappedLog(load_mapping(tmp_path / "mapping.yaml"), "3", "4", **{"answered": False} | changes)


def shadow(log: MappedLog, model: Model, out: Path, **changes: Any) -> BatchShadow:
    given = {"champion": "3", "period": (START, END), "terms": TERMS} | changes
    return shadow_batch(log, VERSION, model, given["champion"], given["period"], given["terms"], NOW, out)


def test_one_that_answers_the_same_passes_with_all_numbers(tmp_path: Path) -> None:
    model = Model(same)
    found = shadow(log_of(tmp_path, table()), model, tmp_path / "out")
    assert found.decision.verdict is Verdict.PASS, found.decision.reason
    assert (found.asked, found.unfit, len(model.asked)) == (2_000, 0, 2_000)
    metrics = found.result.metrics
    assert metrics["champion_requests"] == metrics["challenger_requests"] == 2_000
    assert metrics["stage_agreement"] == 1.0
    assert 0.85 < metrics["champion_accuracy"] == metrics["challenger_accuracy"] < 0.95
    assert [file.name for file in found.result.files] == ["comparison.json", "comparison.html", "comparison.csv"]
    assert {each.features["f_carrier"] for each in model.asked} == {"UA", "AA", None}


def test_one_that_answers_otherwise_is_found_out(tmp_path: Path) -> None:
    def otherwise(request: LoggedRequest) -> OfflineAnswer:
        wrong = int(request.request_id) % 8 == 0
        return OfflineAnswer("ok", 1.0, str(int(late(request.features["f_distance"]) != wrong)))

    found = shadow(log_of(tmp_path, table()), Model(otherwise), tmp_path / "out")
    assert found.decision.verdict is Verdict.INCONCLUSIVE
    assert "the objective is missed" in found.decision.reason
    assert found.result.metrics["stage_agreement"] == pytest.approx(7 / 8)
    assert found.result.metrics["challenger_accuracy"] < found.result.metrics["champion_accuracy"] - 0.05


def test_what_is_to_be_proven_is_what_was_asked_for(tmp_path: Path) -> None:
    def wrong(request: LoggedRequest) -> OfflineAnswer:
        other = int(request.request_id) % 8 == 0
        return OfflineAnswer("ok", 1.0, str(int(late(request.features["f_distance"]) != other)))

    terms = ShadowTerms(0.8, None, timedelta(days=2), 200_000)
    found = shadow(log_of(tmp_path, table()), Model(wrong), tmp_path / "out", terms=terms)
    gates = {gate.metric: gate.verdict for gate in found.decision.gates}
    assert gates[Metric.AGREEMENT] is Verdict.PASS
    assert gates[Metric.WRONG_RATE] is not Verdict.PASS  # it is worse by the labels, which a signal says
    assert found.decision.verdict is not Verdict.PASS, found.decision.reason


def test_numbers_agree_within_the_tolerance(tmp_path: Path) -> None:
    near = Model(lambda each: OfflineAnswer("ok", 1.0, str(int(late(each.features["f_distance"])) + 0.25)))
    log = log_of(tmp_path, table())
    agreed = []
    for tolerance in (None, 0.2, 0.3):
        terms = ShadowTerms(0.98, tolerance, timedelta(days=2), 200_000)
        agreed.append(shadow(log, near, tmp_path / "out", terms=terms).result.metrics["stage_agreement"])
    assert agreed == [0.0, 0.0, 1.0]


def test_failures_are_the_challengers_errors(tmp_path: Path) -> None:
    def fails(request: LoggedRequest) -> OfflineAnswer:
        return OfflineAnswer("error", 1.0, error="no") if int(request.request_id) % 4 == 0 else same(request)

    found = shadow(log_of(tmp_path, table()), Model(fails), tmp_path / "out")
    assert found.decision.verdict is Verdict.FAIL
    assert found.result.metrics["challenger_error_rate"] == 0.25
    assert found.result.metrics["champion_error_rate"] == 0.0


def test_requests_that_could_not_be_asked_never_pass(tmp_path: Path) -> None:
    def unfit(request: LoggedRequest) -> OfflineAnswer:
        if int(request.request_id) % 10 < 6:
            return OfflineAnswer("error", 0.0, error="not asked: no carrier", asked=False)
        return same(request)

    found = shadow(log_of(tmp_path, table()), Model(unfit), tmp_path / "out")
    assert (found.asked, found.unfit, found.why) == (800, 1_200, "not asked: no carrier")
    assert found.decision.verdict is Verdict.INCONCLUSIVE, found.decision.reason
    assert "1,200 more could not be" in found.decision.reason
    with pytest.raises(
        NotReadyError, match=r"none of the 2,000 requests could be asked, such as one that was not asked"
    ):
        shadow(
            log_of(tmp_path, table()), Model(lambda _: OfflineAnswer("error", 0.0, error="not asked: x", asked=False)),
            tmp_path / "out",
        )  # fmt: skip


def test_few_requests_prove_nothing(tmp_path: Path) -> None:
    found = shadow(log_of(tmp_path, table(60)), Model(same), tmp_path / "out")
    assert found.decision.verdict is Verdict.INCONCLUSIVE
    assert "all 60 logged requests of the champion are scored" in found.decision.reason


def test_no_more_than_asked_for_are_drawn_and_the_same_ones_again(tmp_path: Path) -> None:
    log, first, again = log_of(tmp_path, table()), Model(same), Model(same)
    terms = ShadowTerms(0.98, None, timedelta(days=2), 500)
    for model in (first, again):
        assert shadow(log, model, tmp_path / "out", terms=terms).asked == len(model.asked)
    assert 350 < len(first.asked) < 650
    assert first.asked == again.asked


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    log = log_of(tmp_path, table())
    later = (START + timedelta(days=365), END + timedelta(days=365))
    with pytest.raises(NotReadyError, match="version 3, the champion, has no request from 2027"):
        shadow(log, Model(same), tmp_path / "out", period=later)
    with pytest.raises(RolloutError, match="must begin before it ends"):
        shadow(log, Model(same), tmp_path / "out", period=(END, START))
    with pytest.raises(MappingError, match="has no row of version 4, the challenger"):
        log_of(tmp_path, table(), answered=True)
    other = table().set_column(2, "model_version", pa.array([7] * 2_000))
    with pytest.raises(MappingError, match="has no row of version 3, the champion"):
        log_of(tmp_path, other)


def test_rows_of_a_file_are_those_of_a_time_and_of_wanted_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    with PairedRows(file, {"f_x": pa.float64()}, {"model": "m", "stage": 0}) as out:
        out.write([{"ts": START + timedelta(seconds=at * 10), "request_id": str(at), "f_x": at / 2} for at in range(9)])
    rows = PairedLog(file, tmp_path).table("m", "predictions")

    def read(low: int, high: int, limit: int | None = None) -> list[dict[str, Any]]:
        times = (START + timedelta(seconds=low), START + timedelta(seconds=high))
        with rows.fetched(*times, lambda name: name in ("request_id", "f_x", "unit_id"), limit) as found:
            return [] if found is None else found.read_all().drop_columns(["ts"]).to_pylist()

    assert read(20, 39) == [
        {"request_id": "2", "unit_id": None, "f_x": 1.0},
        {"request_id": "3", "unit_id": None, "f_x": 1.5},
    ]
    assert len(read(0, 90, limit=4)) == 4
    assert read(100, 200) == []
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(LogReadError, match="can't be read"), FileRows(file).fetched(START, END, lambda _: True):
        pass
