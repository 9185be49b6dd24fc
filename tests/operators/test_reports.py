from types import SimpleNamespace

import pytest

from model_rollouts.operators.reports import judge_drift


def drift(computed: bool = True, drifted: bool = False):
    return SimpleNamespace(
        computed=computed,
        reason="12 rows, needed 30" if not computed else "1 of 2 columns drifted: f_dep_delay",
        columns={"f_dep_delay": SimpleNamespace(drifted=drifted), "score": SimpleNamespace(drifted=False)},
        share=None if not computed else 0.5 if drifted else 0.0,
    )


@pytest.mark.parametrize(
    ("result", "on_drift", "state"),
    [
        (drift(), "report", "ok"),
        (drift(), "hold", "ok"),
        (drift(drifted=True), "report", "ok"),
        (drift(drifted=True), "hold", "failed"),
        (drift(computed=False), "report", "ok"),
        (drift(computed=False), "hold", "missing"),
    ],
)
def test_drift_holds_only_where_the_plan_says_so_and_missing_is_never_good_there(result, on_drift, state):
    assert judge_drift(result, on_drift)["state"] == state


def test_drifted_columns_are_named():
    assert "1 of 2 columns drifted: f_dep_delay" in judge_drift(drift(drifted=True), "report")["detail"]
