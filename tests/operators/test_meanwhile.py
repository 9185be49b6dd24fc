"""What a DAG run still does after a person, or another run, has taken its rollout elsewhere."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from tests.test_by_hand import RUN, Desk

from model_rollouts.core.by_hand import Deed
from model_rollouts.core.errors import IllegalTransitionError, StaleRevisionError
from model_rollouts.core.rollout import EventKind, State
from model_rollouts.operators.approve import ApproveOperator
from model_rollouts.operators.decide import DecideOperator
from model_rollouts.operators.finish import CutOverOperator, ExpandOperator, HoldOperator
from model_rollouts.reconcile import Reconciler

FIRST = RUN["run_id"]


class Run:
    """One DAG run of the stage: what its tasks left, and who it is."""

    def __init__(self, run_id: str = FIRST, stage: int = 0, **results: Any) -> None:
        opened = {"rollout_id": "r1", "stage": stage, "mlflow_run_id": "m", "poll_seconds": 1, "approval": False}
        self.left: dict[tuple[str, str], Any] = {("preflight", "return_value"): opened}
        self.left |= {(task, "return_value"): result for task, result in results.items()}
        self.dag_run = SimpleNamespace(dag_id="canary", run_id=run_id)

    def context(self, task_id: str = "decide") -> Any:
        ti = SimpleNamespace(
            xcom_pull=lambda task_ids, key="return_value": self.left.get((task_ids, key)),
            xcom_push=lambda key, value: self.left.update({(task_id, key): value}),
        )
        return {"ti": ti, "params": {}, "dag_run": self.dag_run}

    def decide(self) -> str | None:
        return DecideOperator(task_id="decide", checks=[]).choose_branch(self.context())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    desk = Desk(tmp_path)
    monkeypatch.setattr("model_rollouts.wiring.shared", lambda: desk.parts)
    return desk


def kinds(desk: Desk) -> list[str]:
    return [event.kind.value for event in desk.store.events(rollout_id="r1")]


def passed(desk: Desk) -> dict[str, Any]:
    """What the watch leaves where the gates have passed."""
    told = desk.parts.service.look("r1").to_dict()
    return {"decision": told | {"verdict": "pass", "action": "expand", "reason": "proven"}}


@pytest.mark.parametrize("left", ["nothing", "pass", "deadline"])
def test_a_run_whose_stage_was_held_and_resumed_decides_nothing_any_more(desk: Desk, left: str) -> None:
    watch = passed(desk)
    if left == "nothing":
        watch = {"ended": "holding"}
    elif left == "deadline":
        watch["decision"] |= {"verdict": "inconclusive", "action": "roll_back"}
    run = Run(watch=watch)
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(Deed.RESUME, "r1", "anna", "back")

    assert run.decide() is None

    assert desk.rollout.state is State.BAKING
    assert kinds(desk)[-2:] == ["held", "resumed"]
    new = Run(desk.asked.triggered[-1][1], watch=passed(desk))
    assert new.dag_run.run_id == "r1--stage-1--resumed-4"
    desk.parts.service.open_stage("r1", 0, "test", {"dag_id": "canary", "run_id": new.dag_run.run_id})
    assert new.decide() == "hold"  # it decides; without a log there is no pass


def test_harm_and_a_persons_no_count_whichever_run_has_them(desk: Desk) -> None:
    harm = passed(desk)
    harm["decision"] |= {"verdict": "fail", "action": "roll_back"}
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(Deed.RESUME, "r1", "anna", "back")

    assert Run(watch=harm).decide() == "roll_back"
    assert Run(watch=passed(desk), approve={"answer": "Roll back"}).decide() == "roll_back"


def test_a_person_is_not_asked_by_a_run_that_decides_nothing(desk: Desk) -> None:
    run = Run(watch=passed(desk))
    run.left["preflight", "return_value"]["approval"] = True
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(Deed.RESUME, "r1", "anna", "back")

    assert ApproveOperator(task_id="approve").execute(run.context("approve")) == {"answer": "not asked"}


@pytest.mark.parametrize("deed", [Deed.EXPAND, Deed.RESUME])
def test_a_hold_that_was_decided_before_a_person_acted_is_not_taken(desk: Desk, deed: Deed) -> None:
    run = Run(watch={})
    assert run.decide() == "hold"
    if deed is Deed.RESUME:
        desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(deed, "r1", "anna", "go on")
    state = desk.rollout.state

    with pytest.raises(AirflowSkipException, match="hold was decided at revision 2"):
        HoldOperator(task_id="hold", watch_harm=False).execute(run.context("hold"))

    assert desk.rollout.state is state is not State.HOLDING


def test_a_hold_is_taken_once_and_a_retry_finds_it(desk: Desk) -> None:
    run = Run(watch={})
    run.decide()
    for _ in range(2):
        HoldOperator(task_id="hold", watch_harm=False).take("r1", 0, run.context("hold"))

    assert kinds(desk)[-1] == "held"
    assert kinds(desk).count("held") == 1


def test_a_person_who_holds_what_has_passed_is_not_overridden(desk: Desk) -> None:
    desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
    run = Run(watch={})
    assert run.decide() == "expand"
    desk.hands.do(Deed.HOLD, "r1", "bert", "wait")

    with pytest.raises(AirflowSkipException, match="expand was decided at revision 3"):
        ExpandOperator(task_id="expand").execute(run.context("expand"))
    with pytest.raises(AirflowSkipException):
        CutOverOperator(task_id="cut_over").execute(run.context("cut_over"))
    assert desk.rollout.state is State.HOLDING


def test_only_a_stage_that_is_judged_is_held_and_only_as_it_was_judged(desk: Desk) -> None:
    service = desk.parts.service
    with pytest.raises(StaleRevisionError, match="at revision 2 by now, revision 1 was judged"):
        service.hold("r1", 0, "test", "weak", {}, 1)
    with pytest.raises(StaleRevisionError):
        service.clear("r1", 0, "test", "good", {}, 1)
    assert desk.rollout.state is State.BAKING
    service.clear("r1", 0, "test", "good", {}, 2)
    with pytest.raises(IllegalTransitionError, match="is cleared, must be baking"):
        service.hold("r1", 0, "test", "weak", {})
    assert desk.rollout.state is State.CLEARED


def reconcile(desk: Desk, alive: set[str], known: set[str], monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Ids of the runs that reconcile would start."""
    from datetime import timedelta

    def state(dag_id: str, run_id: str) -> str | None:
        return "alive" if run_id in alive else "ended" if run_id in known else None

    reconciler = Reconciler(desk.parts.service, SimpleNamespace(), state, "reconcile", timedelta(0))  # type: ignore[arg-type]
    for part in ("_registry", "_gateway"):
        monkeypatch.setattr(reconciler, part, lambda model: [])
    return [finding.run_id for finding in reconciler.check() if finding.resume is not None]


