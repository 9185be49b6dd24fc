"""Bounded samples of logged inputs and answers, as Evidently shows them: a picture that decides nothing."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 30  # values of a column, per side: fewer can't tell drift from chance
MAX_ROWS = 50_000  # per side; Evidently takes minutes beyond
# Evidently writes names and values into its page's scripts as they are: a feature value with "</script>" in it would
# run in the reader's browser.
_HARMLESS = str.maketrans({"<": "\u2039", ">": "\u203a"})  # quotation marks that look alike


class DriftReportError(RolloutError):
    """Evidently's answer is not of the form that this adapter knows."""


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column's drift.

    Attributes:
        column: Its name.
        method: How the two samples are compared, in Evidently's words.
        score: A p-value where the method's name says so, a distance otherwise.
        threshold: Below it a p-value is drift; at or above it a distance is.
        drifted: Whether it is.
    """

    column: str
    method: str
    score: float
    threshold: float
    drifted: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """Two samples as Evidently shows them.

    Attributes:
        columns: The columns that could be compared, the drifted ones first.
        uncomparable: Why each of the others could not.
        rows: Rows of the reference and of the current sample that were used.
        html: Evidently's page; None where no column could be compared.
        snapshot: Evidently's own result, for its workspaces; None likewise.
    """

    columns: tuple[ColumnDrift, ...]
    uncomparable: Mapping[str, str]
    rows: tuple[int, int]
    html: str | None
    snapshot: Any


def picture(
    reference: "pd.DataFrame",
    current: "pd.DataFrame",
    columns: Sequence[str],
    *,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> Picture:
    """Show two samples column by column.

    Args:
        reference: What the columns looked like.
        current: What they look like.
        columns: Columns to compare. Numbers are compared as numbers, everything else as categories.
        max_rows: Most rows a side; larger frames are sampled by `seed`.
        seed: Another seed draws another sample.
        name: The snapshot's name.
        tags: The snapshot's tags.

    Raises:
        DriftReportError: Evidently's answer is of an unknown form.
    """
    reference, current = (
        frame.sample(max_rows, random_state=seed) if len(frame) > max_rows else frame for frame in (reference, current)
    )
    sides = {}
    uncomparable = {}
    for column in columns:
        pair, problem = _comparable(column, reference, current)
        if pair is None:
            uncomparable[column] = problem
        else:
            sides[column] = pair
    found, html, snapshot = _compare(sides, name, tags) if sides else ([], None, None)
    for drift in [d for d in found if math.isnan(d.score)]:
        found.remove(drift)
        uncomparable[drift.column] = f"{drift.method} gave no number"
    found.sort(key=lambda d: (not d.drifted, d.column))
    return Picture(tuple(found), uncomparable, (len(reference), len(current)), html, snapshot)


def _comparable(column: str, reference: "pd.DataFrame", current: "pd.DataFrame") -> tuple[tuple[Any, Any] | None, str]:
    """The column's values of both sides without missing ones, or why they can't be compared."""
    from pandas.api.types import is_numeric_dtype

    values = []
    for side, frame in (("reference", reference), ("current", current)):
        if column not in frame.columns:
            return None, f"the {side} sample has no such column"
        series = frame[column]
        if is_numeric_dtype(series):
            series = series.astype("float64").replace([math.inf, -math.inf], math.nan)
        series = series.dropna()
        if len(series) < MIN_ROWS:
            return None, f"{len(series)} values in the {side} sample of {len(frame):,} rows, needed {MIN_ROWS}"
        values.append(series)
    numeric = [is_numeric_dtype(series) for series in values]
    if numeric[0] != numeric[1]:
        return None, "numbers on one side, text on the other"
    return (values[0], values[1]), ""


def _compare(
    sides: dict[str, tuple[Any, Any]], name: str | None, tags: Sequence[str]
) -> tuple[list[ColumnDrift], str, Any]:
    """Each column's drift, Evidently's page, and its snapshot."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Evidently's switch for its telemetry
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset
    from pandas.api.types import is_numeric_dtype

    shown: dict[str, str] = {}  # name on the page -> column
    for column in sides:
        text = harmless(column)
        while text in shown:
            text += "'"
        shown[text] = column
    frames = []
    for side in (0, 1):
        series = {text: _harmless(sides[column][side]).reset_index(drop=True) for text, column in shown.items()}
        frames.append(pd.DataFrame(series))
    numeric = [text for text, column in shown.items() if is_numeric_dtype(sides[column][0])]
    categorical = [text for text in shown if text not in numeric]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    before, now = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)
    snapshot = Report([DataDriftPreset(columns=list(shown))]).run(
        now, before, name=name and harmless(name), tags=[harmless(tag) for tag in tags]
    )
    metrics = snapshot.dict()["metrics"]
    return _columns(metrics, shown), snapshot.get_html_str(as_iframe=False), snapshot


def harmless(text: str) -> str:
    """A text that can't run in Evidently's page."""
    return text.translate(_HARMLESS)


def _harmless(series: Any) -> Any:
    from pandas.api.types import is_numeric_dtype

    return series if is_numeric_dtype(series) else series.map(lambda value: harmless(str(value)))


def _columns(metrics: Iterable[dict[str, Any]], shown: dict[str, str]) -> list[ColumnDrift]:
    found = []
    counted = None
    for metric in metrics:
        config, value = metric["config"], metric["value"]
        if config["type"].endswith("DriftedColumnsCount"):
            counted = int(value["count"])
        elif config["type"].endswith("ValueDrift"):
            score, threshold = float(value), float(config["threshold"])
            drifted = score < threshold if "p_value" in config["method"] else score >= threshold
            found.append(ColumnDrift(shown[config["column"]], config["method"], score, threshold, drifted))
    if len(found) != len(shown) or counted != sum(d.drifted for d in found):
        raise DriftReportError(
            f"Evidently tells of {len(found)} columns and {counted} drifted ones, expected {len(shown)} columns and "
            f"{sum(d.drifted for d in found)}; check its version"
        )
    return found


def with_picture(own: str, html: str | None) -> str:
    """A page of this package with Evidently's own below it, where there is one.

    Raises:
        DriftReportError: Evidently's page is of an unknown form.
    """
    if html is None:
        return own
    content = own[own.index("<body>") + len("<body>") : own.index("</body>")]
    styles = own[own.index("<style>") : own.index("</style>") + len("</style>")]
    merged, places = re.subn(r"<body[^>]*>", lambda tag: f"{tag[0]}{styles}{content}", html, count=1)
    if not places:
        raise DriftReportError("Evidently's page has no body; check its version")
    return merged
