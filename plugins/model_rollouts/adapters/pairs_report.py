"""Both versions' answers to the same requests, side by side: how often they agree, where they do not, how they differ.

This is to be read. The stage is decided by the agreement gate, with bounds that hold at any time.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from model_rollouts.adapters.comparison import Rate, wilson
from model_rollouts.adapters.pairs_page import render
from model_rollouts.adapters.report_facts import Numbers, Pairs, Slice
from model_rollouts.core.gates import Metric
from model_rollouts.core.plan import FULL_SHARE, Stage
from model_rollouts.core.rollout import Rollout

LEAST_SLICE = 50  # pairs; of fewer, a slice says little, and many of them would be looked at
MOST_WORST = 10
OFFLINE_HISTORY = timedelta(days=400)  # requests that are scored offline are no older


class PairLog(Protocol):
    """What the report asks of the log; `DeltaReportLog` has it."""

    def pairs(
        self, model: str, rollout_id: str, stage: int, start: datetime, end: datetime, tolerance: float | None
    ) -> Pairs:
        """The pairs of a stage, and what they have in common."""

    def offline_pairs(
        self,
        model: str,
        rollout_id: str,
        stage: int,
        champion: str,
        start: datetime,
        end: datetime,
        tolerance: float | None,
    ) -> Pairs:
        """The pairs of an offline stage."""


@dataclass(frozen=True, slots=True)
class PairsResult:
    """What was found and written.

    Attributes:
        state: "ok", or "missing" where there is no pair.
        reason: One sentence for a person.
        files: `pairs.json` and `pairs.html`.
        metrics: The main numbers by name, all finite; those that are not known are left out.
    """

    state: str
    reason: str
    files: tuple[Path, ...]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class RatedSlice:
    """A slice with its agreement.

    Attributes:
        feature: Name of the input.
        value: What the pairs have in common.
        agreement: Share that agrees, with its 95 % interval.
        below_average: Whether the whole interval is below the agreement of all pairs.
    """

    feature: str
    value: str
    agreement: Rate
    below_average: bool


def write_pairs(
    rollout: Rollout, stage: int, log: PairLog, window: tuple[datetime, datetime], out_dir: Path
) -> PairsResult:
    """Compare the answers of a stage, pair by pair, over all rows.

    Args:
        rollout: The rollout.
        stage: Position of a stage.
        log: Where the pairs are counted.
        window: When the champion's answers were given, [start, end), UTC; in an offline stage, when they were scored.
        out_dir: Gets `pairs.json` and `pairs.html`.

    Raises:
        LogReadError: The log can't be read.
        PlanError: There is no such stage.
    """
    setting = rollout.plan.stage(stage)
    gate = setting.gate(Metric.AGREEMENT)
    tolerance = gate.tolerance if gate else None
    if setting.offline:
        window = window[0] - OFFLINE_HISTORY, window[1]
        found = log.offline_pairs(rollout.model, rollout.id, stage, rollout.champion, *window, tolerance)
    else:
        found = log.pairs(rollout.model, rollout.id, stage, *window, tolerance)
    agreement = wilson(found.agreed, found.paired)
    rated = [_rated(each, agreement) for each in found.slices if each.pairs]
    worst = worst_slices(rated, found.paired)
    dropped = _dropped(setting, found)
    state = "ok" if found.paired else "missing"
    reason = _reason(found, agreement, dropped, worst)
    document: dict[str, Any] = {
        "rollout": rollout.id,
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "stage": stage,
        "share": setting.share,
        "mirror_percent": setting.mirror_percent,
        "offline": setting.offline,
        "from": window[0].isoformat(),
        "until": window[1].isoformat(),
        "state": state,
        "reason": reason,
        "tolerance": tolerance,
        "interval": "95 % Wilson, for one point in time, requests taken as independent",
        "asked": found.asked,
        "paired": found.paired,
        "paired_units": found.units,
        "dropped": dropped,
        "coverage_note": coverage_note(setting),
        "champion_failed": found.champion_failed,
        "challenger_failed": {"error": found.errors, "timeout": found.timeouts},
        "agreement": asdict(agreement),
        "disagreements": [asdict(each) for each in found.disagreements],
        "disagreement_kinds": found.disagreement_kinds,
        "score_difference": _plain(found.score),
        "latency_ms": {name: _plain(numbers) for name, numbers in (found.latency_ms or {}).items()},
        "slices": [asdict(each) for each in rated],
        "worst_slices": [asdict(each) for each in worst],
        "least_slice": LEAST_SLICE,
        "columns": found.columns,
        "columns_left_out": list(found.columns_left_out),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    files = (out_dir / "pairs.json", out_dir / "pairs.html")
    files[0].write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    files[1].write_text(render(document), encoding="utf-8")
    return PairsResult(state, reason, files, _metrics(found, agreement, dropped, worst))


def worst_slices(slices: Sequence[RatedSlice], pairs: int) -> list[RatedSlice]:
    """The slices that agree least, worst first; none that holds all pairs.

    They are ordered by the upper end of their intervals: what they could agree at best. A small slice, whose interval
    is wide, comes first only where its agreement is far below the others'.

    Args:
        slices: All slices.
        pairs: How many pairs there are.
    """
    enough = [each for each in slices if LEAST_SLICE <= each.agreement.of < pairs]
    return sorted(enough, key=lambda each: (each.agreement.high or 0.0, each.feature, each.value))[:MOST_WORST]


def coverage_note(setting: Stage) -> str:
    """What `asked` less `paired` means in a stage."""
    if setting.share == FULL_SHARE:
        return (
            "The control sample: a request whose second answer was dropped has no row of the champion's, and is "
            "counted by the challenger's row alone."
        )
    if setting.offline:
        return (
            "Logged requests that were scored again. Those with one answer only could not be asked of the challenger, "
            "for want of logged inputs, or their first answer is not in the log any more."
        )
    if setting.mirror_percent < FULL_SHARE:
        return (
            f"{setting.mirror_percent:g} % of the requests were sampled for mirroring, and the log does not say which: "
            "how many of the sampled ones were dropped can't be told from it. The gateways count their drops."
        )
    return "Asked and not paired are requests that were to be mirrored and were dropped."


def _dropped(setting: Stage, found: Pairs) -> int | None:
    """Requests that should have been answered by both and were not; None where the log can't tell."""
    if setting.share == FULL_SHARE or setting.offline:
        return found.asked - found.paired + found.without_champion
    if setting.mirror_percent < FULL_SHARE:
        return None
    return found.asked - found.paired


