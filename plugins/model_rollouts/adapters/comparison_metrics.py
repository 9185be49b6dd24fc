"""The comparison's numbers, made of the log's sums: every one with its interval, or with why it is missing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_rollouts.adapters.comparison_facts import NAMES, ArmFacts, Facts, Scores, Sums, added, delay_edge
from model_rollouts.core.auc import auc
from model_rollouts.core.calibration import BINS, Calibration, ScoreBin, calibration
from model_rollouts.core.estimates import Estimate, difference, mean, quantile, root_mean_square, share, unknown
from model_rollouts.core.evidence import latency_edge_ms
from model_rollouts.core.slices import Cell, Count, Search
from model_rollouts.core.slices import Sums as Measured

ARMS = ("champion", "challenger")
MOST_SHOWN = 20
_NO_ANSWERS = "no answers"
_NO_LABELS = "no label has matured"
_NO_VALUES = "no value has matured"


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be asked of the answers, by the labels that are there; of both arms, so that they are asked the same.

    Attributes:
        labelled: Labels that have matured.
        classes: "" where every label is 0 or 1; else why AUC, Brier score and calibration are not computed.
        probabilities: "" where the scores are from 0 to 1 too.
        numbers: "" where labels are numbers and not classes; else why there are no errors of size.
    """

    labelled: int
    classes: str
    probabilities: str
    numbers: str


def kind_of(arms: Iterable[ArmFacts]) -> Kind:
    """What the labels and scores of both arms allow."""
    sums = [arm.sums for arm in arms if arm.sums]
    labelled, binary, measured, scored = (
        sum(each[name] for each in sums) for name in ("labelled", "binary", "measured", "scored")
    )
    if not labelled:
        return Kind(0, _NO_LABELS, _NO_LABELS, _NO_LABELS)
    classes = "" if binary == labelled else f"{labelled - binary:,} of {labelled:,} labels are neither 0 nor 1"
    scores = "no answer has a score" if not scored else ""
    least = min((each["score_least"] for each in sums if each["scored"]), default=0.0)
    most = max((each["score_most"] for each in sums if each["scored"]), default=0.0)
    outside = "" if least >= 0 and most <= 1 else f"scores go from {least:g} to {most:g}: they are no probabilities"
    numbers = "" if measured else "labels and predictions are not both numbers"
    return Kind(
        labelled,
        classes or scores,
        classes or scores or outside,
        numbers if classes else "every label is 0 or 1: accuracy tells the same",
    )


