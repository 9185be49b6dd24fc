"""A challenger from a real MLflow that scores logged requests in this process."""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from tests.offline_past import logged_model, register

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.adapters.offline_scorer import PyfuncScorer
from model_rollouts.core.errors import NotReadyError
from model_rollouts.offline import LoggedRequest, OfflineAnswer
from model_rollouts.ports import ModelVersion


def requests(*numbers: int, **changes: Any) -> list[LoggedRequest]:
    features = {"f_x": 0.5, "f_carrier": "UA", "f_hour": None}
    return [LoggedRequest(f"r{n}", None, 7, features | {"f_n": float(n)} | changes) for n in numbers]


def scorer_of(server: str, **limits: Any) -> PyfuncScorer:
    config = {name: limits.pop(name) for name in [*limits] if name.endswith("_every")}
    name = register(server, logged_model(server, **config))
    return PyfuncScorer(server, MlflowRegistry(server, sync_stages=False).resolve(name, "1"), **limits)


class _Model:
    """In the place of a loaded version: records what it is called with."""

    def __init__(self, predict: Any) -> None:
        self.calls: list[pd.DataFrame] = []
        self._predict = predict

    def predict(self, frame: pd.DataFrame) -> Any:
        self.calls.append(frame)
        return self._predict(frame)


def scorer_with(predict: Any, inputs: Sequence[tuple[str, str]] = (), **limits: Any) -> tuple[PyfuncScorer, _Model]:
    named = tuple(inputs) or (("x", "double"), ("n", "long"), ("carrier", "string"), ("hour", "long"))
    optional = frozenset({"hour"}) & {name for name, _ in named}
    scorer = PyfuncScorer("http://127.0.0.1:9", ModelVersion("m", "2", inputs=named, optional=optional), **limits)
    scorer._model = model = _Model(predict)
    return scorer, model


def outcome(answers: Sequence[OfflineAnswer]) -> list[tuple[str, str | None]]:
    return [(answer.status, answer.prediction) for answer in answers]


def test_answers_are_canonical_texts_in_the_order_of_the_requests(mlflow_server: str) -> None:
    with scorer_of(mlflow_server, rows_per_call=2) as scorer:
        answers = scorer.score(requests(1, 2) + requests(3, f_x=-1.0) + requests(4, f_hour=5.0) + requests(5, f_x=-2.0))
    assert outcome(answers) == [("ok", "1"), ("ok", "1"), ("ok", "0"), ("ok", "1"), ("ok", "0")]
    assert all(answer.latency_ms > 0 and answer.asked for answer in answers)


@pytest.mark.parametrize("way", ["raise_every", "exit_every"])
def test_a_row_that_fails_fails_alone(mlflow_server: str, way: str) -> None:
    with scorer_of(mlflow_server, **{way: 3}) as scorer:
        answers = scorer.score(requests(1, 2, 3, 4, 6))
    assert outcome(answers) == [("ok", "1"), ("ok", "1"), ("error", None), ("ok", "1"), ("error", None)]
    assert answers[2].error in ("KeyError: 'carrier'", "SystemExit: enough")


def test_a_row_that_hangs_times_out_alone(mlflow_server: str) -> None:
    with scorer_of(mlflow_server, hang_every=3, call_seconds=5.0, row_seconds=0.5) as scorer:
        answers = scorer.score(requests(1, 2, 3, 4))
    assert outcome(answers) == [("ok", "1"), ("ok", "1"), ("timeout", None), ("ok", "1")]
    assert answers[2].error == "no answer within 0.5 s"
    assert answers[2].latency_ms >= 500


def test_a_model_that_keeps_hanging_is_asked_no_more() -> None:
    release = threading.Event()
    scorer, model = scorer_with(lambda _: release.wait(), rows_per_call=1, row_seconds=0.02)
    answers = scorer.score(requests(*range(20)))
    release.set()
    assert {status for status, _ in outcome(answers)} == {"timeout"}
    assert len(model.calls) == 8
    assert answers[-1].error == "not tried: 8 calls of the model hang"


def test_calls_that_ended_late_hang_no_more() -> None:
    def slow(frame: pd.DataFrame) -> list[int]:
        time.sleep(0.05)
        return [1] * len(frame)

    scorer, model = scorer_with(slow, rows_per_call=1, row_seconds=0.01)
    for _ in range(3):
        scorer.score(requests(1, 2, 3))
        for thread in scorer._hanging:
            thread.join()
    assert len(model.calls) == 9


def test_a_slow_model_is_no_failing_one() -> None:
    def slow(frame: pd.DataFrame) -> list[int]:
        time.sleep(0.02 * len(frame))
        return [1] * len(frame)

    scorer, model = scorer_with(slow, rows_per_call=32, call_seconds=0.3, row_seconds=5.0)
    assert set(outcome(scorer.score(requests(*range(64))))) == {("ok", "1")}
    together = [len(frame) for frame in model.calls if len(frame) > 1]
    assert together[0] == 32
    assert together[1] == 16


