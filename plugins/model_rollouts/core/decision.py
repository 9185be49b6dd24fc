"""The verdict of a stage: a pure function of the plan, the closed looks and the time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from model_rollouts.core.counting import strata_of
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.odds_ratio import Stratum, better_than, estimate, log_e_process, worse_than
from model_rollouts.core.plan import AtDeadline, Plan
from model_rollouts.core.proportion import log_e_rate_below


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
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict with the numbers it was made from.

    Attributes:
        metric: The gate's metric.
        role: The gate's role.
        verdict: pass, fail or wait.
        reason: One sentence for a person.
        odds_ratio: Mantel-Haenszel estimate over all looks; None where undefined.
        log_e_harm: Natural log of the e-value against "no worse than rollback_odds".
        log_e_pass: Natural log of the e-value against "worse than pass_odds", over the stage's own looks.
        harm_threshold: Natural log that log_e_harm has to reach to roll back.
        pass_threshold: Natural log that log_e_pass has to reach to pass.
        challenger_bad: Bad outcomes of the challenger, all looks.
        challenger_n: Judged requests of the challenger, all looks.
        champion_bad: Bad outcomes of the champion, all looks.
        champion_n: Judged requests of the champion, all looks.
        stage_n: Judged requests of the challenger in this stage, in looks that judged the champion too.
        coverage: Least label coverage of the two arms over matured looks, in this stage and in all; None for
            unlabelled metrics.
    """

    metric: Metric
    role: Role
    verdict: Verdict
    reason: str
    odds_ratio: float | None
    log_e_harm: float
    log_e_pass: float
    harm_threshold: float
    pass_threshold: float
    challenger_bad: int
    challenger_n: int
    champion_bad: int
    champion_n: int
    stage_n: int
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict of a stage, the action it calls for, and why.

    Attributes:
        verdict: The worst of the gates' verdicts, with time taken into account.
        action: What is to be done.
        reason: One sentence for a person.
        gates: Every gate's result.
        stage: Position of the stage in the plan.
        elapsed_seconds: Time since the stage's traffic moved.
        looks: How many looks it rests on.
        blind: Whether an arm is silent now, or the evidence could not be read: a pass of earlier no longer counts.
    """

    verdict: Verdict
    action: Action
    reason: str
    gates: tuple[GateResult, ...]
    stage: int
    elapsed_seconds: float
    looks: int
    blind: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON types; infinite e-values become the strings "inf" and "-inf"."""
        data = asdict(self)
        for gate in data["gates"]:
            for key in ("log_e_harm", "log_e_pass"):
                if math.isinf(gate[key]):
                    gate[key] = str(gate[key])
        data["gates"] = list(data["gates"])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Decision":
        """The inverse of `to_dict`."""
        gates = tuple(
            GateResult(
                **{
                    **gate,
                    "metric": Metric(gate["metric"]),
                    "role": Role(gate["role"]),
                    "verdict": Verdict(gate["verdict"]),
                    "log_e_harm": float(gate["log_e_harm"]),
                    "log_e_pass": float(gate["log_e_pass"]),
                }
            )
            for gate in data["gates"]
        )
        return cls(**{**data, "verdict": Verdict(data["verdict"]), "action": Action(data["action"]), "gates": gates})


def action_at_deadline(plan: Plan) -> Action:
    """What the plan does when a deadline comes and nothing is proven."""
    return Action.ROLL_BACK if plan.at_deadline is AtDeadline.ROLL_BACK else Action.HOLD


_QUIET_LOOKS, _QUIET_SHARE = 3, 0.2

_NAMES = {
    Metric.ERROR_RATE: "error rate",
    Metric.WRONG_RATE: "rate of wrong predictions",
    Metric.LATENCY_P95: "share of answers slower than the champion's p95",
    Metric.LATENCY_P99: "share of answers slower than the champion's p99",
}


