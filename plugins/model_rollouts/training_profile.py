"""For training scripts: keeps what the training data looked like with the model, as the reference for drift.

One line after the model was logged:

    log_training_profile(info, frame[inputs])
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.core.profile import (
    LARGEST,
    LONGEST_CATEGORY,
    MOST_CATEGORIES,
    ColumnProfile,
    Profile,
    ProfileError,
    grid_of,
)

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME = "training_profile.json"
_CHUNK = 1 << 18  # rows at a time: memory does not grow with the frame, but for one column of it
_SAMPLE = 50_000  # numbers that tell where the bins are; all are counted


def log_training_profile(model: Any, frame: "pd.DataFrame", source: str = "training data") -> Profile:
    """Make the profile of training data and keep it with the model in MLflow.

    Every version that is registered from the model has it: `MlflowProfiles.training_profile` finds it.

    Args:
        model: What `log_model` returned; or a run, or a run's or logged model's id. The run keeps it where MLflow has
            no logged model.
        frame: The rows that the model learned from, with the inputs under the names of its signature. Columns that
            are no inputs do not matter, but are kept too: leave out what may not be seen by readers of the registry.
        source: What the rows are, for a person.

    Raises:
        ProfileError: The frame has no row or no column.
        TypeError: `model` is none of these.
    """
    from mlflow import MlflowClient

    model_id, run_id = _ids(model)
    profile = profile_frame(frame, source)
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, FILE_NAME)
        file.write_text(profile.to_json(), encoding="utf-8")
        if model_id:
            client.log_model_artifact(model_id, os.fspath(file))
        else:
            client.log_artifact(run_id, os.fspath(file))
    return profile


def profile_frame(frame: "pd.DataFrame", source: str = "") -> Profile:
    """The profile of a frame. Numbers and truth values are numbers; everything else is text, as the log has it.

    Raises:
        ProfileError: The frame has no row or no column, or names a column twice.
    """
    if not len(frame) or not len(frame.columns):
        raise ProfileError(f"the frame has {len(frame)} rows and {len(frame.columns)} columns, must have at least one")
    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        raise ProfileError(f"the frame names a column twice: {', '.join(names)[:500]}")
    columns = {name: _column(frame.iloc[:, at]) for at, name in enumerate(names)}
    return Profile(len(frame), columns, source)


def _ids(model: Any) -> tuple[str, str]:
    """(logged model's id, run's id) of what a training script has in its hands; one of them may be empty."""
    if isinstance(model, str) and model:
        return (model, "") if model.startswith("m-") else ("", model)
    model_id = getattr(model, "model_id", None)
    run_id = getattr(model, "run_id", None) or getattr(getattr(model, "info", None), "run_id", None)
    if model_id or run_id:
        return str(model_id or ""), str(run_id or "")
    raise TypeError(f"model is {model!r:.80}, must be what log_model returned, a run, or the id of one of them")


def _column(series: "pd.Series[Any]") -> ColumnProfile:
    from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

    numeric = (is_numeric_dtype(series.dtype) or is_bool_dtype(series.dtype)) and not is_complex_dtype(series.dtype)
    return _numbers(series) if numeric or _all_numbers(series) else _texts(series)


def _all_numbers(series: "pd.Series[Any]") -> bool:
    """Whether a column of objects holds numbers alone, as with None in the place of NaN."""
    from decimal import Decimal
    from numbers import Real

    import pandas as pd

    if not pd.api.types.is_object_dtype(series.dtype):
        return False
    known = series.dropna()
    return len(known) > 0 and all(isinstance(value, Real | Decimal) for value in known)


def _numbers(series: "pd.Series[Any]") -> ColumnProfile:
    import numpy as np

    missing = not_finite = 0
    parts = []
    for start in range(0, len(series), _CHUNK):
        chunk = series.iloc[start : start + _CHUNK]
        known = chunk.dropna().to_numpy(dtype="float64")
        missing += len(chunk) - len(known)
        finite = known[np.abs(known) <= LARGEST]
        not_finite += len(known) - len(finite)
        parts.append(finite)
    values = np.sort(np.concatenate(parts))
    if not len(values):
        return ColumnProfile("number", missing, not_finite)
    grid = grid_of(values[:: max(1, len(values) // _SAMPLE)].tolist())
    counts: dict[int, int] = {}
    for start in range(0, len(values), _CHUNK):
        found, times = np.unique(grid.indices(values[start : start + _CHUNK]), return_counts=True)
        for index, count in zip(found.tolist(), times.tolist(), strict=True):
            counts[index] = counts.get(index, 0) + count
    return ColumnProfile(
        "number",
        missing,
        not_finite,
        grid,
        counts,
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        low=float(values[0]),
        high=float(values[-1]),
    )


def _texts(series: "pd.Series[Any]") -> ColumnProfile:
    from model_rollouts.adapters.delta_schema import logged_text

    known = series.dropna()
    times: dict[str, int] = {}
    for start in range(0, len(known), _CHUNK):
        for text, count in known.iloc[start : start + _CHUNK].astype(object).map(logged_text).value_counts().items():
            times[str(text)] = times.get(str(text), 0) + int(count)
    top = sorted((text for text in times if len(text) <= LONGEST_CATEGORY), key=lambda text: (-times[text], text))
    categories = {text: times[text] for text in top[:MOST_CATEGORIES]}
    return ColumnProfile(
        "text", len(series) - len(known), categories=categories, rest=sum(times.values()) - sum(categories.values())
    )
