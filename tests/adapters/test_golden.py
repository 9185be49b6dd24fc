"""Golden requests from real Delta tables and from files."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.log_kinds import another

from model_rollouts.adapters.golden import LoggedRequests, load_file, save_file
from model_rollouts.adapters.log_places import LogRoot, log_appender
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.core.errors import NotReadyError, PlanError
from model_rollouts.core.golden import GoldenCase
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.signature import Signature
from model_rollouts.ports import ModelVersion

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
INPUTS = (
    ("distance", "double"),
    ("carrier", "string"),
    ("hour", "long"),
    ("seats", "integer"),
    ("night", "boolean"),
    ("at", "datetime"),
    ("photo", "binary"),
    ("wind", "float"),
)
FEATURES = {
    "distance": 733.5,
    "carrier": "UA",
    "hour": 9,
    "seats": 180,
    "night": True,
    "at": "2026-03-01T09:30:00.000000",
    "photo": "aGVsbG8=",
    "wind": 3.25,
}


class OneVersion:
    """Stands in for the registry: one version with the inputs that the test is about."""

    def __init__(self, inputs: Sequence[tuple[str, str]] | None, optional: Sequence[str] = ()) -> None:
        self.version = ModelVersion("delays", "3", inputs=inputs and tuple(inputs), optional=frozenset(optional))

    def resolve(self, model: str, version_or_alias: str) -> ModelVersion:
        assert (model, version_or_alias) == ("delays", "champion")
        return self.version

    def set_roles(self, model: str, roles: Any) -> None:
        raise AssertionError("golden requests move nothing")

    def tag(self, model: str, version: str, tags: Any) -> None:
        raise AssertionError("golden requests move nothing")


class Bench:
    """A log with a writer at hand."""

    def __init__(self, root: LogRoot) -> None:
        self.root = root
        self.writer = log_appender(root, "g1")
        self.commits = 0

    def log(self, *rows: dict[str, Any], model: str = "delays") -> None:
        self.commits += 1
        assert self.writer.append(model, "predictions", rows, self.commits)

    def recorded(
        self,
        n: int = 10,
        inputs: Sequence[tuple[str, str]] | None = INPUTS,
        optional: Sequence[str] = (),
        now: datetime = NOW,
    ) -> list[GoldenCase]:
        return LoggedRequests(self.root, OneVersion(inputs, optional)).recorded("delays", "champion", n, now)


@pytest.fixture
def bench(log_root: LogRoot) -> Bench:
    return Bench(log_root)


def row(
    request_id: str, features: dict[str, Any] | None = None, /, *, ago: float = 60.0, **changes: Any
) -> dict[str, Any]:
    """A champion's answer, `ago` seconds before NOW."""
    return {
        "request_id": request_id,
        "ts": NOW - timedelta(seconds=ago),
        "model": "delays",
        "version": "3",
        "arm": "champion",
        "served": True,
        "status": "ok",
        "latency_ms": 3.5,
        "prediction": "1",
        "score": 0.75,
        "gateway_id": "g1",
        "traffic_revision": 2,
        "features": FEATURES if features is None else features,
    } | changes


def test_a_logged_request_comes_back_with_the_types_of_its_signature(bench: Bench) -> None:
    bench.log(row("a"))
    assert bench.recorded() == [GoldenCase(FEATURES, "1", 0.75)]
    (case,) = bench.recorded()
    assert {name: type(value) for name, value in case.inputs.items()} == {
        name: type(value) for name, value in FEATURES.items()
    }  # 9.0 and 1.0 are equal to 9 and True, and would be refused
    Signature(tuple(Column(name, kind) for name, kind in INPUTS)).cast([case.inputs])


def test_only_good_answers_as_champion_become_golden(bench: Bench) -> None:
    bench.log(
        row("good", {"x": 1.0}),
        row("of the champion's cohort", {"x": 2.0}, cohort="champion", rollout_id="ro", stage=0),
        row("failed", {"x": 3.0}, status="error", prediction=None, score=None),
        row("empty", {"x": 4.0}, prediction=None),
        row("challenger", {"x": 5.0}, arm="challenger", cohort="challenger"),
        row("in the challenger's place", {"x": 6.0}, cohort="challenger"),
        row("other version", {"x": 7.0}, version="2"),
        row("later", {"x": 8.0}, ago=-1.0),
        row("too old", {"x": 9.0}, ago=8 * 86_400.0),
    )
    assert sorted(case.inputs["x"] for case in bench.recorded(inputs=[("x", "double")])) == [1.0, 2.0]