def test_an_error_of_the_model_that_says_timeout_is_an_error() -> None:
    def refuse(_: pd.DataFrame) -> Any:
        raise TimeoutError("the feature store did not answer")

    scorer, _ = scorer_with(refuse)
    (answer,) = scorer.score(requests(1))
    assert (answer.status, answer.error) == ("error", "TimeoutError: the feature store did not answer")


class _EndedError(BaseException):
    """As a signal, or Airflow's time limit, ends a task."""


def test_what_ends_the_task_is_no_failure_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _ = scorer_with(lambda frame: [1] * len(frame))

    def end(*_: Any) -> None:
        raise _EndedError

    monkeypatch.setattr(threading.Thread, "join", end)
    with pytest.raises(_EndedError):
        scorer.score(requests(1, 2))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "must be an array, Series, DataFrame or list"),
        ([1, 2], "the model returned 2 answers, must be 1"),
        ([], "the model returned 0 answers, must be 1"),
        ([math.nan], "not a number: prediction is nan"),
    ],
)
def test_output_that_is_no_answer_is_an_error_of_the_row(output: Any, said: str) -> None:
    scorer, model = scorer_with(lambda _: output)
    (answer,) = scorer.score(requests(1))
    assert (answer.status, answer.prediction) == ("error", None)
    assert said in str(answer.error)
    assert len(model.calls) == 1


def test_a_request_whose_inputs_are_not_in_the_log_is_not_asked() -> None:
    scorer, model = scorer_with(lambda frame: [1] * len(frame))
    answers = scorer.score(requests(1) + requests(2, f_n=None) + requests(3, f_n=2.5))
    assert [answer.asked for answer in answers] == [True, False, False]
    assert answers[1].error == "not asked: input n (long) has no value in the log and must have one"
    assert [len(frame) for frame in model.calls] == [1]


def test_the_model_gets_the_signatures_types() -> None:
    inputs = (
        ("whole", "integer"),
        ("n", "long"),
        ("small", "float"),
        ("x", "double"),
        ("truth", "boolean"),
        ("carrier", "string"),
        ("day", "datetime"),
        ("photo", "binary"),
    )
    scorer, model = scorer_with(lambda frame: [1] * len(frame), inputs)
    features = {
        "f_whole": 3.0,
        "f_n": 2.0**40,
        "f_small": 0.5,
        "f_x": 0.1,
        "f_truth": 1.0,
        "f_carrier": "UA",
        "f_day": "2013-01-01T17:00:00.000001",
        "f_photo": "aGk=",
    }
    nulls = dict.fromkeys(["f_small", "f_x", "f_carrier", "f_day"])
    scorer.score([LoggedRequest("r1", None, 7, features), LoggedRequest("r2", None, 7, features | nulls)])
    (frame,) = model.calls
    kinds = ["int32", "int64", "float32", "float64", "bool", "object", "datetime64[ns]", "object"]
    assert [str(kind) for kind in frame.dtypes] == kinds
    assert frame.iloc[0].tolist() == [3, 2**40, 0.5, 0.1, True, "UA", pd.Timestamp("2013-01-01 17:00:00.000001"), b"hi"]
    assert frame.iloc[1].isna().tolist() == [False, False, True, True, False, True, True, False]


def test_an_optional_input_that_only_some_have_keeps_requests_apart() -> None:
    scorer, model = scorer_with(lambda frame: [len(frame.columns)] * len(frame))
    answers = scorer.score(requests(1) + requests(2, f_hour=7.0) + requests(3))
    assert outcome(answers) == [("ok", "3"), ("ok", "4"), ("ok", "3")]
    assert [len(frame) for frame in model.calls] == [2, 1]
    assert model.calls[1]["hour"].dtype == "int64"


def test_a_version_that_can_not_be_loaded_is_named(mlflow_server: str) -> None:
    version = ModelVersion("nothing", "2", inputs=(("x", "double"),))
    with (
        PyfuncScorer(mlflow_server, version) as scorer,
        pytest.raises(NotReadyError, match="version 2 of nothing can't be loaded"),
    ):
        scorer.score([LoggedRequest("r1", None, 7, {"f_x": 1.0})])


def test_a_version_that_fails_on_its_own_example_is_not_asked_more(mlflow_server: str, tmp_path: Path) -> None:
    code = tmp_path / "picky.py"
    code.write_text(
        "import mlflow\n"
        "class Picky(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        raise ValueError('never')\n"
        "mlflow.models.set_model(Picky())\n"
    )
    with mlflow_at(mlflow_server), mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            signature=ModelSignature(inputs=Schema([ColSpec(DataType.double, "x")])),
            input_example=pd.DataFrame({"x": [1.0]}),
            pip_requirements=["mlflow"],
        )
    version = ModelVersion(register(mlflow_server, info), "1", inputs=(("x", "double"),))
    with (
        PyfuncScorer(mlflow_server, version) as scorer,
        pytest.raises(NotReadyError, match="fails on its own input example: ValueError: never"),
    ):
        scorer.score([LoggedRequest("r1", None, 7, {"f_x": 1.0})])
