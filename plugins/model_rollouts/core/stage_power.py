"""Whether a stage can come to a verdict in its time, before it starts and while it runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import FULL_SHARE, Plan, Stage
from model_rollouts.core.power import Need, need
from model_rollouts.core.verdict import GateResult, Verdict

_SEVERAL = 3  # looks that tell the traffic: one may be empty


@dataclass(frozen=True, slots=True)
class GatePower:
    """What one gate of a stage needs, at the measured traffic.

    Attributes:
        need: Requests of the challenger.
        seconds_to_pass: Time until a challenger as good as the champion passes; None where it is not known.
        seconds_to_fail: Time until one that is twice as bad is seen; None where it is not known.
        underpowered: The proof would come after the deadline.
    """

    need: Need
    seconds_to_pass: float | None
    seconds_to_fail: float | None
    underpowered: bool


@dataclass(frozen=True, slots=True)
class StagePower:
    """What a stage needs, at the measured traffic.

    Attributes:
        stage: Position of the stage.
        share: Its share, in percent.
        requests_per_second: Challenger requests that the stage will see.
        gates: One entry a gate that can be told beforehand.
        underpowered: At least one gate's proof would come after its deadline, or there is no traffic to measure by.
        summary: One sentence.
    """

    stage: int
    share: float
    requests_per_second: float
    gates: tuple[GatePower, ...]
    underpowered: bool
    summary: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types; an infinite need is None."""
        data = asdict(self)
        data["gates"] = list(data["gates"])
        for gate in data["gates"]:
            for name, value in [*gate.items(), *gate["need"].items()]:
                target = gate["need"] if name in gate["need"] else gate
                if isinstance(value, float) and math.isinf(value):
                    target[name] = None
        return data


def plan_power(plan: Plan, baseline: Baseline) -> tuple[StagePower, ...]:
    """What each stage of a plan needs, before anything moves.

    Args:
        plan: The plan.
        baseline: The champion's recent traffic.
    """
    return tuple(_stage_power(plan, stage, baseline) for stage in range(len(plan.stages)))


def _stage_power(plan: Plan, stage: int, baseline: Baseline) -> StagePower:
    setting = plan.stage(stage)
    rate = baseline.requests / baseline.seconds * _challenger_part(setting)
    if not rate > 0:
        text = f"at {setting.share:g} %: underpowered, no traffic was logged to measure by"
        return StagePower(stage, setting.share, 0.0, (), True, text)
    gates, short_of = [], []
    for gate in setting.gates:
        if gate.role is Role.MUTED or not (gate.metric.is_rate or gate.metric is Metric.AGREEMENT):
            continue
        judged, delay = _judged(gate, plan, baseline)
        wanted = need(
            gate,
            _bad_rate(gate, baseline),
            _judged_share(setting),
            plan.alpha_of(stage, gate),
            plan.beta_of(gate),
        )
        seconds = _seconds(wanted.to_pass, rate * judged, delay)
        deadline = plan.deadline_of(stage, gate)
        short = gate.role.holds_up and (seconds is None or seconds > deadline)
        units = _units(gate, setting, baseline)
        few = wanted.to_pass is not None and wanted.to_pass > units
        gates.append(GatePower(wanted, seconds, _seconds(wanted.to_fail, rate * judged, delay), short or few))
        if few:
            short_of.append(f"{gate.metric} needs {wanted.to_pass:,.0f} units, the share has {units:,.0f}")
        elif short:
            short_of.append(f"{gate.metric} takes {_duration(seconds)} and has {_duration(deadline)}")
    slowest = max(gates, key=lambda power: power.seconds_to_pass or 0.0, default=None)
    text = f"at {setting.share:g} %, {rate:,.3g} challenger requests a second: "
    if short_of:
        text += f"underpowered, {', '.join(short_of)}"
    elif slowest is not None:
        text += f"a proof takes about {_duration(slowest.seconds_to_pass)} ({slowest.need.metric})"
    return StagePower(stage, setting.share, rate, tuple(gates), bool(short_of), text)


