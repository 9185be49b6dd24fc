"""What a model answers in the Open Inference Protocol, and what is said of the model."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.open_inference_bodies import one

from model_rollouts.gateway.answers import Answer, split
from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.open_inference import decode
from model_rollouts.gateway.open_inference_answers import encode
from model_rollouts.gateway.open_inference_model import Interface, Tensor


def reply(output: Any, rows: int, outputs: tuple[str, ...] | None = None, model: Interface | None = None) -> Any:
    answers = split(output, rows)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    good = [answer for answer in answers if isinstance(answer, Answer)]
    return json.loads(encode(good, "flights", "3", "r-1", outputs, model or Interface()))


def tensor(name: str, shape: list[int], datatype: str, data: list[Any], content_type: str) -> dict[str, Any]:
    return one(name, shape, datatype, data, content_type)


ANSWERS: dict[str, tuple[Any, str, list[dict[str, Any]]]] = {
    "whole numbers": (np.array([1, -2]), "np", [tensor("output-0", [2, 1], "INT64", [1, -2], "np")]),
    "large numbers": ([2**64 - 1, 0], "np", [tensor("output-0", [2, 1], "UINT64", [2**64 - 1, 0], "np")]),
    "numbers": ([0.5, 1], "np", [tensor("output-0", [2, 1], "FP64", [0.5, 1], "np")]),
    "booleans": ([True, False], "np", [tensor("output-0", [2, 1], "BOOL", [True, False], "np")]),
    "texts": (["é", "on time"], "str", [tensor("output-0", [2, 1], "BYTES", ["é", "on time"], "str")]),
    "probabilities": (
        np.array([[0.25, 0.75], [1.0, 0.0]]),
        "np",
        [tensor("output-0", [2, 2], "FP64", [0.25, 0.75, 1.0, 0.0], "np")],
    ),
    "a deeper array": (
        np.arange(8).reshape(2, 2, 2),
        "np",
        [tensor("output-0", [2, 2, 2], "INT64", list(range(8)), "np")],
    ),
    "a Series": (pd.Series([1.5, 2.0]), "pd", [tensor("output-0", [2, 1], "FP64", [1.5, 2.0], "np")]),
    "a table": (
        pd.DataFrame({"prediction": ["late", "early"], "score": [0.5, 0.25], "note": [math.nan, 1.0]}),
        "pd",
        [
            tensor("prediction", [2, 1], "BYTES", ["late", "early"], "str"),
            tensor("score", [2, 1], "FP64", [0.5, 0.25], "np"),
            tensor("note", [2, 1], "FP64", [None, 1.0], "np"),
        ],
    ),
    "lists of other lengths": (
        [[1], [2, 3]],
        "pd",
        [tensor("output-0", [2, 1], "BYTES", ["[1]", "[2, 3]"], "pd_json")],
    ),
    "records of other keys": (
        [{"a": 1}, {"b": 2}],
        "pd",
        [tensor("output-0", [2, 1], "BYTES", ['{"a": 1}', '{"b": 2}'], "pd_json")],
    ),
    "numbers and texts": ([1, "a"], "pd", [tensor("output-0", [2, 1], "BYTES", ["1", '"a"'], "pd_json")]),
    "numbers and booleans": ([1, True], "pd", [tensor("output-0", [2, 1], "BYTES", ["1", "true"], "pd_json")]),
    "an integer that no double holds": (
        [2**53 + 1, 0.5],
        "pd",
        [tensor("output-0", [2, 1], "BYTES", ["9007199254740993", "0.5"], "pd_json")],
    ),
    "empty lists": ([[], []], "pd", [tensor("output-0", [2, 1], "BYTES", ["[]", "[]"], "pd_json")]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_become_tensors(name: str) -> None:
    output, content_type, tensors = ANSWERS[name]
    assert reply(output, 2) == {
        "model_name": "flights",
        "model_version": "3",
        "id": "r-1",
        "parameters": {"content_type": content_type},
        "outputs": tensors,
    }


def test_an_infinite_number_in_a_record_stays_one() -> None:
    (found,) = reply(pd.DataFrame({"prediction": [1.0], "limit": [math.inf]}), 1, ("limit",))["outputs"]
    assert found == tensor("limit", [1, 1], "BYTES", ["Infinity"], "pd_json")


def test_outputs_come_in_the_order_that_they_are_asked_for_and_others_are_refused() -> None:
    frame = pd.DataFrame({"prediction": ["late"], "score": [0.5]})
    assert [t["name"] for t in reply(frame, 1, ("score", "prediction"))["outputs"]] == ["score", "prediction"]
    with pytest.raises(BadRequestError, match="no output 'late'; it has prediction, score"):
        reply(frame, 1, ("late",))


def test_one_of_several_numbered_columns_keeps_its_number() -> None:
    probabilities = pd.DataFrame(np.array([[0.25, 0.75], [1.0, 0.0]]))  # as predict_proba gives them: columns 0 and 1
    for name, data in (("0", [0.25, 1.0]), ("1", [0.75, 0.0])):
        assert reply(probabilities, 2, (name,))["outputs"] == [tensor(name, [2, 1], "FP64", data, "np")]
    declared = Interface(outputs=(Tensor("late", "FP64", (-1, 2)),))
    assert [t["name"] for t in reply(probabilities, 2, ("0",), declared)["outputs"]] == ["0"]
    assert [t["name"] for t in reply(probabilities, 2)["outputs"]] == ["0", "1"]
    with pytest.raises(BadRequestError, match="no output '0'; it has output-0"):
        reply(pd.Series([1.5, 2.0]), 2, ("0",))


def test_the_only_output_has_the_name_of_the_signature() -> None:
    declared = Interface(outputs=(Tensor("delay", "FP64", (-1, 1)),))
    assert reply([1.5], 1, ("delay",), declared)["outputs"][0]["name"] == "delay"


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS: dict[str, Any] = {
    "FP64": NUMBERS,
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(codec="utf-8")),
}


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(sorted(SCALARS)))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    size = math.prod(shape)
    return datatype, shape, draw(st.lists(SCALARS[datatype], min_size=size, max_size=size))


def read(sent: dict[str, Any]) -> Any:
    kind = Interface("tensor", (Tensor("x", sent["datatype"], ()),))
    return decode(json.dumps({"inputs": [sent]}).encode(), None, None, kind, 100, 100_000)[0].content


@given(arrays())
def test_what_a_model_that_echoes_is_sent_comes_back(sent: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, data = sent
    content = read(one("x", shape, datatype, data))
    assert content == np.array(data, dtype=object).reshape(shape).tolist()
    answers = [Answer(json.dumps(row), "") for row in content]
    (back,) = json.loads(encode(answers, "m", "1", "r", None, Interface()))["outputs"]
    assert (back["datatype"], back["shape"], back["data"]) == (datatype, shape, data)


@given(arrays())
def test_nested_and_flat_data_are_the_same(sent: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, data = sent
    nested = np.array(data, dtype=object).reshape(shape).tolist()
    assert read(one("x", shape, datatype, nested)) == read(one("x", shape, datatype, data))
