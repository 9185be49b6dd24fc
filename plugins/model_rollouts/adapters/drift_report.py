"""The drift report of a stage: scores over all rows, which decide, and Evidently's picture of a sample beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.delta_drift import ANSWERS, Columns, DeltaDriftLog, bins_of
from model_rollouts.adapters.delta_schema import FEATURE_PREFIX, feature_column
from model_rollouts.adapters.evidently_report import MAX_ROWS, Picture, picture, with_picture
from model_rollouts.adapters.html_page import banner, heading, note, page, table
from model_rollouts.core.drift_finding import TITLES, ComparisonDrift, DriftFinding, Sides, find_drift
from model_rollouts.core.drift_plan import Comparison, DriftPlan, DriftRole
from model_rollouts.core.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

SEED = 20130101
_CELLS = 500_000  # a side, of the picture: Evidently's time grows with them
_MOST_SHOWN = 60  # columns of the picture
_MOST_TEXTS = 100  # of a column of it
_OTHERS = "(other values)"
_STATES = {"ok": "pass", "failed": "fail", "missing": "inconclusive"}
_ARMS = ("champion", "challenger")
_HEADERS = ("column", "role", "values", "PSI", "PSI by chance", "Jensen-Shannon", "Wasserstein, sd",
    "missing, difference", "drift", "not known")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageDrift:
    """What is compared.

    Attributes:
        model: Registered model name.
        rollout_id: The rollout.
        stage: Position of the stage.
        champion: The champion's version.
        window: Time of the stage, [start, end), UTC.
        before: Time of the champion before the rollout, likewise.
        offline: Whether the challenger was asked for logged requests of the champion, which are those of `before`.
    """

    model: str
    rollout_id: str
    stage: int
    champion: str
    window: tuple[datetime, datetime]
    before: tuple[datetime, datetime]
    offline: bool = False


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What was written.

    Attributes:
        finding: What drifted.
        files: `drift.json` and `drift.html`.
        metrics: Numbers by name, all finite.
        snapshot: Evidently's, for a workspace; None where no sample could be compared.
    """

    finding: DriftFinding
    files: tuple[Path, ...]
    metrics: Mapping[str, float]
    snapshot: Any


def drift_of_stage(
    log: DeltaDriftLog, of: StageDrift, training: Profile | None, plan: DriftPlan, out_dir: Path
) -> DriftReport:
    """Compare a stage with what was before and beside it, and write what was found.

    Args:
        log: The prediction log.
        of: What is compared.
        training: The profile of the challenger's training data. None: the champion's log before is the reference.
        plan: Limits and roles.
        out_dir: Gets the files.

    Raises:
        LogReadError: The log can't be read.
    """
    columns = log.columns(of.model, min(of.window[0], of.before[0]), of.window[1])
    samples = [_sample(log, of, arm, columns) for arm in _ARMS]
    bins = bins_of(columns, samples, training)
    arms = log.stage_profiles(of.model, of.rollout_id, of.stage, of.window, columns, bins)
    before = log.champion_profile(of.model, of.champion, of.before, columns, bins)
    sides = _sides(of, training, arms, before)
    finding = find_drift(plan, sides)
    title = f"{of.rollout_id} stage {of.stage}: drift"
    rows = {arm: max((each.rows for each in arms[arm].values()), default=0) for arm in _ARMS}
    shown = _picture(of, samples, columns, plan)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = (out_dir / "drift.json", out_dir / "drift.html")
    told = {
        "title": title,
        **finding.to_dict(),
        "rows": rows,
        "window": _span(of.window),
        "plan": plan.to_dict(),
        "sample": sample_told(shown),
    }
    files[0].write_text(json.dumps(told, indent=2, allow_nan=False), encoding="utf-8")
    files[1].write_text(with_picture(_page(title, finding, rows, shown), shown.html), encoding="utf-8")
    return DriftReport(finding, files, _metrics(finding), shown.snapshot)


def _sides(
    of: StageDrift, training: Profile | None, arms: Mapping[str, Columns], before: Columns
) -> dict[Comparison, Sides]:
    """What has something to be compared with."""
    challenger = arms["challenger"]
    inputs = [name for name, each in challenger.items() if name.startswith(FEATURE_PREFIX) and each.values]
    span = f"version {of.champion} as champion, {_span(of.before)}"
    sides = {}
    if training is not None:
        reference = {feature_column(name): column for name, column in training.columns.items()}
        named = list(dict.fromkeys([*reference, *inputs]))
        sides[Comparison.TRAINING] = Sides(
            reference, challenger, named, f"training data, {training.rows:,} rows: {training.source}"
        )
    if any(each.rows for each in before.values()):
        if training is None:
            named = [name for name in before if name.startswith(FEATURE_PREFIX)]
            sides[Comparison.TRAINING] = Sides(before, challenger, named, f"no training profile; {span}")
        answers = [name for name in ANSWERS if name in before]
        sides[Comparison.BEFORE] = Sides(before, challenger, answers, span)
    champion, beside = (before, span) if of.offline else (arms["champion"], "the champion in the same time")
    if challenger:
        sides[Comparison.CHAMPION] = Sides(champion, challenger, list(challenger), beside)
    return sides