def merged(arms: Sequence[ArmFacts]) -> ArmFacts:
    """The same arm over several stages."""
    arms = [arm for arm in arms if arm.sums]
    if not arms:
        return ArmFacts()
    sums = added(arm.sums for arm in arms)
    latency: Counter[int] = Counter()
    delay: Counter[int] = Counter()
    bins: dict[tuple[int, int, int], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for arm in arms:
        latency.update(arm.latency)
        delay.update(arm.delay)
        for each in arm.scores:
            place = bins[each.bin, each.tenth, each.truth]
            place[0], place[1], place[2] = place[0] + each.n, place[1] + each.score, place[2] + each.miss
    scores = [Scores(*key, int(n), score, miss) for key, (n, score, miss) in sorted(bins.items())]
    return ArmFacts(sums, latency, delay, scores)


def metrics(arm: ArmFacts, kind: Kind) -> dict[str, Estimate]:
    """Every metric of one arm, in the order they are shown."""
    found: Sums = arm.sums or dict.fromkeys(NAMES, 0)
    requests, labelled = found["requests"], found["labelled"]
    estimates = {"error_rate": share(found["errors"], requests, "no requests")}
    estimates |= {
        f"latency_p{percent}_ms": quantile(arm.latency, percent / 100, latency_edge_ms, _NO_ANSWERS)
        for percent in (50, 95, 99)
    }
    estimates["label_coverage"] = share(labelled, found["due"], "no label is due")
    estimates |= {
        f"label_delay_p{percent}_s": quantile(arm.delay, percent / 100, delay_edge, _NO_LABELS) for percent in (50, 90)
    }
    estimates["accuracy"] = share(labelled - found["wrong"], labelled, _NO_LABELS)
    estimates["auc"] = unknown(kind.classes) if kind.classes else auc(_by_class(arm.scores))
    for name, value in _probability_metrics(arm, kind).items():
        estimates[name] = value
    measured = found["measured"]
    numbers = {
        "mae": mean(measured, found["gap_size"], found["gap_2"], _NO_LABELS),
        "rmse": root_mean_square(measured, found["gap_2"], found["gap_4"], _NO_LABELS),
        "bias": mean(measured, found["gap"], found["gap_2"], _NO_LABELS),
    }
    estimates |= {name: unknown(kind.numbers) if kind.numbers else known for name, known in numbers.items()}
    estimates["mean_score"] = mean(found["scored"], found["score"], found["score_2"], "no answer has a score")
    estimates["value_coverage"] = share(found["valued"], found["value_due"], "no value is due")
    estimates["value_mean"] = mean(found["valued"], found["value"], found["value_2"], _NO_VALUES)
    return estimates


def _probability_metrics(arm: ArmFacts, kind: Kind) -> dict[str, Estimate]:
    if kind.probabilities:
        return dict.fromkeys(("brier", "calibration_error", "calibration_offset"), unknown(kind.probabilities))
    found = reliability(arm)
    sums: Sums = arm.sums or dict.fromkeys(NAMES, 0)
    return {
        "brier": mean(sums["judged"], sums["miss"], sums["miss_2"], "no label with a score"),
        "calibration_error": found.ece,
        "calibration_offset": found.offset,
    }


def reliability(arm: ArmFacts) -> Calibration:
    """Calibration over bins of a tenth."""
    tenths = []
    for tenth in range(BINS):
        of = [each for each in arm.scores if each.tenth == tenth]
        n, positives = sum(each.n for each in of), sum(each.n for each in of if each.truth)
        tenths.append(ScoreBin(n, positives, sum(each.score for each in of), sum(each.miss for each in of)))
    return calibration(tenths)


def _by_class(scores: Sequence[Scores]) -> list[tuple[int, int]]:
    bins: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for each in scores:
        bins[each.bin][each.truth] += each.n
    return [(negatives, positives) for _, (negatives, positives) in sorted(bins.items())]


def beside(champion: ArmFacts, challenger: ArmFacts, kind: Kind) -> dict[str, Any]:
    """Both arms and the difference, metric by metric, in JSON types."""
    by_arm = {"champion": metrics(champion, kind), "challenger": metrics(challenger, kind)}
    told = {
        name: {
            "champion": by_arm["champion"][name].to_dict(),
            "challenger": by_arm["challenger"][name].to_dict(),
            "difference": difference(by_arm["challenger"][name], by_arm["champion"][name]).to_dict(),
        }
        for name in by_arm["champion"]
    }
    requests = {arm: facts.sums.get("requests", 0) for arm, facts in zip(ARMS, (champion, challenger), strict=True)}
    return {"requests": requests, "metrics": told}


def agreement(asked: int, paired: int, agreed: int, why_none: str) -> dict[str, Any]:
    """Agreement where both versions answered, in JSON types."""
    told = unknown(why_none) if why_none else share(agreed, paired, "no request was given to both versions")
    return {"asked": asked, "paired": paired, "agreed": agreed, "agreement": told.to_dict()}


def cells(facts: Facts, kind: Kind) -> list[Cell]:
    """What can be tested in the slices; a single part is the whole stage, and no slice of it."""
    made = []
    parts = Counter(part.dimension for part in facts.parts)
    for part in facts.parts:
        if parts[part.dimension] == 1:
            continue
        champion, challenger = (part.arms.get(arm) or dict.fromkeys(NAMES, 0) for arm in ARMS)

        def counts(n: str, bad: str, of: tuple[Sums, Sums] = (champion, challenger)) -> tuple[Count, Count]:
            return Count(of[0][n], of[0][bad]), Count(of[1][n], of[1][bad])

        def sums(n: str, total: str, squares: str, of: tuple[Sums, Sums] = (champion, challenger)) -> Any:
            return tuple(Measured(each[n], each[total] or 0.0, each[squares] or 0.0) for each in of)

        place = part.dimension, part.label
        made.append(Cell(*place, "error_rate", "less", *counts("requests", "errors")))
        latencies = [
            Measured(each["requests"] - each["errors"], each["log_latency"] or 0.0, each["log_latency_2"] or 0.0)
            for each in (champion, challenger)
        ]
        made.append(Cell(*place, "log_latency", "less", *latencies))
        if kind.labelled and kind.numbers:
            made.append(Cell(*place, "wrong_rate", "less", *counts("labelled", "wrong")))
        if kind.labelled and not kind.numbers:
            made.append(Cell(*place, "absolute_error", "less", *sums("measured", "gap_size", "gap_2")))
        if not kind.probabilities:
            made.append(Cell(*place, "brier", "less", *sums("judged", "miss", "miss_2")))
        if any(each["valued"] for each in part.arms.values()):
            made.append(Cell(*place, "value", "more", *sums("valued", "value", "value_2")))
    return made


def slices(facts: Facts, search: Search, design_effects: Mapping[str, float]) -> dict[str, Any]:
    """What the search found, in JSON types: all findings that are shown, and at least the worst few."""
    shown = max(min(len(search.findings), 3 * MOST_SHOWN), MOST_SHOWN)
    return {
        "looked_at": search.looked_at,
        "too_small": search.too_small,
        "findings": len(search.findings),
        "correction": "Holm",
        "false_findings": 0.05,
        "design_effects": dict(design_effects),
        "columns": list(facts.columns),
        "columns_left_out": list(facts.left_out),
        "cut_by_rows": facts.surveyed,
        "slices": len(facts.parts),
        "worst": [each.to_dict() for each in search.found[:shown]],
    }
