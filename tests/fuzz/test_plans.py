"""Forms: a plan that can be written and read again, or a refusal in words."""

import dataclasses
import json
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from tests.fuzz.budget import check_said, tries
from tests.fuzz.shapes import PLAIN, changed, documents

from model_rollouts.core.errors import PlanError
from model_rollouts.core.patterns import parameters_of, plan_from
from model_rollouts.core.plan import Pattern, Plan

FIELDS = {pattern: [f.name for f in dataclasses.fields(parameters_of(pattern))] for pattern in Pattern}
NAMES = sorted(
    {name for names in FIELDS.values() for name in names} | {"pattern", "then", "kind", "target", "calendar"}
)


def plain(value: Any) -> Any:
    """JSON types, as a form has them."""
    return json.loads(
        json.dumps(value, default=lambda each: list(each) if isinstance(each, tuple | set | frozenset) else str(each))
    )


def defaults(pattern: Pattern) -> dict[str, Any]:
    return plain({f.name: getattr(parameters_of(pattern)(), f.name) for f in dataclasses.fields(parameters_of(pattern))
                  if not dataclasses.is_dataclass(getattr(parameters_of(pattern)(), f.name))})  # fmt: skip


def a_plan(pattern: Pattern) -> Plan:
    return plan_from(pattern, {"horizon_seconds": 864_000} if pattern is Pattern.AB_TEST else {})


@st.composite
def forms(draw: st.DrawFn) -> tuple[Pattern, Any]:
    """A pattern with values that its form might send."""
    pattern = draw(st.sampled_from(list(Pattern)))
    values = draw(st.dictionaries(st.sampled_from(FIELDS[pattern]), st.one_of(PLAIN, documents(*NAMES)), max_size=3))
    if pattern is Pattern.AB_TEST and draw(st.booleans()):
        values.setdefault("horizon_seconds", draw(st.integers(1, 10**7)))
    some = {name: value for name, value in defaults(pattern).items() if draw(st.integers(0, 5)) == 0}
    return pattern, some | values


@tries(250)
@given(forms())
def test_a_form_is_a_plan_or_refused(form: tuple[Pattern, Any]) -> None:
    pattern, values = form
    try:
        plan = plan_from(pattern, values)
    except PlanError as error:
        event("refused")
        check_said(error)
        return
    event("planned")
    written = json.dumps(plan.to_dict(), allow_nan=False)
    assert Plan.from_dict(json.loads(written)) == plan


@tries(150)
@given(st.sampled_from(list(Pattern)).flatmap(lambda pattern: changed(a_plan(pattern).to_dict(), documents(*NAMES))))
def test_a_plan_that_was_written_is_read_or_refused(data: Any) -> None:
    """What is in the store can have been written by another version, or by hand."""
    try:
        plan = Plan.from_dict(data)
    except PlanError as error:
        event("refused")
        check_said(error)
        return
    event("read")
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False))) == plan