def test_the_same_request_is_asked_once(bench: Bench) -> None:
    bench.log(*(row(f"r{i}", {"x": float(i % 3)}) for i in range(30)))
    assert len(bench.recorded(inputs=[("x", "double")])) == 3


def test_the_sample_is_the_same_each_time_and_no_larger_than_asked_for(bench: Bench) -> None:
    bench.log(*(row(f"r{i}", {"x": float(i)}, prediction=str(i)) for i in range(50)))
    first = bench.recorded(7, [("x", "double")])
    assert len(first) == 7
    assert bench.recorded(7, [("x", "double")]) == first
    assert all(case.expected == str(int(case.inputs["x"])) for case in first)


@pytest.mark.parametrize(("n", "oldest"), [(2, 3_600.0), (3, 86_400.0), (4, 7 * 86_400.0)])
def test_older_requests_are_read_only_when_newer_ones_are_too_few(bench: Bench, n: int, oldest: float) -> None:
    ages = [600.0, 1_200.0, 40_000.0, 300_000.0]
    bench.log(*(row(f"r{age:g}", {"x": age}, ago=age) for age in ages))
    found = [case.inputs["x"] for case in bench.recorded(n, [("x", "double")])]
    assert sorted(found) == [age for age in ages if age <= oldest]


def test_optional_inputs_without_a_value_are_left_out_and_others_are_null(bench: Bench) -> None:
    bench.log(row("a", {"x": None, "n": None, "t": "late", "d": None}), row("b", {"x": 1.5, "n": 4, "t": None}))
    inputs = [("x", "double"), ("n", "long"), ("t", "string"), ("never", "double")]
    found = bench.recorded(inputs=inputs, optional=["n", "never"])
    assert sorted((dict(case.inputs) for case in found), key=str) == [
        {"x": 1.5, "n": 4, "t": None},
        {"x": None, "t": "late"},
    ]


@pytest.mark.parametrize("value", [2.5, float(2**53), None, float("inf")])
def test_a_request_that_the_log_can_not_tell_is_not_asked(bench: Bench, value: float | None) -> None:
    bench.log(row("odd", {"n": value}), row("good", {"n": 3}))
    assert [case.inputs for case in bench.recorded(inputs=[("n", "long")])] == [{"n": 3}]
    alone = Bench(another(bench.root))
    alone.log(row("odd", {"n": value, "x": 1.0}))
    with pytest.raises(NotReadyError, match=r"none of 1 logged requests .*input n \(long\) "):
        alone.recorded(inputs=[("n", "long"), ("x", "double")])


def test_older_requests_will_do_where_no_newer_one_can_be_told(bench: Bench) -> None:
    bench.log(row("odd", {"n": 2.5}), row("good", {"n": 3}, ago=40_000.0))
    assert [case.inputs for case in bench.recorded(inputs=[("n", "long")])] == [{"n": 3}]


@pytest.mark.parametrize("value", [2.0, -1.0])
def test_a_truth_value_that_is_none_is_not_asked(bench: Bench, value: float) -> None:
    bench.log(row("odd", {"night": value}))
    with pytest.raises(NotReadyError, match="must be 0 or 1"):
        bench.recorded(inputs=[("night", "boolean")])


def test_text_where_numbers_were_logged_is_told(bench: Bench) -> None:
    bench.log(row("a", {"x": 1.0}))
    with pytest.raises(NotReadyError, match=r"input x \(string\) is 1.0 in the log, must be text"):
        bench.recorded(inputs=[("x", "string")])


def test_a_score_that_is_no_number_is_not_compared(bench: Bench) -> None:
    bench.log(row("a", {"x": 1.0}, score=float("nan")), row("b", {"x": 2.0}, score=None))
    assert [case.score for case in bench.recorded(inputs=[("x", "double")])] == [None, None]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "has no signature with named inputs"),
        ([], "has no signature with named inputs"),
        ([("pixels", "float64")], r"types that the log can't hold: pixels \(float64\)"),
        ([("tags", "Array(string)")], r"tags \(Array\(string\)\)"),
        ([("x", "double"), ("y", "double")], r"input y \(double\) is not in the log.* give a golden_file"),
    ],
)
def test_inputs_that_can_not_be_made_again_are_an_error_and_no_empty_list(
    bench: Bench, inputs: Sequence[tuple[str, str]] | None, said: str
) -> None:
    bench.log(row("a", {"x": 1.0}))
    with pytest.raises(NotReadyError, match=said):
        bench.recorded(inputs=inputs)


