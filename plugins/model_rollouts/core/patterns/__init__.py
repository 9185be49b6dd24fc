"""One file a pattern: from a form's values to a plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.checks import choice
from model_rollouts.core.errors import PlanError
from model_rollouts.core.patterns.common import CommonParameters
from model_rollouts.core.plan import Pattern, Plan, Stage

_MOST_CHAINED = 5


@dataclass(frozen=True, slots=True)
class _Kind:
    parameters: type[CommonParameters]
    plan: Callable[[Any], Plan]


def _kind(pattern: Pattern) -> _Kind:
    """Imported when it is asked for: a DAG file is parsed every minute, and has one pattern."""
    match pattern:
        case Pattern.BLUE_GREEN:
            from model_rollouts.core.patterns.blue_green import BlueGreenParameters, plan_blue_green

            return _Kind(BlueGreenParameters, plan_blue_green)
        case Pattern.SHADOW:
            from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow

            return _Kind(ShadowParameters, plan_shadow)
        case Pattern.CANARY:
            from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary

            return _Kind(CanaryParameters, plan_canary)
        case Pattern.AB_TEST:
            from model_rollouts.core.patterns.ab_test import ABTestParameters, plan_ab_test

            return _Kind(ABTestParameters, plan_ab_test)
        case Pattern.GRADUAL:
            from model_rollouts.core.patterns.gradual import GradualParameters, plan_gradual

            return _Kind(GradualParameters, plan_gradual)


_COMMON = frozenset(field.name for field in fields(CommonParameters))
#: Common values that are of stages: each pattern of a chain may have its own.
_OF_STAGES = frozenset({"label_coverage", "rollback_odds", "pass_odds", "negligible_error_rate", "latency_margin",
    "latency_slack_ms", "min_requests", "at_deadline"})  # fmt: skip


def parameters_of(pattern: Pattern) -> type[CommonParameters]:
    """The parameters that a pattern has."""
    return _kind(pattern).parameters


def plan_from(pattern: Pattern, values: Mapping[str, Any], baseline: Callable[[], Baseline] | None = None) -> Plan:
    """The plan that a form's values stand for, with the patterns that follow in `then`.

    What follows takes the margins of the first where it has none of its own, and has its own `at_deadline`. Looks,
    error budgets, calendar, readiness and what is undone are of the whole rollout: they are set once, with the first.

    Args:
        pattern: The first pattern.
        values: Parameters by name.
        baseline: Gives the champion's recent traffic; asked for only where a horizon has to be worked out.

    Raises:
        PlanError: A value is out of its bounds, or a name is unknown.
    """
    first = _one(pattern, {name: value for name, value in values.items() if name != "then"}, baseline)
    following = values.get("then", ())
    if isinstance(following, str) or not isinstance(following, Sequence) or len(following) > _MOST_CHAINED:
        raise PlanError(f"then is {following!r}, must be a list of at most {_MOST_CHAINED} patterns")
    if not following:
        return first
    stages = _chained(pattern, first)
    for each in following:
        if not isinstance(each, Mapping) or "pattern" not in each:
            raise PlanError(f"then holds {each!r}, must be an object with the name of a `pattern` and its parameters")
        if each.get("then"):
            raise PlanError("then holds a pattern with a `then` of its own; list them one after the other")
        kind = choice("pattern in then", each["pattern"], Pattern)
        own = {name: value for name, value in each.items() if name not in ("pattern", "then")}
        if whole := sorted(set(own) & (_COMMON - _OF_STAGES)):
            raise PlanError(
                f"then sets {', '.join(whole)} for {kind}: of the whole rollout, must be set once, beside `then`"
            )
        shared = {name: value for name, value in values.items() if name in _COMMON - {"then", "at_deadline"}}
        stages += _chained(kind, _one(kind, shared | own, baseline))
    return replace(first, stages=tuple(stages))


def _one(pattern: Pattern, values: Mapping[str, Any], baseline: Callable[[], Baseline] | None) -> Plan:
    kind = _kind(pattern)
    parameters = kind.parameters.from_dict(values)
    if pattern is Pattern.AB_TEST and baseline is not None:
        from model_rollouts.core.patterns.ab_test import ABTestParameters, horizon

        if isinstance(parameters, ABTestParameters) and parameters.horizon_seconds is None:
            parameters = replace(parameters, horizon_seconds=horizon(parameters, baseline()))
    return kind.plan(parameters)


def _chained(pattern: Pattern, plan: Plan) -> list[Stage]:
    """A plan's stages as parts of a longer one: each says which pattern it is of, and what its deadline brings."""
    return [replace(s, pattern=pattern, at_deadline=s.at_deadline or plan.at_deadline) for s in plan.stages]
