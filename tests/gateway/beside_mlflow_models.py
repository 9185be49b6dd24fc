"""Models of every kind of signature that answer with what reached them: its types, its values and the parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property, TensorSpec

_ECHO = """
import mlflow
import numpy as np
import pandas as pd


def told(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.tolist()!r}"
    return f"{type(value).__name__} {value!r}"


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if isinstance(model_input, pd.DataFrame):
            kinds = model_input.dtypes.astype(str).to_dict()
            records = model_input.to_dict(orient="records")
            rows = [", ".join(f"{k} ({kinds[k]}) {told(v)}" for k, v in record.items()) for record in records]
        elif isinstance(model_input, dict):
            count = len(next(iter(model_input.values())))
            rows = [", ".join(f"{k} {told(v[i])}" for k, v in model_input.items()) for i in range(count)]
        else:
            kind = getattr(model_input, "dtype", "")
            rows = [f"{kind} {told(item)}" for item in model_input]
        return [f"{type(model_input).__name__}: {row}; {params}" for row in rows]


mlflow.models.set_model(Echo())
"""

_HINTS = """
import mlflow
import pydantic


class Flight(pydantic.BaseModel):
    carrier: str
    delay: float
    seats: int | None = None


class Hints(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[Flight]) -> list[str]:
        return [repr(flight) for flight in model_input]


mlflow.models.set_model(Hints())
"""

_WORDS = """
import mlflow


class Words(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return [repr(text) for text in model_input]


mlflow.models.set_model(Words())
"""

PLAIN = [
    ColSpec("boolean", "late"),
    ColSpec("integer", "seats"),
    ColSpec("long", "number"),
    ColSpec("float", "share"),
    ColSpec("double", "delay"),
    ColSpec("string", "carrier"),
    ColSpec("binary", "raw"),
    ColSpec("datetime", "day"),
]
OPTIONAL = [
    ColSpec("double", "wind", required=False),
    ColSpec("string", "note", required=False),
    ColSpec("datetime", "until", required=False),
    ColSpec("long", "stops", required=False),
    ColSpec("boolean", "paid", required=False),
]
_FLIGHT = Object([Property("carrier", "string"), Property("stops", Array("long"), required=False)])

SIGNATURES: dict[str, Any] = {
    "plain": ModelSignature(Schema([*PLAIN, *OPTIONAL]), Schema([ColSpec("string")])),
    "numbers": ModelSignature(Schema([ColSpec("double", "x"), ColSpec("double", "y")])),
    "tensor": ModelSignature(Schema([TensorSpec(np.dtype("float32"), (-1, 2))])),
    "tensors": ModelSignature(
        Schema([TensorSpec(np.dtype("float64"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")])
    ),
    "params": ModelSignature(
        Schema([ColSpec("double", "x")]),
        params=ParamSchema(
            [
                ParamSpec("threshold", "double", 0.5),
                ParamSpec("top", "long", 3),
                ParamSpec("mode", "string", "fast"),
                ParamSpec("stops", "string", ["."], (-1,)),
            ]
        ),
    ),
    "unsigned": None,
    "nested": ModelSignature(
        Schema(
            [
                ColSpec("string", "carrier"),
                ColSpec(Array("double"), "path"),
                ColSpec(_FLIGHT, "next"),
                ColSpec(Array("string"), "tags", required=False),
            ]
        )
    ),
    "texts": ModelSignature(Schema([ColSpec("string")])),
}
NAMES = (*SIGNATURES, "hints", "words")


def example(name: str) -> Any:
    """An input example, for the models whose type hints ask for one."""
    if name == "hints":
        return [{"carrier": "UA", "delay": 1.5, "seats": 3}]
    return ["a"] if name == "words" else None


def write(folder: Path) -> Callable[[str], Path]:
    """Write the models' code; which file is whose."""
    for stem, code in (("echo", _ECHO), ("hints", _HINTS), ("words", _WORDS)):
        (folder / f"{stem}.py").write_text(code)
    return lambda name: folder / f"{name if name in ('hints', 'words') else 'echo'}.py"


def frame() -> pd.DataFrame:
    """Two rows for the model `plain`."""
    return pd.DataFrame(
        {
            "late": [True, False],
            "seats": np.array([100, -7], np.int32),
            "number": [2**40, 0],
            "share": np.array([0.1, 3.0], np.float32),
            "delay": [0.1, -2.0],
            "carrier": ["UA", "Zoë ✈"],
            "raw": ["AP8=", ""],
            "day": pd.to_datetime(["2013-01-01T00:00:00.5", "2013-06-01T12:30:15.123456"], format="ISO8601"),
        }
    )