def decide(plan: Plan, stage: int, looks: Sequence[Look], elapsed_seconds: float) -> Decision:
    """Judge a stage.

    Harm is looked for over all looks of the rollout, with processes that begin at the rollout's start and at each
    later stage. Non-inferiority is proven on the stage's own looks alone, against the stage's own margin: what was
    good at a small share says nothing of a larger one. Several guardrails share alpha equally (a union bound);
    passing needs all of them, so beta needs no correction. Nothing passes while an arm is silent.

    Args:
        plan: The rollout's plan.
        stage: Position of the stage that is being judged.
        looks: All closed looks of the rollout so far, in order of stage and index.
        elapsed_seconds: Time since the stage's traffic moved.

    Raises:
        PlanError: There is no such stage.
        ValueError: The looks are not in order, or are of a later stage; or the time is not a finite number.
    """
    setting = plan.stage(stage)
    if not math.isfinite(elapsed_seconds):
        raise ValueError(f"elapsed_seconds is {elapsed_seconds}, must be a finite number of seconds")
    order = [(look.stage, look.index) for look in looks]
    if order != sorted(set(order)) or any(s > stage for s, _ in order):
        raise ValueError(f"looks must be in order, each once, none after stage {stage}; got {order[:5]}...")
    judging = sum(gate.role is not Role.MUTED for gate in setting.gates)
    results = tuple(_judge(plan, gate, judging, stage, looks) for gate in setting.gates)
    counted = [r for r in results if r.role is not Role.MUTED]
    last = stage == len(plan.stages) - 1
    silence = _silence(stage, looks)

    def made(verdict: Verdict, action: Action, reason: str) -> Decision:
        return Decision(verdict, action, reason, results, stage, elapsed_seconds, len(looks), blind=bool(silence))

    if failed := [r for r in counted if r.verdict is Verdict.FAIL]:
        worst = max(failed, key=lambda r: r.log_e_harm)
        return made(Verdict.FAIL, Action.ROLL_BACK, worst.reason)
    waiting = [r.reason for r in counted if r.verdict is Verdict.WAIT]
    if silence:
        waiting.append(silence)
    if not waiting and elapsed_seconds >= setting.bake_seconds:
        action = Action.CUT_OVER if last else Action.EXPAND
        reason = f"every gate passed at {setting.share:g} %: " + "; ".join(r.reason for r in counted)
        return made(Verdict.PASS, action, reason)
    if elapsed_seconds >= setting.deadline_seconds:
        reason = (
            f"deadline of {setting.deadline_seconds:g} s reached at {setting.share:g} % without proof: "
            + "; ".join(waiting)
        )
        return made(Verdict.INCONCLUSIVE, action_at_deadline(plan), reason)
    if waiting:
        return made(Verdict.WAIT, Action.WAIT, "; ".join(waiting))
    left = setting.bake_seconds - elapsed_seconds
    return made(Verdict.WAIT, Action.WAIT, f"every gate passed; {left:.0f} s of bake time left")


def _judge(plan: Plan, gate: Gate, judging: int, stage: int, looks: Sequence[Look]) -> GateResult:
    strata = strata_of(gate, looks)
    # Every stage of the plan has its start, also the ones to come (they stand at the end): the weights of the
    # mixture are fixed when the rollout begins, or it would not be an e-process.
    starts = [0, *(_first_of(looks, s) for s in range(1, len(plan.stages)))]
    total = _total(strata)
    own = [s for s, look in zip(strata, looks, strict=True) if look.stage == stage]
    # Requests of a look without a champion's are not judged: there was nothing to compare them with.
    in_stage = sum(s.challenger_n for s in own if s.champion_n)
    log_e_harm = log_e_process(strata, gate.rollback_odds, worse_than(gate.rollback_odds), starts)
    log_e_pass = log_e_process(own, gate.pass_odds, better_than(gate.pass_odds))
    if gate.negligible is not None:
        # Harm to prove absent: worse than the margin AND above the negligible rate. Under it both are e-values,
        # and so is their mean.
        ceiling = log_e_rate_below(_total(own).challenger_bad, _total(own).challenger_n, gate.negligible)
        log_e_pass = math.log(0.5) + float(_log_add(log_e_pass, ceiling))
    numbers = GateResult(
        metric=gate.metric,
        role=gate.role,
        verdict=Verdict.WAIT,
        reason="",
        odds_ratio=estimate(strata),
        log_e_harm=log_e_harm,
        log_e_pass=log_e_pass,
        harm_threshold=-math.log(plan.alpha / max(judging, 1)),
        pass_threshold=-math.log(plan.beta),
        challenger_bad=total.challenger_bad,
        challenger_n=total.challenger_n,
        champion_bad=total.champion_bad,
        champion_n=total.champion_n,
        stage_n=in_stage,
        coverage=_coverage(looks, stage) if gate.metric is Metric.WRONG_RATE else None,
    )
    verdict, reason = _gate_verdict(gate, numbers)
    return replace(numbers, verdict=verdict, reason=reason)


