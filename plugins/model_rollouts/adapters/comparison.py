"""Challenger against champion in numbers: the comparison that goes with every verdict."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from model_rollouts.adapters.comparison_metrics import ARMS
from model_rollouts.adapters.comparison_page import render
from model_rollouts.adapters.comparison_rows import PairLog, compare_rows, metrics_of, write_table
from model_rollouts.core import estimates
from model_rollouts.core.decision import Decision
from model_rollouts.core.evidence import LATENCY_RATIO, LabelCounts, Look, RequestCounts, latency_edge_ms
from model_rollouts.core.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % Wilson interval; all None while nothing was counted."""

    count: int
    of: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over some looks.

    Attributes:
        requests: Requests it was asked to answer.
        errors: Errors and timeouts among them.
        due: Answers whose label should have arrived.
        labelled: Those that have one.
        accuracy: Right predictions among the labelled ones.
        coverage: Labels that arrived among those that are due, 0 to 1; None while none is due.
        latency_ms: "p50", "p95" and "p99" of the answers: upper edges of histogram bins; None without answers.
        scores: How many scores `mean_score` is over.
        mean_score: Mean of the finite scores; None without any.
    """

    requests: int
    errors: Rate
    due: int
    labelled: int
    coverage: float | None
    accuracy: Rate
    latency_ms: dict[str, float | None]
    scores: int | None = None
    mean_score: float | None = None


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """What was written.

    Attributes:
        files: `comparison.json`, `comparison.csv` and `comparison.html`.
        metrics: The main numbers by name, all finite; those that are not known are left out.
    """

    files: tuple[Path, ...]
    metrics: dict[str, float]


def wilson(count: int, of: int) -> Rate:
    """A share with its 95 % Wilson score interval, clipped to 0 to 1.

    Raises:
        ValueError: count is not between 0 and of.
    """
    if of == count == 0:
        return Rate(0, 0, None, None, None)
    return Rate(count, of, count / max(of, 1), *estimates.wilson(count, of))


def write_comparison(
    rollout: Rollout,
    decision: Decision,
    looks: Sequence[Look],
    log: PairLog,
    out_dir: Path,
    as_of: datetime | None = None,
    requests_from: datetime | None = None,
) -> ComparisonResult:
    """Write what the verdict rests on.

    Args:
        rollout: The rollout.
        decision: The verdict on `looks`.
        looks: The closed looks of the rollout.
        log: Everything that is not in the looks comes from its rows, up to the end of the last closed look.
        out_dir: Gets `comparison.json`, `comparison.csv` and `comparison.html`.
        as_of: Labels are due whose request had matured by then, UTC; None: by the end of the last closed look.
        requests_from: From when on an offline stage's requests were scored, UTC; None: not known, and nothing of such a
            stage is compared.

    Raises:
        LogReadError: The log can't be read.
    """
    end = _end(rollout, looks)
    until = end or rollout.created_at
    rows = compare_rows(rollout, decision, until, as_of or until, log, requests_from)
    rollout_arms = _arms(looks, _scores(rows))
    stage_arms = _arms([look for look in looks if look.stage == decision.stage], {})
    document: dict[str, Any] = {
        "rollout": rollout.id,
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "stage": decision.stage,
        "share": rollout.plan.stage(decision.stage).share,
        "looks": len(looks),
        "latency_bin_width": round(LATENCY_RATIO - 1, 6),
        "interval": "95 % Wilson, for one point in time",
        "arms": {arm: asdict(summary) for arm, summary in rollout_arms.items()},
        "stage_arms": {arm: asdict(summary) for arm, summary in stage_arms.items()},
        "all_rows": rows,
        "decision": decision.to_dict(),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    files = (out_dir / "comparison.json", out_dir / "comparison.html", out_dir / "comparison.csv")
    files[0].write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    files[1].write_text(render(document, decision), encoding="utf-8")
    write_table(rows, files[2])
    return ComparisonResult(files, metrics_of(rows) | _metrics(rollout_arms, decision))


def _end(rollout: Rollout, looks: Sequence[Look]) -> datetime | None:
    """The end of the last closed look: what is told then is of the time the verdict is of."""
    if rollout.opened_at is None:
        return None
    closed = max((look.index + 1 for look in looks if look.stage == rollout.stage), default=0)
    return rollout.opened_at + timedelta(seconds=closed * rollout.plan.look_seconds)


def _scores(rows: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Count and mean of the rollout's scores, for each arm that has any."""
    if not rows["computed"]:
        return {}
    told = rows["rollout"]["metrics"]["mean_score"]
    return {arm: (told[arm]["n"], told[arm]["value"]) for arm in ARMS if told[arm]["n"]}


def _arms(looks: Sequence[Look], scores: dict[str, tuple[int, float]]) -> dict[str, ArmSummary]:
    return {
        "champion": _summary(
            [k.champion for k in looks], [k.champion_labels for k in looks if k.champion_labels], scores.get("champion")
        ),
        "challenger": _summary(
            [k.challenger for k in looks],
            [k.challenger_labels for k in looks if k.challenger_labels],
            scores.get("challenger"),
        ),
    }


def _summary(
    counts: Sequence[RequestCounts], labels: Sequence[LabelCounts], score: tuple[int, float] | None
) -> ArmSummary:
    requests = sum(c.requests for c in counts)
    due = sum(k.due for k in labels)
    labelled = sum(k.labelled for k in labels)
    histogram: Counter[int] = Counter()
    for c in counts:
        histogram.update(c.latency)
    return ArmSummary(
        requests=requests,
        errors=wilson(sum(c.errors for c in counts), requests),
        due=due,
        labelled=labelled,
        coverage=labelled / due if due else None,
        accuracy=wilson(labelled - sum(k.wrong for k in labels), labelled),
        latency_ms={f"p{percent}": _quantile(histogram, percent / 100) for percent in (50, 95, 99)},
        scores=score[0] if score else None,
        mean_score=score[1] if score else None,
    )


def _quantile(histogram: Counter[int], quantile: float) -> float | None:
    """Upper edge of the quantile's bin: at most one bin's width above the truth, never below it."""
    total = histogram.total()
    running = 0
    for index in sorted(histogram):
        running += histogram[index]
        if running >= quantile * total > 0:
            return latency_edge_ms(index + 1)
    return None


def _metrics(arms: dict[str, ArmSummary], decision: Decision) -> dict[str, float]:
    values: dict[str, float | None] = {}
    for arm, summary in arms.items():
        values |= {
            f"{arm}_requests": summary.requests,
            f"{arm}_error_rate": summary.errors.rate,
            f"{arm}_accuracy": summary.accuracy.rate,
            f"{arm}_label_coverage": summary.coverage,
            f"{arm}_mean_score": summary.mean_score,
            **{f"{arm}_latency_{name}_ms": value for name, value in summary.latency_ms.items()},
        }
    for gate in decision.gates:
        values |= {
            f"{gate.metric}_effect": gate.measured.effect,
            f"{gate.metric}_log_e_harm": gate.measured.log_e_harm,
            f"{gate.metric}_log_e_pass": gate.measured.log_e_pass,
        }
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
