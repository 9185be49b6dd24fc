"""The gates of a pattern when nobody sets any: safe, and as strict as the pattern's stages can bear."""

from dataclasses import replace

from model_rollouts.core.gates import Gate, Metric, Role
from model_rollouts.core.plan import FULL_SHARE, Pattern


def default_gates(pattern: Pattern, share: float, *, labels: bool = True, offline: bool = False) -> tuple[Gate, ...]:
    """Gates of one stage.

    - Every pattern rolls back on proven harm to errors, p95 and p99 latency; all but shadow to accuracy, where labels
      come.
    - Canary asks for a proof of non-inferiority at each step. p99 is never asked for one: proving it takes a hundred
      times the requests.
    - Shadow asks for a proof that both versions agree on at least 98 % of the requests.
    - An A/B test asks for a proof that the business value is better; everything else only must not be harmed.
    - Blue-green and gradual serve everybody at once, so they watch for harm and prove what full traffic can prove.
    - Where units are dealt to two arms, the assignment itself is watched, and a mismatch holds.

    Args:
        pattern: Which pattern.
        share: The stage's share of the challenger, in percent.
        labels: Whether outcomes arrive: without them accuracy is shown and nothing is asked of it.
        offline: Whether logged requests are scored in a task: its latency is no caller's, and is shown only.
    """
    accuracy = Gate(Metric.WRONG_RATE, Role.GUARDRAIL, coverage=0.8) if labels else Gate(Metric.WRONG_RATE, Role.MUTED)
    errors = Gate(Metric.ERROR_RATE, negligible=0.02)
    p95 = Gate(Metric.LATENCY_P95, latency_margin=0.25, latency_slack_ms=5.0)
    p99 = replace(p95, metric=Metric.LATENCY_P99, role=Role.TRIPWIRE)
    if offline:
        p95, p99 = replace(p95, role=Role.MUTED), replace(p99, role=Role.MUTED)
    dealt = (Gate(Metric.SAMPLE_RATIO, Role.SIGNAL),) if 0 < share < FULL_SHARE else ()
    match pattern:
        case Pattern.SHADOW:
            agreement = Gate(Metric.AGREEMENT, Role.OBJECTIVE, coverage=0.5)
            mirrored = () if dealt else (agreement,)  # where units are dealt, nothing is answered by both
            return (*mirrored, errors, p95, p99, *dealt)
        case Pattern.AB_TEST:
            value = Gate(Metric.VALUE, Role.OBJECTIVE, pass_lift=0.0, coverage=0.8)
            watched = tuple(_only_watched(gate) for gate in (errors, accuracy, p95))
            return (*((value,) if dealt else ()), *watched, p99, *dealt)  # at 0 and 100 all callers get one version
        case Pattern.CANARY:
            return (errors, accuracy, p95, p99, *dealt)
        case Pattern.BLUE_GREEN | Pattern.GRADUAL:
            return (errors, _only_watched(accuracy), p95, p99, *dealt)


def _only_watched(gate: Gate) -> Gate:
    """The same gate with nothing to prove."""
    return replace(gate, role=Role.TRIPWIRE, coverage=0.0) if gate.role.must_prove else gate
