"""A version whose answers are not what its signature says fails, before callers rely on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.mlflow_at import mlflow_at
from model_rollouts.gateway.answers import OutputError
from model_rollouts.gateway.loading import MlflowLoader, WarmUpError
from model_rollouts.gateway.output_check import output_check_of

FRAME = pd.DataFrame({"prediction": [1, 0], "score": [0.5, 0.25]})


def check(*columns: Any) -> Any:
    """The check of a version with these output columns, or with an array of a type and shape."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    if isinstance(columns[0], tuple) and isinstance(columns[0][1], tuple):
        outputs = Schema([TensorSpec(np.dtype(columns[0][0]), columns[0][1])])
    else:
        outputs = Schema([ColSpec(kind, name) for kind, name in columns])
    signature = ModelSignature(Schema([ColSpec("double", "x")]), outputs)
    return output_check_of(Model(signature=signature))


ARRAY, PROBABILITIES = (("float64", (-1,)),), (("float64", (-1, 2)),)
NUMBER, TEXT, TABLE = (("long", None),), (("string", None),), (("long", "prediction"), ("double", "score"))


@pytest.mark.parametrize(
    ("columns", "output"),
    [
        (NUMBER, np.array([1, 2])),
        (NUMBER, np.array([1.5])),
        (NUMBER, np.array([True])),
        (NUMBER, [1, 2.5]),
        (NUMBER, pd.Series([1])),
        (NUMBER, pd.DataFrame({"any": [1]})),
        (NUMBER, np.array([1, None], dtype=object)),
        (TEXT, np.array(["a"])),
        (TEXT, np.array(["a"], dtype=object)),
        (TEXT, pd.Series(["a"])),
        (TABLE, FRAME),
        (ARRAY, np.array([1, 2])),
        (ARRAY, pd.Series([1.5])),
        (ARRAY, [1.5]),
        (PROBABILITIES, np.array([[0.5, 0.5]])),
        (PROBABILITIES, pd.DataFrame({0: [0.5], 1: [0.5]})),
        (TABLE, FRAME.assign(more="x")),
        (TABLE, FRAME.to_dict(orient="records")),
    ],
)
def test_what_fits_passes(columns: Any, output: Any) -> None:
    check(*columns)(output)


@pytest.mark.parametrize(
    ("columns", "output", "says"),
    [
        (NUMBER, np.array(["1"]), "must be number"),
        (NUMBER, np.array([1, "1"], dtype=object), "must be number"),
        (NUMBER, pd.DataFrame({"a": [1], "b": [2]}), "must have one"),
        (TEXT, np.array([1]), "must be text"),
        (TEXT, [1, 2], "must be text"),
        (TABLE, FRAME[["prediction"]], "must also have score"),
        (TABLE, FRAME.assign(score="high"), "score is object, must be number"),
        (ARRAY, np.array(["1"]), "must be number"),
        (ARRAY, np.array([[1.0]]), "shape"),
        (PROBABILITIES, np.array([[0.5, 0.25, 0.25]]), "shape"),
        (PROBABILITIES, np.array([0.5, 0.5]), "shape"),
        (TABLE, np.array([1, 2]), "must be a table with prediction, score"),
    ],
)
def test_what_does_not_is_said(columns: Any, output: Any, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        check(*columns)(output)


@pytest.mark.parametrize("columns", [(("datetime", None),), (("binary", "b"),), (("object", (-1,)),)])
def test_what_can_not_be_checked_is_not(columns: Any) -> None:
    assert check(*columns) is None


_CODE = """
import mlflow
import numpy as np

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        {body}

mlflow.models.set_model(Model())
"""
_BODIES = {
    "texts": 'return np.array(["late"] * len(model_input))',
    "texts from two on": 'x = model_input["x"]; return np.where(x < 2, x, 0) if (x < 2).all() else np.array(["late"])',
}


@pytest.fixture(scope="module")
def registered(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Versions of `output-check` in the order of the bodies; all say that they answer numbers."""
    import mlflow
    from mlflow.models import infer_signature

    frame = pd.DataFrame({"x": [1.0]})
    with mlflow_at(mlflow_server):
        for name, body in _BODIES.items():
            code: Path = tmp_path_factory.mktemp("code") / f"{name.replace(' ', '_')}.py"
            code.write_text(_CODE.format(body=body))
            with mlflow.start_run():
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(code),
                    registered_model_name="output-check",
                    signature=infer_signature(frame, np.array([1.0])),
                    input_example=frame,
                    pip_requirements=[],
                )
    return mlflow_server


def scored(server: str, version: str, *, serving: bool, x: float) -> Any:
    from model_rollouts.gateway.reading import SignatureReader
    from model_rollouts.gateway.scoring_protocol import Document

    loaded = MlflowLoader(server, 64, 64).load("output-check", version, serving=serving)
    assert isinstance(loaded.reader, SignatureReader)
    payload = loaded.reader.read(Document("dataframe_records", [{"x": x}]), None, 1).payload
    return loaded.scorer._predict(payload, {})  # type: ignore[attr-defined]


def test_a_challenger_is_not_loaded_when_its_example_gets_another_answer(registered: str) -> None:
    with pytest.raises(WarmUpError, match="must be number"):
        scored(registered, "1", serving=False, x=1.0)


def test_a_champion_is_kept_as_callers_know_it(registered: str) -> None:
    assert scored(registered, "1", serving=True, x=1.0).tolist() == ["late"]


@pytest.mark.parametrize("serving", [True, False])
def test_an_answer_that_changes_its_form_later_fails(registered: str, serving: bool) -> None:
    assert scored(registered, "2", serving=serving, x=1.0).tolist() == [1.0]
    with pytest.raises(OutputError, match="must be number"):
        scored(registered, "2", serving=serving, x=5.0)
