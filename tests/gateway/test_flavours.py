"""A version of a flavour that is not allowed is refused, before anything of it is run."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.model_files import load_version
from model_rollouts.adapters.offline_scorer import PyfuncScorer
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.flavours import FlavourError
from model_rollouts.gateway.loading import MlflowLoader
from model_rollouts.offline import LoggedRequest
from model_rollouts.ports import ModelVersion

_CODE = """
import pathlib
import mlflow
pathlib.Path({marker!r}).touch()

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"].to_numpy()

mlflow.models.set_model(Echo())
"""
MODEL = "flavours"


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flavours") / "code-was-run"


@pytest.fixture(scope="module")
def registry(mlflow_server: str, marker: Path) -> Iterator[str]:
    """Version 1 is skops, 2 a pickle, 3 its own code, 4 skops with code beside it."""
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    folder = marker.parent
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
    fitted = LinearRegression().fit(frame, frame["x"])
    common = {
        "name": "model",
        "registered_model_name": MODEL,
        "signature": infer_signature(frame, frame["x"].to_numpy()),
        "input_example": frame,
        "pip_requirements": [],
    }
    own, beside = folder / "own.py", folder / "beside.py"
    own.write_text(_CODE.format(marker=str(marker)))
    beside.write_text("")
    with mlflow_at(mlflow_server):
        with mlflow.start_run():
            mlflow.sklearn.log_model(fitted, serialization_format="skops", **common)
            mlflow.sklearn.log_model(fitted, serialization_format="cloudpickle", **common)
            mlflow.pyfunc.log_model(python_model=str(own), **common)
            mlflow.sklearn.log_model(fitted, serialization_format="skops", code_paths=[str(beside)], **common)
        yield mlflow_server


ALLOWED = {
    ("sklearn:skops",): {"1"},
    ("sklearn",): {"1", "2"},
    ("sklearn:skops", "python_function"): {"1", "3", "4"},
    ("xgboost",): set(),
}


@pytest.mark.parametrize("flavours", ALLOWED, ids=",".join)
def test_what_is_not_allowed_is_not_loaded_by_the_gateway(
    registry: str, marker: Path, flavours: tuple[str, ...]
) -> None:
    loader = MlflowLoader(registry, 64, 64, flavours=flavours)
    for version in ("1", "2", "3", "4"):
        marker.unlink(missing_ok=True)
        if version in ALLOWED[flavours]:
            assert loader.load(MODEL, version, serving=False).version == version
        else:
            with pytest.raises(FlavourError, match=f"version {version} of {MODEL} is .*MODEL_ROLLOUTS_FLAVOURS has"):
                loader.load(MODEL, version, serving=True)
        assert marker.exists() == (version == "3" and version in ALLOWED[flavours])
    loader.close()


class _Touch:
    """Makes a file when a pickle of it is loaded."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self._file), 0o700)


def test_nor_a_pickle_that_is_kept_away_from_the_file_that_says_skops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    files, ran = tmp_path / "files", tmp_path / "ran"
    mlflow.sklearn.save_model(
        LinearRegression().fit([[1.0]], [1.0]), files, serialization_format="skops", pip_requirements=[]
    )
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: str(files))
    for name in ("set_tracking_uri", "set_registry_uri"):
        monkeypatch.setattr(mlflow, name, lambda _: None)
    load_version("", MODEL, "1", ["sklearn:skops"], str(tmp_path))
    (files / "sub").mkdir()
    (files / "sub" / "model.pkl").write_bytes(pickle.dumps(_Touch(ran)))
    said = yaml.safe_load((files / "MLmodel").read_text())
    (files / "sub" / "MLmodel").write_text(
        yaml.safe_dump({"flavors": {"python_function": {"model_path": "model.pkl"}, "sklearn": {}}})
    )
    for data in ("sub", "sub/model.pkl"):
        said["flavors"]["python_function"]["data"] = data
        (files / "MLmodel").write_text(yaml.safe_dump(said))
        with pytest.raises(FlavourError, match="is python_function, and MODEL_ROLLOUTS_FLAVOURS has sklearn:skops"):
            load_version("", MODEL, "1", ["sklearn:skops"], str(tmp_path))
        assert not ran.exists()


def test_nor_by_an_offline_stage(registry: str, marker: Path) -> None:
    marker.unlink(missing_ok=True)
    version = ModelVersion(MODEL, "3", inputs=(("x", "double"),))
    asked = [LoggedRequest("r1", None, 7, {"f_x": 1.0})]
    with (
        PyfuncScorer(registry, version, ("sklearn",)) as scorer,
        pytest.raises(NotReadyError, match="FlavourError: version 3 of flavours is python_function"),
    ):
        scorer.score(asked)
    assert not marker.exists()
    with PyfuncScorer(registry, version) as scorer:
        assert [answer.status for answer in scorer.score(asked)] == ["ok"]
    assert marker.exists()
