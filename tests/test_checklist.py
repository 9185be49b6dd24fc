"""Whatever callers send today must be enough for the challenger."""

import pytest

from model_rollouts.checklist import signature_check
from model_rollouts.ports import ModelVersion

BOTH = (("a", "double"), ("b", "long"))


def version(number: str, inputs: tuple[tuple[str, str], ...], *optional: str) -> ModelVersion:
    return ModelVersion("m", number, inputs=inputs, optional=frozenset(optional))


@pytest.mark.parametrize(
    ("champion", "challenger", "ok"),
    [
        (version("1", BOTH), version("2", BOTH), True),
        (version("1", BOTH, "b"), version("2", BOTH, "b"), True),
        (version("1", BOTH), version("2", BOTH, "b"), True),
        (version("1", BOTH[:1]), version("2", BOTH, "b"), True),
        (version("1", BOTH[:1]), version("2", BOTH), False),
        (version("1", BOTH, "b"), version("2", BOTH), False),
    ],
)
def test_an_input_that_callers_may_leave_out_is_none_that_the_challenger_may_need(
    champion: ModelVersion, challenger: ModelVersion, ok: bool
) -> None:
    check = signature_check(champion, challenger)
    assert check.ok is ok
    assert ("callers do not send b (long)" in check.detail) is not ok