def test_reconcile_knows_the_runs_of_resumed_stages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(Deed.RESUME, "r1", "anna", "back")
    resumed = "r1--stage-1--resumed-4"

    assert reconcile(desk, {resumed}, {FIRST}, monkeypatch) == []
    assert reconcile(desk, {FIRST}, set(), monkeypatch) == [resumed]  # Airflow was not there when it was resumed
    assert reconcile(desk, set(), {FIRST, resumed}, monkeypatch) == ["r1--stage-1"]
    assert desk.store.events(rollout_id="r1")[-1].kind is not EventKind.HELD


def promoted(desk: Desk) -> None:
    desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
    desk.parts.service.open_stage("r1", 1, "test", RUN)
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.hands.do(Deed.CUT_OVER, "r1", "anna", "go")


@pytest.mark.parametrize("case", ["harm", "alive", "no harm", "matured"])
def test_labels_that_come_after_a_cut_over_by_hand_are_looked_at(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime, timedelta

    from model_rollouts.core.decision import Verdict

    promoted(desk)
    if case != "no harm":
        bad = replace(desk.parts.service.look("r1"), verdict=Verdict.FAIL, reason="later labels are bad")
        monkeypatch.setattr(desk.parts.service, "look", lambda _: bad)
    if case == "matured":
        monkeypatch.setattr(desk.parts.service, "clock", lambda: datetime.now(UTC) + timedelta(days=60))

    reconcile(desk, {FIRST} if case == "alive" else set(), {FIRST}, monkeypatch)

    assert desk.rollout.state is (State.ROLLED_BACK if case == "harm" else State.PROMOTED)
    assert desk.traffic.champion == ("1" if case == "harm" else "2")
