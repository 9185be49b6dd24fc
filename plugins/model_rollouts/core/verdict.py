"""Verdicts, actions, and the result of one gate."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from model_rollouts.core.gates import Metric, Role


class Verdict(StrEnum):
    """What the evidence says. Missing data is never a pass."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    WAIT = "wait"
    INCONCLUSIVE = "inconclusive"


class Action(StrEnum):
    """What is done about it."""

    EXPAND = "expand"
    CUT_OVER = "cut_over"
    ROLL_BACK = "roll_back"
    HOLD = "hold"
    ASK = "ask"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers of one gate, before anything is concluded from them.

    Attributes:
        effect: Estimate over all looks, None where undefined. Rates: Mantel-Haenszel odds ratio. Agreement: share of
            equal answers. Sample ratio: challenger's share of the new units over the planned one. Value: relative lift.
        log_e_harm: Natural log of the e-value against "no harm beyond the margin".
        log_e_pass: Natural log of the e-value against "worse than the margin", over the stage's own looks.
        challenger_bad: Rates: bad outcomes of the challenger, all looks. Agreement: disagreements. Else 0.
        challenger_n: Judged requests of the challenger (pairs; new units), all looks.
        champion_bad: Rates: bad outcomes of the champion. Else 0.
        champion_n: Judged requests of the champion (the same pairs; new units), all looks.
        stage_n: Judged requests of the challenger in this stage, in looks that judged the champion too.
        stage_counts: Rates: (challenger_bad, challenger_n, champion_bad, champion_n) of this stage; else None.
        coverage: Least coverage of the two arms over the looks that can have it, in this stage and in all; None for
            metrics that need none.
        short: What else is missing before the gate can be judged at all, as a clause; "" for nothing.
        design_effect: By how much repeat requests of units stretch the variance; 1 where they do not.
        requests_per_unit: Mean size of the unit that a request belongs to.
        correlation: Correlation of two requests of one unit; None where nothing tells it.
        detail: Numbers of this metric alone, for the record.
    """

    effect: float | None
    log_e_harm: float
    log_e_pass: float
    challenger_bad: int
    challenger_n: int
    champion_bad: int
    champion_n: int
    stage_n: int
    stage_counts: tuple[int, int, int, int] | None = None
    coverage: float | None = None
    short: str = ""
    design_effect: float = 1.0
    requests_per_unit: float = 1.0
    correlation: float | None = None
    detail: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict with the numbers it was made from.

    Attributes:
        metric: The gate's metric.
        role: The gate's role.
        verdict: pass, fail or wait. A fail is proven harm, whatever the role makes of it.
        reason: One sentence for a person.
        measured: The numbers.
        harm_threshold: Natural log that log_e_harm has to reach for harm.
        pass_threshold: Natural log that log_e_pass has to reach to pass.
        effect_low: Bound below which the effect is not, at any time; None while the stage waits, or where there is
            none. Rates: over all looks, with the confidence of `harm_threshold`. Agreement and value, where less is
            worse: with that of `pass_threshold`.
        effect_high: Bound above which it is not. Rates: over the stage's looks, with the confidence of
            `pass_threshold`. Agreement and value: over all looks, with that of `harm_threshold`.
    """

    metric: Metric
    role: Role
    verdict: Verdict
    reason: str
    measured: Measured
    harm_threshold: float
    pass_threshold: float
    effect_low: float | None = None
    effect_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; infinite e-values become the strings "inf" and "-inf"."""
        data = asdict(self)
        if self.measured.stage_counts is not None:
            data["measured"]["stage_counts"] = list(self.measured.stage_counts)
        for key in ("log_e_harm", "log_e_pass"):
            if math.isinf(data["measured"][key]):
                data["measured"][key] = str(data["measured"][key])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GateResult":
        """The inverse of `to_dict`."""
        measured = {**data["measured"]}
        for key in ("log_e_harm", "log_e_pass"):
            measured[key] = float(measured[key])
        kinds = {"metric": Metric(data["metric"]), "role": Role(data["role"]), "verdict": Verdict(data["verdict"])}
        if measured.get("stage_counts") is not None:
            measured["stage_counts"] = tuple(measured["stage_counts"])
        return cls(**{**data, **kinds, "measured": Measured(**measured)})
