"""The verdict of a stage: a pure function of the plan, the closed looks and the time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from model_rollouts.core.combination import log_e_family
from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import AtDeadline, Gate, Role
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.plan import Plan, Underpowered
from model_rollouts.core.reasons import plain, sentence
from model_rollouts.core.silence import silence
from model_rollouts.core.stage_power import shortfall
from model_rollouts.core.verdict import Action, GateResult, Measured, Verdict

__all__ = ["Action", "Decision", "GateResult", "Measured", "Verdict", "action_at_deadline", "decide", "decide_from"]

#: Grows when the same counts give other numbers than before: what an earlier engine decided is not compared.
ENGINE = 1

_DEADLINE_ACTIONS = {
    AtDeadline.HOLD: Action.HOLD,
    AtDeadline.ROLL_BACK: Action.ROLL_BACK,
    AtDeadline.ASK: Action.ASK,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict of a stage, the action it calls for, and why.

    Attributes:
        verdict: The worst of the gates' verdicts, with time taken into account.
        action: What is to be done.
        reason: One sentence for a person.
        gates: Every gate's result.
        stage: Position of the stage in the plan.
        elapsed_seconds: Time since the stage's traffic moved, or since it was resumed.
        looks: How many looks it rests on.
        labelled_looks: How many of them, from the first on, had their labels.
        signals_from: How many of the looks, from the first on, signals leave out.
        log_e_family: Natural log of the guardrails' combined e-value; the plan's alpha is its bound.
        blind: Whether an arm is silent now, or the evidence could not be read: a pass of earlier no longer counts.
        unreadable: Why the newest evidence could not be read; "" when it could.
        waits_for: What the next look is about to close with, in a moment; "" when it waits for nothing but its time.
        exhausted: That there is no more evidence to wait for, with numbers; "" while there may be.
        engine: Which engine made it.
    """

    verdict: Verdict
    action: Action
    reason: str
    gates: tuple[GateResult, ...]
    stage: int
    elapsed_seconds: float
    looks: int
    labelled_looks: int = 0
    signals_from: int = 0
    log_e_family: float = 0.0
    blind: bool = False
    unreadable: str = ""
    waits_for: str = ""
    exhausted: str = ""
    engine: int = ENGINE

    @property
    def alarmed(self) -> bool:
        """Whether a gate that may stop the stage has proven harm, or an objective a miss."""
        return any(gate.verdict is Verdict.FAIL and gate.role is not Role.MUTED for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; infinite e-values become the strings "inf" and "-inf"."""
        data = asdict(replace(self, gates=()))
        data["gates"] = [gate.to_dict() for gate in self.gates]
        if math.isinf(self.log_e_family):
            data["log_e_family"] = str(self.log_e_family)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Decision":
        """The inverse of `to_dict`.

        Raises:
            ValueError: It was made before decisions said which engine made them.
        """
        if "engine" not in data:
            raise ValueError("the decision was made before decisions could be made again")
        return cls(
            **{
                **data,
                "verdict": Verdict(data["verdict"]),
                "action": Action(data["action"]),
                "gates": tuple(GateResult.from_dict(gate) for gate in data["gates"]),
                "log_e_family": float(data["log_e_family"]),
            }
        )


def action_at_deadline(plan: Plan, stage: int, gate: Gate | None = None) -> Action:
    """What is done when a deadline comes without proof: as the gate says, or else the stage, or else the plan."""
    own = gate.at_deadline if gate else None
    return _DEADLINE_ACTIONS[own or plan.stage(stage).at_deadline or plan.at_deadline]


def decide(plan: Plan, stage: int, looks: Sequence[Look], elapsed_seconds: float, signals_from: int = 0) -> Decision:
    """Judge a stage on all closed looks of the rollout so far, in order of stage and index.

    Whoever judges the same rollout again and again keeps a `Ledger` and calls `decide_from`, with the same result.

    Raises:
        PlanError: There is no such stage.
        ValueError: The looks are not in order, or are of a later stage; or the time is not a finite number.
    """
    ledger = Ledger(plan)
    ledger.take(looks)
    return decide_from(ledger, stage, elapsed_seconds, signals_from)


def decide_from(ledger: Ledger, stage: int, elapsed_seconds: float, signals_from: int = 0) -> Decision:
    """Judge a stage on the looks of a ledger.

    Harm is looked for over all looks of the rollout, with processes that begin at the rollout's start and at each
    later stage. Non-inferiority is proven on the stage's own looks alone, against the stage's own margin: what was
    good at a small share says nothing of a larger one. The gates that roll back share alpha (core/combination.py);
    passing needs all of them, so beta needs no correction. Nothing passes while an arm is silent.

    Args:
        ledger: The rollout's looks.
        stage: Position of the stage that is being judged.
        elapsed_seconds: Time since the stage's traffic moved, or since it was resumed.
        signals_from: How many looks, from the rollout's first on, signals leave out: what a person had seen when they
            resumed a held stage does not hold it, or a later one, again.

    Raises:
        PlanError: There is no such stage.
        ValueError: The looks are of a later stage, or the time is not a finite number.
    """
    plan, looks = ledger.plan, ledger.looks
    setting = plan.stage(stage)
    if not math.isfinite(elapsed_seconds):
        raise ValueError(f"elapsed_seconds is {elapsed_seconds}, must be a finite number of seconds")
    if looks and looks[-1].stage > stage:
        raise ValueError(f"looks must be in order, none after stage {stage}; got one of stage {looks[-1].stage}")
    results = _judge_all(ledger, stage, signals_from)
    rolling = [(gate, result) for gate, result in results if gate.role.rolls_back]
    shares = [plan.alpha_of(stage, gate) for gate, _ in rolling]
    family = log_e_family([r.measured.log_e_harm for _, r in rolling], shares, plan.alpha)
    quiet = silence(stage, looks)

    def made(verdict: Verdict, action: Action, reason: str) -> Decision:
        return Decision(
            verdict=verdict,
            action=action,
            reason=reason,
            gates=tuple(result for _, result in results),
            stage=stage,
            elapsed_seconds=elapsed_seconds,
            looks=len(looks),
            labelled_looks=ledger.matured,
            signals_from=signals_from,
            log_e_family=family,
            blind=bool(quiet),
        )

    short = shortfall(plan, stage, results, elapsed_seconds)
    verdict, action, gate = _conclude(
        plan, stage, results, family, elapsed_seconds, quiet=bool(quiet), short=bool(short)
    )
    named = [g for g, r in results if g == gate or (verdict is Verdict.PASS and r.verdict is Verdict.PASS)]
    if verdict is not Verdict.WAIT:
        results = [(g, _with_bounds(ledger, g, r, stage, signals_from) if g in named else r) for g, r in results]
    said = {g: r.reason for g, r in results}
    counted = [reason for g, reason in said.items() if g.role is not Role.MUTED]
    waiting = [said[g] for g, r in results if _holds_up(g, r)] + ([quiet] if quiet else [])
    if verdict is Verdict.FAIL:
        if gate is not None:
            return made(verdict, action, said[gate])
        return made(
            verdict,
            action,
            f"the guardrails together show harm (evidence {plain(family)}, needed {plain(-math.log(plan.alpha))}): "
            f"roll back; " + "; ".join(said[g] for g, _ in rolling),
        )
    if verdict is Verdict.PASS:
        return made(verdict, action, f"every gate passed at {setting.share:g} %: " + "; ".join(counted))
    if verdict is Verdict.INCONCLUSIVE and gate is not None:
        late = gate.deadline_seconds is not None and elapsed_seconds >= gate.deadline_seconds
        alarmed = next(r for g, r in results if g == gate).verdict is Verdict.FAIL
        prefix = f"deadline of {gate.deadline_seconds:g} s reached without proof: " if late and not alarmed else ""
        return made(verdict, action, prefix + said[gate])
    told = "; ".join([*waiting, *([short] if short else [])])
    if verdict is Verdict.INCONCLUSIVE and elapsed_seconds >= setting.deadline_seconds:
        reached = f"deadline of {setting.deadline_seconds:g} s reached at {setting.share:g} % without proof: "
        return made(verdict, action, reached + told)
    if waiting:
        return made(verdict, action, told)
    return made(verdict, action, f"every gate passed; {setting.bake_seconds - elapsed_seconds:.0f} s of bake time left")


_Judged = list[tuple[Gate, GateResult]]


def _conclude(
    plan: Plan, stage: int, results: _Judged, family: float, elapsed: float, *, quiet: bool, short: bool
) -> tuple[Verdict, Action, Gate | None]:
    """The verdict, what to do, and the gate that it rests on, if it rests on one."""
    setting = plan.stage(stage)
    harmful = [(g, r) for g, r in results if r.verdict is Verdict.FAIL]
    if failed := [(g, r) for g, r in harmful if g.role.rolls_back]:
        worst, _ = max(failed, key=lambda found: found[1].measured.log_e_harm - found[1].harm_threshold)
        return Verdict.FAIL, Action.ROLL_BACK, worst
    if family >= -math.log(plan.alpha):
        return Verdict.FAIL, Action.ROLL_BACK, None
    for gate, _ in harmful:
        if gate.role is Role.SIGNAL:
            return Verdict.INCONCLUSIVE, Action.HOLD, gate
        if gate.role is Role.OBJECTIVE:
            return Verdict.INCONCLUSIVE, action_at_deadline(plan, stage, gate), gate
    waiting = [g for g, r in results if _holds_up(g, r)]
    if not waiting and not quiet and elapsed >= setting.bake_seconds:
        last = stage == len(plan.stages) - 1
        return Verdict.PASS, Action.CUT_OVER if last else Action.EXPAND, None
    if elapsed >= setting.deadline_seconds:
        return Verdict.INCONCLUSIVE, most_careful(plan, stage, waiting), None
    for gate in waiting:
        if gate.deadline_seconds is not None and elapsed >= gate.deadline_seconds:
            return Verdict.INCONCLUSIVE, action_at_deadline(plan, stage, gate), gate
    if plan.underpowered is not Underpowered.WAIT and short:
        asks = plan.underpowered is Underpowered.ASK
        return Verdict.INCONCLUSIVE, Action.ASK if asks else Action.HOLD, None
    return Verdict.WAIT, Action.WAIT, None


def most_careful(plan: Plan, stage: int, waiting: Sequence[Gate]) -> Action:
    """Of what the waiting gates want at the stage's deadline, the most careful."""
    wanted = {action_at_deadline(plan, stage, gate) for gate in waiting} or {action_at_deadline(plan, stage)}
    return next(action for action in (Action.ROLL_BACK, Action.HOLD, Action.ASK) if action in wanted)


def _holds_up(gate: Gate, result: GateResult) -> bool:
    """Whether the stage can't be left because of this gate. A signal that has nothing to say holds nothing up."""
    return result.verdict is not Verdict.PASS and gate.role.holds_up


def _judge_all(ledger: Ledger, stage: int, signals_from: int) -> _Judged:
    gates = ledger.plan.stage(stage).gates
    return [(gate, _judge(ledger, gate, stage, signals_from)) for gate in gates]


def _judge(ledger: Ledger, gate: Gate, stage: int, signals_from: int) -> GateResult:
    measured = ledger.tally(gate, stage, signals_from).measure()
    thresholds = -math.log(ledger.plan.alpha_of(stage, gate)), -math.log(ledger.plan.beta_of(gate))
    result = GateResult(gate.metric, gate.role, Verdict.WAIT, "", measured, *thresholds)
    result = replace(result, verdict=_gate_verdict(gate, result))
    return replace(result, reason=sentence(gate, result))


def _gate_verdict(gate: Gate, result: GateResult) -> Verdict:
    m = result.measured
    if m.log_e_harm >= result.harm_threshold and not m.short:
        return Verdict.FAIL
    if (m.coverage is not None and m.coverage < gate.coverage) or m.stage_n < gate.min_requests:
        return Verdict.WAIT
    if m.short and gate.role.must_prove:
        return Verdict.WAIT
    if not gate.role.must_prove or m.log_e_pass >= result.pass_threshold:
        return Verdict.PASS
    return Verdict.WAIT


def _with_bounds(ledger: Ledger, gate: Gate, result: GateResult, stage: int, signals_from: int) -> GateResult:
    """The same with its confidence bounds, which cost more than the verdict itself: only where a verdict names it."""
    low, high = ledger.tally(gate, stage, signals_from).bounds(result.harm_threshold, result.pass_threshold)
    result = replace(result, effect_low=low, effect_high=high)
    return replace(result, reason=sentence(gate, result))