def shortfall(plan: Plan, stage: int, results: Sequence[tuple[Gate, GateResult]], elapsed: float) -> str:
    """What is to be said when a running stage can't be proven before its deadline at the traffic that it gets.

    Looked at once the bake time is over, by what the stage itself has seen; "" when it can, or when there is nothing
    left to wait for.
    """
    setting = plan.stage(stage)
    if elapsed < max(setting.bake_seconds, plan.look_seconds) or elapsed >= setting.deadline_seconds:
        return ""
    said = []
    for gate, result in results:
        m = result.measured
        if result.verdict is not Verdict.WAIT or not gate.role.holds_up or gate.metric is Metric.VALUE:
            continue
        delay = plan.look_seconds + plan.grace_seconds + (plan.label_maturity_seconds if gate.metric.matures else 0.0)
        deadline = plan.deadline_of(stage, gate)
        if not delay + _SEVERAL * plan.look_seconds < elapsed < deadline:
            continue
        to_pass = needed(plan, stage, gate, result)
        if to_pass is None:
            said.append(f"{gate.metric} can't be proven by any number of requests")
            continue
        speed = m.stage_n / (elapsed - delay)
        missing = to_pass - m.stage_n
        if not speed or elapsed + missing / speed > deadline:
            late = _duration(missing / speed) if speed else "no end"
            said.append(
                f"{gate.metric} needs about {missing:,.0f} more requests, {late} at this traffic, and "
                f"{_duration(deadline - elapsed)} are left"
            )
    return f"underpowered: {'; '.join(said)}" if said else ""


def needed(plan: Plan, stage: int, gate: Gate, result: GateResult) -> float | None:
    """Judged requests of the stage until a challenger as good as the champion passes, by what was seen so far.

    None: by any number of requests it can't be proven, or nothing tells it, as for business value.
    """
    m = result.measured
    if gate.metric is Metric.VALUE:
        return None
    rate = m.champion_bad / m.champion_n if m.champion_n else 0.0
    alpha, beta = plan.alpha_of(stage, gate), plan.beta_of(gate)
    return need(gate, rate, _judged_share(plan.stage(stage)), alpha, beta, m.design_effect).to_pass


def _challenger_part(setting: Stage) -> float:
    """The part of all requests that counts for the challenger."""
    if setting.share == 0:
        return setting.mirror_percent / FULL_SHARE or 1.0
    part = setting.share / FULL_SHARE
    return part * (1 - setting.control_percent / 100) if setting.share == FULL_SHARE else part


def _judged_share(setting: Stage) -> float:
    """The challenger's part of the judged requests; half where every request is answered by both."""
    if setting.share == 0:
        mirrored = _challenger_part(setting)
        return mirrored / (1 + mirrored)
    return 1 - setting.control_percent / 100 if setting.share == FULL_SHARE else setting.dealt_percent / FULL_SHARE


def _judged(gate: Gate, plan: Plan, baseline: Baseline) -> tuple[float, float]:
    """The part of the requests that the gate can judge, and how long it takes until it can."""
    delay = plan.look_seconds + plan.grace_seconds
    if not gate.metric.matures:
        return 1.0, delay
    return (baseline.labelled / baseline.due if baseline.due else 0.0), delay + plan.label_maturity_seconds


def _bad_rate(gate: Gate, baseline: Baseline) -> float:
    if gate.metric is Metric.WRONG_RATE:
        return baseline.wrong / baseline.labelled if baseline.labelled else 0.0
    return baseline.errors / baseline.requests if baseline.requests else 0.0


def _units(gate: Gate, setting: Stage, baseline: Baseline) -> float:
    """How many independent requests the share can bring at the most.

    Without any error in the baseline nothing tells whether failures go by unit, and until something does, the requests
    of a unit count as one.
    """
    if gate.metric is not Metric.ERROR_RATE or baseline.errors or not gate.role.must_prove:
        return math.inf
    return baseline.units * _challenger_part(setting)


def _seconds(requests: float | None, per_second: float, delay: float) -> float | None:
    if requests is None or math.isinf(requests):
        return None
    if not requests:
        return 0.0
    return requests / per_second + delay if per_second > 0 else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "for ever"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
