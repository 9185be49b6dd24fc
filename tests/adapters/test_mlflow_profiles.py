"""Training profiles: made of a frame, kept in a real MLflow, found from a registered version."""

import math
import sys
import uuid
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.mlflow_at import mlflow_at
from model_rollouts import training_profile
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.mlflow_profiles import MlflowProfiles
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.core.profile import MOST_CATEGORIES, Profile, ProfileError
from model_rollouts.ports import ModelVersion
from model_rollouts.training_profile import FILE_NAME, log_training_profile, profile_frame


def frame(rows: int = 1_000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "distance": rng.normal(500, 100, rows),
            "hour": rng.integers(5, 23, rows),
            "carrier": rng.choice(["UA", "AA", 'D"L ü'], rows, p=[0.5, 0.3, 0.2]),
        }
    )


@pytest.fixture
def version(mlflow_server: str) -> ModelVersion:
    """A version of a logged model that has no profile yet, as the registry has it."""
    import mlflow

    client = make_client(mlflow_server)
    name = f"profiled-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    with mlflow_at(mlflow_server), mlflow.start_run() as run:
        model = mlflow.create_external_model(name="model", source_run_id=run.info.run_id)
    client.create_model_version(name, source=model.artifact_location, run_id=run.info.run_id, model_id=model.model_id)
    resolved = MlflowRegistry(mlflow_server).resolve(name, "1")
    assert (resolved.model_id, resolved.run_id) == (model.model_id, run.info.run_id)
    return resolved


def test_a_version_without_a_profile_has_none(mlflow_server: str, version: ModelVersion) -> None:
    assert MlflowProfiles(mlflow_server).training_profile(version) is None


def test_what_the_training_script_kept_is_found_from_the_version(mlflow_server: str, version: ModelVersion) -> None:
    with mlflow_at(mlflow_server):
        kept = log_training_profile(version, frame(), "flights of January")
    assert kept.source == "flights of January"
    assert MlflowProfiles(mlflow_server).training_profile(version) == kept


def test_the_run_keeps_it_where_there_is_no_logged_model(mlflow_server: str, version: ModelVersion) -> None:
    run_only = replace(version, model_id="")
    with mlflow_at(mlflow_server):
        kept = log_training_profile(make_client(mlflow_server).get_run(version.run_id), frame())
    assert MlflowProfiles(mlflow_server).training_profile(run_only) == kept
    assert MlflowProfiles(mlflow_server).training_profile(version) == kept


def test_a_broken_profile_is_never_taken_for_none(mlflow_server: str, version: ModelVersion, tmp_path: Path) -> None:
    whole = profile_frame(frame()).to_json()
    for content in (whole[:-1].encode(), b"", b"\xff\xfe"):
        (tmp_path / FILE_NAME).write_bytes(content)
        make_client(mlflow_server).log_model_artifact(version.model_id, str(tmp_path / FILE_NAME))
        with pytest.raises(ProfileError, match=FILE_NAME):
            MlflowProfiles(mlflow_server).training_profile(version)


def test_a_server_that_is_away_is_no_version_without_a_profile(version: ModelVersion, closed_port: int) -> None:
    with pytest.raises(Exception, match="Max retries"):
        MlflowProfiles(f"http://127.0.0.1:{closed_port}").training_profile(version)


def test_every_row_is_in_the_counts() -> None:
    table = frame()
    made = profile_frame(table)
    distance, carrier = made.columns["distance"], made.columns["carrier"]
    assert distance.grid is not None
    by_hand: dict[int, int] = {}
    for value in table["distance"]:
        index = distance.grid.index(value)
        by_hand[index] = by_hand.get(index, 0) + 1
    assert distance.counts == by_hand
    assert (distance.mean, distance.low) == (pytest.approx(table["distance"].mean()), table["distance"].min())
    assert carrier.categories == table["carrier"].value_counts().to_dict()
    assert made.columns["hour"].kind == "number"


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profile_frame(frame())
    monkeypatch.setattr(training_profile, "_CHUNK", 7)
    assert profile_frame(frame()) == whole


@pytest.mark.parametrize(
    ("values", "kind", "missing", "not_finite", "counted"),
    [
        ([1.0, math.nan, math.inf, -math.inf, 1e101, 2.0], "number", 1, 3, 2),
        ([None, math.nan, None], "text", 3, 0, 0),
        ([math.nan, math.nan], "number", 2, 0, 0),
        ([True, False, None], "number", 1, 0, 2),
        ([1, None, 2.5], "number", 1, 0, 2),
        (["a", None, math.nan], "text", 2, 0, 1),
        ([1, "a"], "text", 0, 0, 2),
        ([date(2013, 1, 1), None], "text", 1, 0, 1),
        ([["a"], {"b": 1}], "text", 0, 0, 2),
    ],
)
def test_missing_infinite_and_odd_values(
    values: list[Any], kind: str, missing: int, not_finite: int, counted: int
) -> None:
    series = pd.Series(values, dtype=object) if kind == "text" or None in values else pd.Series(values)
    column = profile_frame(pd.DataFrame({"x": series})).columns["x"]
    assert (column.kind, column.missing, column.not_finite, column.values) == (kind, missing, not_finite, counted)
    assert Profile.from_json(Profile(len(values), {"x": column}).to_json()).columns["x"] == column


def test_only_the_commonest_and_no_long_text_are_categories() -> None:
    values = [f"v{i:03d}" for i in range(100) for _ in range(100 - i)] + ["x" * 201] * 500
    column = profile_frame(pd.DataFrame({"c": values})).columns["c"]
    assert list(column.categories) == [f"v{i:03d}" for i in range(MOST_CATEGORIES)]
    assert column.rest == sum(range(1, 51)) + 500


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"a": []}), "has 0 rows and 1 columns"),
        (pd.DataFrame(index=[1, 2]), "has 2 rows and 0 columns"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "names a column twice: a, a"),
    ],
)
def test_a_frame_without_anything_is_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile_frame(table)


@pytest.mark.parametrize("model", [None, 3, "", object()])
def test_what_is_neither_model_nor_run_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="must be what log_model returned"):
        log_training_profile(model, frame())


def test_importing_the_helper_costs_nothing() -> None:
    import subprocess

    code = (
        "import sys, model_rollouts.training_profile; print(sorted({'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