def test_no_log_means_no_requests(bench: Bench) -> None:
    assert bench.recorded() == []
    bench.log(row("a", ago=30 * 86_400.0))
    assert bench.recorded() == []


def test_how_many_is_bounded(bench: Bench) -> None:
    for n in (0, 10_001):
        with pytest.raises(ValueError, match=f"n is {n}, must be between 1 and 10000"):
            bench.recorded(n)


def test_names_of_inputs_may_hold_anything(bench: Bench) -> None:
    features = {'a"b': 1.0, "{x}": 2.0, "größe ;--": 3.0}
    bench.log(row("a", features))
    assert bench.recorded(inputs=[(name, "double") for name in features])[0].inputs == features


def test_inputs_are_those_of_the_version_in_a_real_registry(
    bench: Bench, mlflow_server: str, registered_model: str
) -> None:
    registry = MlflowRegistry(mlflow_server)
    registry.set_roles(registered_model, {"champion": "2"})
    features = {"distance": 733, "carrier": "UA", "hour": None}
    bench.log(row("a", features, version="2", model=registered_model), model=registered_model)
    golden = LoggedRequests(bench.root, registry)
    (case,) = golden.recorded(registered_model, "champion", 5, NOW)
    assert case == GoldenCase({"distance": 733.0, "carrier": "UA"}, "1", 0.75)
    with pytest.raises(NotReadyError, match=f"version 3 of {registered_model} has no signature"):
        golden.recorded(registered_model, "3", 5, NOW)


# --- files


def test_what_was_saved_is_loaded(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "golden" / "delays.jsonl"
    cases = [
        GoldenCase({"x": 1, "t": "späť\u2028"}, "1", 0.5, 0.01, must=True),
        GoldenCase({"x": None}),
        GoldenCase({"x": [1, 2]}, score=2.0),
    ]
    save_file(file, cases)
    assert load_file(file) == cases
    assert LoggedRequests(bench.root, OneVersion(INPUTS)).load_file(file) == cases
    assert [path.name for path in file.parent.iterdir()] == ["delays.jsonl"]


def test_a_case_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    save_file(file, [GoldenCase({"x": 1}, "1")])
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_file(file, [GoldenCase({"x": 2}, "1"), GoldenCase({"x": float("nan")}, "1")])
    assert load_file(file) == [GoldenCase({"x": 1}, "1")]


@pytest.mark.parametrize(
    ("written", "text"),
    [(1, "1"), (1.0, "1"), (0.25, "0.25"), (True, "1"), (False, "0"), ("late", "late"), ([0.1], "[0.1]")],
)
def test_an_expected_answer_may_be_written_as_people_do(tmp_path: Path, written: object, text: str) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text("\ufeff\n" + json.dumps({"inputs": {"x": 1}, "expected": written}) + "\r\n\n", encoding="utf-8")
    assert load_file(file) == [GoldenCase({"x": 1}, text)]


def test_every_wrong_line_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    wrong = [
        '{"inputs": {"x": 1}}',
        "{",
        '{"inputs": {}}',
        '{"input": {"x": 1}}',
        '{"inputs": {"x": 1}, "expcted": "1"}',
        '{"inputs": {"x": NaN}}',
        '{"inputs": {"x": 1}, "must": true}',
        '{"inputs": {"x": 1}, "expected": "1", "must": "yes"}',
        "[1]",
        "[" * 100_000,
    ]
    file.write_text("\n".join(wrong))
    with pytest.raises(PlanError) as caught:
        load_file(file)
    message = str(caught.value)
    assert "line 1:" not in message
    assert all(f"line {number}: " in message for number in range(2, 11))
    assert "unknown expcted" in message
    assert "NaN is no JSON" in message


@pytest.mark.parametrize(
    ("content", "said"), [(None, "can't be read"), (b"", "has 0 requests"), (b"\xff", "can't be read")]
)
def test_a_file_without_requests_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "golden.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PlanError, match=said):
        load_file(file)


def test_a_file_of_too_many_requests_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text('{"inputs": {"x": 1}}\n' * 10_001)
    with pytest.raises(PlanError, match="has 10001 requests, must have between 1 and 10000"):
        load_file(file)