def _sample(log: DeltaDriftLog, of: StageDrift, arm: str, columns: Mapping[str, str]) -> "pd.DataFrame":
    limit = max(1, min(MAX_ROWS, _CELLS // max(len(columns), 1)))
    if arm == "champion" and of.offline:
        return log.champion_sample(of.model, of.champion, of.before, columns, limit, SEED)
    return log.stage_sample(of.model, of.rollout_id, of.stage, arm, of.window, columns, limit, SEED)


def _picture(of: StageDrift, samples: Sequence["pd.DataFrame"], columns: Mapping[str, str], plan: DriftPlan) -> Picture:
    """What neither sample has a value of is left out; so is what the plan ignores."""
    named = [
        name
        for name in columns
        if plan.role_of(name) is not DriftRole.IGNORE and any(sample[name].notna().any() for sample in samples)
    ]
    samples = few_texts(samples, named)
    tags = (of.rollout_id, f"stage {of.stage}")
    name = f"{of.rollout_id} stage {of.stage}"
    return picture(samples[0], samples[1], named[:_MOST_SHOWN], seed=SEED, name=name, tags=tags)


def few_texts(samples: Sequence["pd.DataFrame"], columns: Sequence[str]) -> list["pd.DataFrame"]:
    """The samples with texts that are not among the commonest as one: Evidently takes minutes for thousands of them."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    shown = [sample.copy() for sample in samples]
    for column in columns:
        both = pd.concat([sample[column].dropna() for sample in shown])
        if is_numeric_dtype(both) or both.nunique() <= _MOST_TEXTS:
            continue
        common = set(both.value_counts().head(_MOST_TEXTS - 1).index)
        for sample in shown:
            known = sample[column].isin(common) | sample[column].isna()
            sample[column] = sample[column].where(known, _OTHERS)
    return shown


def _metrics(finding: DriftFinding) -> dict[str, float]:
    found = {}
    for kind, each in finding.comparisons.items():
        known = [column for column in each.columns if not column.problem or column.drifted]
        if known and len(known) == len(each.columns):
            found[f"drift_share_{kind.value}"] = sum(column.drifted for column in known) / len(known)
        scores = [column.psi for column in each.columns if column.psi is not None]
        if scores:
            found[f"drift_psi_max_{kind.value}"] = max(scores)
    if (share := found.get(f"drift_share_{Comparison.CHAMPION.value}")) is not None:
        found["drift_share"] = share
    return found


def _page(title: str, finding: DriftFinding, rows: Mapping[str, int], shown: Picture) -> str:
    drifted = any(column.drifted for each in finding.comparisons.values() for column in each.columns)
    headline = {"failed": "drift", "missing": "not fully computed"}.get(
        finding.state, "drift, reported only" if drifted else "no drift found"
    )
    body = [
        banner(_STATES[finding.state], headline, finding.detail),
        note(
            f"Scores over all rows: champion {rows['champion']:,}, challenger {rows['challenger']:,}. A limit is "
            "exceeded when the score is above it by more than what chance adds, and chance alone would hardly make it "
            "so large. Infinite numbers count as missing."
        ),
    ]
    for kind in Comparison:
        body.append(heading(TITLES[kind].capitalize()))
        body += comparison_tables(finding.comparisons.get(kind))
    body.append(heading("A sample, as Evidently shows it"))
    body.append(
        note(
            f"Below are a seeded sample of {shown.rows[0]:,} of the champion's {rows['champion']:,} rows and one of "
            f"{shown.rows[1]:,} of the challenger's {rows['challenger']:,}: a picture. What Evidently calls drift in "
            "it decides nothing."
        )
    )
    if shown.uncomparable:
        body.append(table(("not in the picture", "why"), sorted(shown.uncomparable.items())))
    return page(title, body)


def comparison_tables(found: ComparisonDrift | None) -> list[str]:
    """One comparison, as parts of a page."""
    if found is None:
        return [note("There is nothing to compare with.")]
    lines = [
        (
            each.column,
            each.role.value,
            f"{each.values[0]:,} / {each.values[1]:,}",
            _number(each.psi),
            _number(each.psi_of_chance),
            _number(each.js),
            _number(each.wasserstein),
            _number(each.missing),
            f"drifted: {', '.join(each.exceeded)}" if each.drifted else "" if each.problem else "no",
            each.problem,
        )
        for each in found.columns
    ]
    told = [note(f"Reference: {found.described}."), table(_HEADERS, lines)]
    if found.without_values:
        told.append(note(f"Without a value on either side: {', '.join(found.without_values)}."))
    return told


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def sample_told(shown: Picture) -> dict[str, Any]:
    """What Evidently says of the sample, in JSON types."""
    return {
        "rows_reference": shown.rows[0],
        "rows_current": shown.rows[1],
        "evidently": {
            each.column: {"method": each.method, "score": each.score, "drifted": each.drifted} for each in shown.columns
        },
        "uncomparable": dict(shown.uncomparable),
    }


def _span(window: tuple[datetime, datetime]) -> str:
    return f"{window[0].isoformat(timespec='seconds')} to {window[1].isoformat(timespec='seconds')}"
