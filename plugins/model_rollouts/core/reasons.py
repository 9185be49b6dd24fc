"""Every verdict as one sentence that a person on call understands."""

import math

from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.verdict import GateResult, Verdict

NAMES = {
    Metric.ERROR_RATE: "error rate",
    Metric.WRONG_RATE: "rate of wrong predictions",
    Metric.LATENCY_P50: "share of answers slower than the champion's p50",
    Metric.LATENCY_P95: "share of answers slower than the champion's p95",
    Metric.LATENCY_P99: "share of answers slower than the champion's p99",
    Metric.AGREEMENT: "agreement with the champion",
    Metric.SAMPLE_RATIO: "share of new units",
    Metric.VALUE: "business value per request",
}


def sentence(gate: Gate, result: GateResult) -> str:
    """What the gate found, by which numbers, against which margin."""
    m = result.measured
    name = f"challenger's {NAMES[gate.metric]}"
    if result.verdict is Verdict.FAIL:
        return f"{name} {_harm(gate, result)}{_repeats(result)}; margin {_margin(gate, harm=True)}: {_harm_ends(gate)}"
    if m.coverage is not None and m.coverage < gate.coverage:
        what = "pairs" if gate.metric is Metric.AGREEMENT else "due labels"
        # rounded down: 79.7 % is not yet the 80 % that are needed
        arrived = (
            f"{math.floor(100 * m.coverage)}% of the {what} have" if m.coverage else f"no {what[:-1]} of this stage has"
        )
        return f"{name} can't be judged: {arrived} arrived, needed {gate.coverage:.0%}"
    if gate.role is not Role.SIGNAL and m.stage_n < gate.min_requests:
        return f"{name}: {m.stage_n:,} judged requests in this stage, needed {gate.min_requests:,}"
    if m.short:
        return f"{name} can't be judged yet: {m.short}"
    if not gate.role.must_prove:
        return f"{name} shows no harm ({_counts(gate, result)})"
    margin = _margin(gate, harm=False)
    if result.verdict is Verdict.PASS:
        return f"{name} is proven to be {margin} ({_proof(gate, result)}{_counts(gate, result)}{_repeats(result)})"
    return (
        f"{name} is not yet proven to be {margin} ({_counts(gate, result)}{_repeats(result)}; evidence "
        f"{plain(m.log_e_pass)}, needed {plain(result.pass_threshold)})"
    )


def plain(log_e: float) -> str:
    """An e-value for a person."""
    return f"{math.exp(log_e):,.3g}" if log_e < 20 else f"1e{log_e / math.log(10):.0f}"  # noqa: PLR2004


def confidence(log_threshold: float) -> str:
    """The confidence of a bound, such as 99.75 %."""
    missing = 100 * math.exp(-log_threshold)
    return f"{100 - missing:.{max(0, 2 - math.floor(math.log10(missing)))}f}".rstrip("0").rstrip(".") + " %"


def _harm(gate: Gate, result: GateResult) -> str:
    m = result.measured
    after = f"after {m.challenger_n:,} requests"
    sure = f"with {confidence(result.harm_threshold)} confidence at any time"
    if gate.metric is Metric.AGREEMENT:
        most = "" if result.effect_high is None else f", at most {result.effect_high:.2%} {sure}"
        return f"is {_shown(m.effect, '.2%')}{most}, {after} that both answered"
    if gate.metric is Metric.SAMPLE_RATIO:
        return (
            f"is {_shown(m.effect, '.3g')} times the planned one ({m.challenger_n:,} of "
            f"{m.challenger_n + m.champion_n:,} units; evidence {plain(m.log_e_harm)}, needed "
            f"{plain(result.harm_threshold)})"
        )
    if gate.metric is Metric.VALUE:
        most = "" if result.effect_high is None else f", at most {result.effect_high:+.2%} {sure}"
        return f"differs by {_shown(m.effect, '+.2%')} from the champion's{most}, {after}"
    least = "" if result.effect_low is None else f", at least {result.effect_low:.3g} {sure}"
    if m.effect is None and m.champion_bad == 0:
        least = "" if result.effect_low is None else f": at least {result.effect_low:.3g} times its odds {sure}"
        return f"is worse than the champion's, which had no bad outcome{least}, {after} ({_raw(result)})"
    ratio = "beyond any multiple of" if m.effect is None else f"{m.effect:.2f} times"  # where everything fails
    return f"is {ratio} the champion's odds{least}, {after} ({_raw(result)})"


def _margin(gate: Gate, *, harm: bool) -> str:
    if gate.metric is Metric.AGREEMENT:
        return f"{gate.floor:.4g}" if harm else f"above {gate.floor:.4g}"
    if gate.metric is Metric.SAMPLE_RATIO:
        return "none"
    if gate.metric is Metric.VALUE:
        return f"{gate.rollback_lift:+.1%}" if harm else f"more than {gate.pass_lift:+.1%} from the champion's"
    if harm:
        return f"{gate.rollback_odds:g}"
    text = f"within {gate.pass_odds:.3g} times the champion's odds"
    return text if gate.negligible is None else f"{text}, or below {gate.negligible:.2%}"


def _harm_ends(gate: Gate) -> str:
    if gate.role.rolls_back:
        return "roll back"
    return {Role.SIGNAL: "hold", Role.OBJECTIVE: "the objective is missed", Role.MUTED: "shown only"}[gate.role]


def _proof(gate: Gate, result: GateResult) -> str:
    sure = f"with {confidence(result.pass_threshold)} confidence at any time; "
    if gate.metric.is_rate and result.effect_high is not None and result.effect_high <= gate.pass_odds * (1 + 1e-9):
        return f"at most {result.effect_high:.3g} {sure}"
    if gate.metric is Metric.AGREEMENT and result.effect_low is not None:
        return f"at least {result.effect_low:.2%} {sure}"
    if gate.metric is Metric.VALUE and result.effect_low is not None:
        return f"at least {result.effect_low:+.2%} {sure}"
    return ""


def _counts(gate: Gate, result: GateResult) -> str:
    m = result.measured
    if gate.metric is Metric.AGREEMENT:
        return f"{_shown(m.effect, '.2%')} of {m.challenger_n:,}"
    if gate.metric is Metric.SAMPLE_RATIO:
        return f"{m.challenger_n:,} of {m.challenger_n + m.champion_n:,} new units"
    if gate.metric is Metric.VALUE:
        return f"{_shown(m.effect, '+.2%')}, after {m.challenger_n:,} requests"
    ratio = "no odds ratio yet" if m.effect is None else f"odds ratio {m.effect:.2f}"
    if m.stage_counts is None:
        return f"{ratio}; {_raw(result)}"
    bad, n, champion_bad, champion_n = m.stage_counts
    return f"{ratio}; in this stage {bad:,} of {n:,} against {champion_bad:,} of {champion_n:,}"


def _raw(result: GateResult) -> str:
    m = result.measured
    return f"{m.challenger_bad:,} of {m.challenger_n:,} against {m.champion_bad:,} of {m.champion_n:,}"


def _repeats(result: GateResult) -> str:
    m = result.measured
    if m.design_effect <= 1:
        return ""
    if m.correlation is None:
        units = m.challenger_n / m.design_effect
        return f"; requests of one unit count as one while nothing tells them apart, {units:,.0f} units' worth"
    return f"; cluster-robust: requests of one unit resemble each other, design effect {m.design_effect:.2f}"


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