def _rated(part: Slice, everybody: Rate) -> RatedSlice:
    rate = wilson(part.agreed, part.pairs)
    below = rate.high is not None and everybody.rate is not None and rate.high < everybody.rate
    return RatedSlice(part.feature, part.value, rate, below)


def _reason(found: Pairs, agreement: Rate, dropped: int | None, worst: Sequence[RatedSlice]) -> str:
    if agreement.rate is None:
        return f"no pairs: of {found.asked:,} answers of the champion the challenger was given none"
    parts = [
        f"{found.agreed:,} of {found.paired:,} pairs agree ({agreement.rate:.2%}, {agreement.low:.2%} to "
        f"{agreement.high:.2%})"
    ]
    if found.errors or found.timeouts:
        parts.append(f"the challenger failed at {found.errors + found.timeouts:,}")
    if dropped:
        parts.append(f"{dropped:,} have one answer only")
    below = [each for each in worst if each.below_average]
    if below:
        rate = below[0].agreement
        parts.append(f"worst where {below[0].feature} is {below[0].value} ({rate.rate:.2%} of {rate.of:,})")
    return "; ".join(parts)


def _plain(numbers: Numbers | None) -> dict[str, Any] | None:
    return None if numbers is None else {**asdict(numbers), "quantiles": dict(numbers.quantiles)}


def _metrics(found: Pairs, agreement: Rate, dropped: int | None, worst: Sequence[RatedSlice]) -> dict[str, float]:
    latency: Mapping[str, Numbers] = found.latency_ms or {}
    values: dict[str, float | None] = {
        "pairs_asked": found.asked,
        "pairs_paired": found.paired,
        "pairs_dropped": dropped,
        "pairs_challenger_failed": found.errors + found.timeouts if found.paired else None,
        "pairs_agreement": agreement.rate,
        "pairs_agreement_low": agreement.low,
        "pairs_agreement_high": agreement.high,
        "pairs_score_difference": found.score.mean if found.score else None,
        "pairs_score_difference_absolute": found.score.mean_size if found.score else None,
        "pairs_worst_slice_agreement": worst[0].agreement.rate if worst else None,
        **{
            f"pairs_latency_{name}_{q}_ms": n.quantiles[q] for name, n in latency.items() for q in ("p50", "p95", "p99")
        },
    }
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
