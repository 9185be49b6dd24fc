"""The comparison over all rows of the log: asks the log, and puts the numbers together."""

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from model_rollouts.adapters.comparison_facts import ArmFacts, Asked, read_facts
from model_rollouts.adapters.comparison_metrics import (
    ARMS,
    agreement,
    beside,
    cells,
    kind_of,
    merged,
    reliability,
    slices,
)
from model_rollouts.adapters.comparison_offline import offline_rows
from model_rollouts.adapters.log_places import LogRoot
from model_rollouts.core.decision import Decision
from model_rollouts.core.gates import Metric
from model_rollouts.core.plan import FULL_SHARE
from model_rollouts.core.rollout import Rollout
from model_rollouts.core.slices import search
from model_rollouts.core.unit_evidence import PairCounts
from model_rollouts.ports import Window


class PairLog(Protocol):
    """What is asked of the log; `DeltaPredictionLog` has it."""

    root: LogRoot

    def pair_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window], tolerance: float | None
    ) -> list[PairCounts]:
        """See `PredictionLog`."""


def compare_rows(
    rollout: Rollout,
    decision: Decision,
    end: datetime,
    as_of: datetime,
    log: PairLog,
    requests_from: datetime | None = None,
) -> dict[str, Any]:
    """The stage, the rollout so far and the stage's slices, over all rows, in JSON types.

    Args:
        rollout: The rollout; a stage is open.
        decision: The verdict on the stage: tells by how much repeat requests of units stretch the variance.
        end: Rows before it count, UTC.
        as_of: Labels and values are due whose request had matured by then, UTC.
        log: The log.
        requests_from: From when on an offline stage's requests were scored, UTC; None: not known.

    Returns:
        With `computed` false and a `reason` where nothing could be compared.

    Raises:
        LogReadError: The log can't be read.
    """
    maturity = timedelta(seconds=rollout.plan.label_maturity_seconds)
    if rollout.plan.stage(decision.stage).offline:
        if requests_from is None:
            return _nothing("from when on requests were scored is not known; run the stage's watch again, and compare")
        with offline_rows(log.root, rollout, decision.stage, requests_from) as seen:
            if seen is None:
                return _nothing("no request of the offline stage is scored yet")
            asked = Asked(rollout.model, rollout.id, decision.stage, seen.start, seen.end, as_of, maturity)
            return _compared(rollout, decision, asked, seen.start, seen.log)
    if rollout.opened_at is None or end <= rollout.opened_at:
        return _nothing("no look of the stage is closed yet")
    asked = Asked(rollout.model, rollout.id, decision.stage, rollout.created_at, end, as_of, maturity)
    return _compared(rollout, decision, asked, rollout.opened_at, log)


def _compared(rollout: Rollout, decision: Decision, asked: Asked, began: datetime, log: PairLog) -> dict[str, Any]:
    """The numbers of a stage that began then."""
    facts = read_facts(log.root, asked)
    if not any(number == decision.stage for number, _ in facts.arms):
        return _nothing("the log has no row of the stage")
    effects = _design_effects(decision)
    of_stage = [facts.arms.get((decision.stage, arm), ArmFacts()) for arm in ARMS]
    of_rollout = [merged([found for (_, name), found in facts.arms.items() if name == arm]) for arm in ARMS]
    kind = kind_of(of_rollout)
    found = search(cells(facts, kind), effects)
    return {
        "computed": True,
        "reason": "",
        "until": asked.end.isoformat(),
        "labels_as_of": asked.as_of.isoformat(),
        "label_maturity_seconds": rollout.plan.label_maturity_seconds,
        "interval": "95 %, for one point in time; requests are taken for independent",
        "stage": beside(of_stage[0], of_stage[1], kind),
        "rollout": beside(of_rollout[0], of_rollout[1], kind),
        "pairs": _pairs(rollout, decision, Window(0, began, asked.end), log),
        "calibration": _calibration(of_stage, kind.probabilities),
        "slices": slices(facts, found, effects),
    }


def _nothing(reason: str) -> dict[str, Any]:
    return {"computed": False, "reason": reason}


def _pairs(rollout: Rollout, decision: Decision, window: Window, log: PairLog) -> dict[str, Any]:
    stage = rollout.plan.stage(decision.stage)
    if 0 < stage.share < FULL_SHARE:
        return agreement(0, 0, 0, f"no request goes to both versions at a share of {stage.share:g} %")
    gate = stage.gate(Metric.AGREEMENT)
    counts = log.pair_counts(rollout.model, rollout.id, decision.stage, [window], gate.tolerance if gate else None)[0]
    return agreement(counts.asked, counts.paired, counts.agreed, "")


def _design_effects(decision: Decision) -> dict[str, float]:
    """By the slices' metrics: those of the gates on the same outcome, where there are any."""
    gates = {str(gate.metric): max(1.0, gate.measured.design_effect) for gate in decision.gates}
    latency = [effect for metric, effect in gates.items() if metric.startswith("latency")]
    wrong = gates.get("wrong_rate", 1.0)
    return {
        "error_rate": gates.get("error_rate", 1.0),
        "log_latency": max(latency, default=1.0),
        "wrong_rate": wrong,
        "absolute_error": wrong,
        "brier": wrong,
    }


def _calibration(arms: Sequence[ArmFacts], why_none: str) -> dict[str, Any]:
    if why_none:
        return {"reason": why_none}
    found = {arm: reliability(facts) for arm, facts in zip(ARMS, arms, strict=True)}
    return {
        arm: {"error": each.ece.to_dict(), "error_by_chance": each.chance, "bins": list(each.bins)}
        for arm, each in found.items()
    }


def metrics_of(rows: Mapping[str, Any]) -> dict[str, float]:
    """The stage's main numbers by name for MLflow; those that are not known are left out."""
    if not rows["computed"]:
        return {}
    named = {
        f"stage_{side}_{name}": estimate[side]["value"]
        for name, estimate in rows["stage"]["metrics"].items()
        for side in (*ARMS, "difference")
    }
    named |= {
        "stage_agreement": rows["pairs"]["agreement"]["value"],
        "slices_looked_at": rows["slices"]["looked_at"],
        "slices_found": rows["slices"]["findings"],
    }
    return {name: float(value) for name, value in named.items() if value is not None}


def write_table(rows: Mapping[str, Any], file: Path) -> None:
    """All metrics as one table: a line for each metric of the stage and of the rollout."""
    sides = (*ARMS, "difference")
    header = ["scope", "metric", *(f"{side}_{part}" for side in sides for part in ("value", "low", "high", "n"))]
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*header, "reason"])
        for scope in ("stage", "rollout") if rows["computed"] else ():
            for name, estimate in rows[scope]["metrics"].items():
                numbers = [estimate[side][part] for side in sides for part in ("value", "low", "high", "n")]
                reasons = {estimate[side].get("reason", "") for side in ARMS} - {""}
                writer.writerow([scope, name, *numbers, "; ".join(sorted(reasons))])