def _gate_verdict(gate: Gate, r: GateResult) -> tuple[Verdict, str]:
    name = f"challenger's {_NAMES[gate.metric]}"
    counts = f"{r.challenger_bad:,} of {r.challenger_n:,} against {r.champion_bad:,} of {r.champion_n:,}"
    ratio = "no odds ratio yet" if r.odds_ratio is None else f"odds ratio {r.odds_ratio:.2f}"
    if r.log_e_harm >= r.harm_threshold:
        return Verdict.FAIL, (
            f"{name} is worse than {gate.rollback_odds:g} times the champion's odds ({ratio}; {counts}; "
            f"evidence {_plain(r.log_e_harm)}, needed {_plain(r.harm_threshold)})"
        )
    if r.coverage is not None and r.coverage < gate.coverage:
        arrived = f"{r.coverage:.0%} of the due labels have" if r.coverage else "no due label of this stage has"
        return Verdict.WAIT, f"{name} can't be judged: {arrived} arrived, needed {gate.coverage:.0%}"
    if r.stage_n < gate.min_requests:
        return Verdict.WAIT, f"{name}: {r.stage_n:,} judged requests in this stage, needed {gate.min_requests:,}"
    if gate.role is Role.TRIPWIRE:
        return Verdict.PASS, f"{name} shows no harm ({ratio}; {counts})"
    margin = f"within {gate.pass_odds:.3g} times the champion's odds"
    if gate.negligible is not None:
        margin += f", or below {gate.negligible:.2%}"
    if r.log_e_pass >= r.pass_threshold:
        return Verdict.PASS, f"{name} is proven to be {margin} ({ratio}; {counts})"
    return Verdict.WAIT, (
        f"{name} is not yet proven to be {margin} ({ratio}; {counts}; "
        f"evidence {_plain(r.log_e_pass)}, needed {_plain(r.pass_threshold)})"
    )


def _silence(stage: int, looks: Sequence[Look]) -> str:
    """What is to be said when an arm has been silent for the newest of the stage's looks; "" when none has.

    A gap of a few looks, or of a fifth of the stage's, is ordinary at a small share. A longer one means that the log,
    the gateway or the challenger is gone, and earlier looks can't speak for the present.
    """
    own = [look for look in looks if look.stage == stage]
    allowed = max(_QUIET_LOOKS, math.ceil(_QUIET_SHARE * len(own)))
    for arm in ("champion", "challenger"):
        quiet = 0
        for look in reversed(own):
            if getattr(look, arm).requests:
                break
            quiet += 1
        if quiet > allowed:
            return f"{arm} has no requests in the last {quiet:,} looks, at most {allowed:,} may be empty"
    return ""


def _first_of(looks: Sequence[Look], stage: int) -> int:
    return next((i for i, look in enumerate(looks) if look.stage >= stage), len(looks))


def _total(strata: Sequence[Stratum]) -> Stratum:
    return Stratum(
        sum(s.challenger_bad for s in strata),
        sum(s.challenger_n for s in strata),
        sum(s.champion_bad for s in strata),
        sum(s.champion_n for s in strata),
    )


def _coverage(looks: Sequence[Look], stage: int) -> float:
    """Least share of due labels that arrived, of the two arms, in the stage and in all; 0 while nothing is due.

    Of the stage as well, or labels that stop arriving late in a rollout would hide behind those that came before.
    """
    shares = []
    for part in (looks, [look for look in looks if look.stage == stage]):
        for labels in (
            [look.champion_labels for look in part if look.champion_labels],
            [look.challenger_labels for look in part if look.challenger_labels],
        ):
            due = sum(counts.due for counts in labels)
            shares.append(sum(counts.labelled for counts in labels) / due if due else 0.0)
    return min(shares)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if math.isinf(high) else high + math.log1p(math.exp(low - high))


def _plain(log_e: float) -> str:
    return f"{math.exp(log_e):,.3g}" if log_e < 20 else f"1e{log_e / math.log(10):.0f}"  # noqa: PLR2004
