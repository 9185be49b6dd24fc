"""People's deeds over a real store; Airflow is a stand-in that writes down what it is asked, or is away."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.airflow_ports import Question
from model_rollouts.by_hand import ByHand
from model_rollouts.core import rollout as steps
from model_rollouts.core.by_hand import Deed
from model_rollouts.core.decision import Verdict
from model_rollouts.core.errors import (
    IllegalTransitionError,
    MissingReasonError,
    NotReadyError,
    RolloutError,
    StaleRevisionError,
)
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, EventKind, State
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

RUN = {"dag_id": "canary", "run_id": "manual__1"}


class StandInAirflow:
    """Takes everything, and keeps it."""

    def __init__(self) -> None:
        self.triggered: list[tuple[str, str, dict[str, Any], str]] = []
        self.open: list[Question] = []
        self.answered: list[tuple[str, str]] = []
        self.paused = False

    def dag(self, dag_id: str) -> Mapping[str, Any] | None:
        return {"is_paused": self.paused}

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str = "") -> bool:
        self.triggered.append((dag_id, run_id, dict(conf), note))
        return True

    def questions(self, dag_id: str, run_id: str) -> Sequence[Question]:
        return self.open if (dag_id, run_id) == (RUN["dag_id"], RUN["run_id"]) else []

    def answer(self, question: Question, option: str) -> None:
        assert option in question.options
        self.answered.append((question.task_id, option))


class Desk:
    """A rollout with its first stage open, and people who do things to it."""

    def __init__(self, folder: Path, may_answer: bool | None = None, **plan_of: Any) -> None:
        settings = Settings(
            store_url=f"sqlite:///{folder / 'store.db'}",
            log_dir=folder / "log",
            mlflow_tracking_uri="http://127.0.0.1:9",
        )
        self.parts = Wiring(settings)
        self.store = self.parts.store
        self.store.migrate()
        self.airflow: StandInAirflow | None = StandInAirflow()
        may = None if may_answer is None else lambda rollout: bool(may_answer)
        self.hands = ByHand(self.parts.service, self._connect, may)
        cause = Cause("test", datetime.now(UTC), "as planned", {"run": RUN})
        self.store.apply(steps.adopt("flights", "1", cause))
        plan = plan_canary(CanaryParameters(steps=(5, 100), **plan_of))
        self.store.apply(steps.start("r1", plan, "2", "salt", self.traffic, cause))
        opened = steps.open_stage(self.rollout, self.traffic, 0, cause)
        assert opened is not None
        self.store.apply(opened)

    def _connect(self) -> StandInAirflow:
        if self.airflow is None:
            raise RolloutError("no Airflow answers")
        return self.airflow

    @property
    def asked(self) -> StandInAirflow:
        assert self.airflow is not None
        return self.airflow

    @property
    def rollout(self) -> steps.Rollout:
        return self.store.rollout("r1")

    @property
    def traffic(self) -> Any:
        return self.store.traffic("flights")

    def ask(self, *options: str, task_id: str = "approve") -> None:
        self.asked.open = [Question(**RUN, task_id=task_id, subject="Let it leave?", body="", options=options)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Desk(tmp_path)


def test_a_hold_is_on_record_with_who_and_why_though_airflow_and_mlflow_are_away(desk: Desk) -> None:
    desk.airflow = None

    done = desk.hands.do(Deed.HOLD, "r1", "anna", " odd latencies ", desk.rollout.revision)

    assert (done.rollout.state, desk.traffic.share) == (State.HOLDING, 5.0)
    event = desk.store.events(rollout_id="r1")[-1]
    assert (event.kind, event.actor, event.reason) == (EventKind.HELD, "anna", "odd latencies")
    assert [warning[:45] for warning in done.warnings] == ["MLflow's aliases and tags are not updated yet"]


@pytest.mark.parametrize("deed", list(Deed))
def test_what_has_changed_since_it_was_seen_is_not_acted_on(desk: Desk, deed: Deed) -> None:
    seen = desk.rollout.revision
    desk.hands.do(Deed.HOLD, "r1", "bert", "lunch")
    events = desk.store.events(rollout_id="r1")

    with pytest.raises(StaleRevisionError, match=r"is at revision 3 by now .*lunch.*you saw 2"):
        desk.hands.do(deed, "r1", "anna", "because", seen)
    with pytest.raises(StaleRevisionError):
        desk.hands.approve("r1", "anna", "because", seen)

    assert desk.store.events(rollout_id="r1") == events


def test_a_change_between_the_look_and_the_write_is_refused_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, apply = desk.rollout.revision, desk.store.apply
    slipped: list[int] = []

    def faster(change: steps.Change) -> None:
        if not slipped:
            slipped.append(1)
            held = steps.hold(desk.rollout, desk.traffic, 0, Cause("bert", datetime.now(UTC), "lunch"))
            assert held is not None
            apply(held)
        apply(change)

    monkeypatch.setattr(desk.store, "apply", faster)
    with pytest.raises(StaleRevisionError, match="you saw 2"):
        desk.hands.do(Deed.ROLL_BACK, "r1", "anna", "because", seen)
    assert desk.rollout.state is State.HOLDING


def test_expanding_without_proof_clears_the_stage_and_starts_the_next_ones_run(desk: Desk) -> None:
    done = desk.hands.do(Deed.EXPAND, "r1", "anna", "the launch can't wait", desk.rollout.revision)

    event = desk.store.events(rollout_id="r1")[-1]
    assert (event.kind, done.rollout.state, done.rollout.stage) == (EventKind.CLEARED, State.CLEARED, 0)
    assert event.evidence["by_hand"] is True
    assert event.evidence["verdict_then"] == "wait"
    assert desk.asked.triggered == [
        (
            "canary",
            "r1--stage-2",
            {"model": "flights", "challenger": "2", "rollout_id": "r1", "stage": 1, "requested_by": "anna"},
            "the launch can't wait",
        )
    ]
    assert desk.traffic.share == 5.0  # it moves when the next run has looked at everything


def test_nobody_goes_on_when_harm_is_proven(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    bad = replace(desk.parts.service.look("r1"), verdict=Verdict.FAIL, reason="twice the errors")
    monkeypatch.setattr(desk.parts.service, "look", lambda _: bad)

    with pytest.raises(NotReadyError, match="twice the errors"):
        desk.hands.do(Deed.EXPAND, "r1", "anna", "the launch can't wait")
    assert desk.rollout.state is State.BAKING


def test_a_stage_is_resumed_in_the_store_and_gets_a_run_that_watches_it(desk: Desk) -> None:
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    done = desk.hands.do(Deed.RESUME, "r1", "anna", "back", desk.rollout.revision)

    assert done.rollout.state is State.BAKING
    assert [each[1] for each in desk.asked.triggered] == ["r1--stage-1--resumed-4"]
    desk.hands.do(Deed.HOLD, "r1", "anna", "lunch")
    desk.airflow = None
    done = desk.hands.do(Deed.RESUME, "r1", "anna", "back")
    assert done.rollout.state is State.BAKING
    assert any("reconcile starts one" in warning for warning in done.warnings)


def test_a_paused_dag_is_told(desk: Desk) -> None:
    desk.asked.paused = True

    done = desk.hands.do(Deed.EXPAND, "r1", "anna", "go")

    assert any("DAG canary is paused" in warning for warning in done.warnings)


def test_a_cut_over_by_hand_is_cleared_and_cut_over(desk: Desk) -> None:
    with pytest.raises(IllegalTransitionError, match="at stage 1 of 2"):
        desk.hands.do(Deed.CUT_OVER, "r1", "anna", "go")
    desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
    desk.parts.service.open_stage("r1", 1, "test", RUN)

    done = desk.hands.do(Deed.CUT_OVER, "r1", "anna", "go", desk.rollout.revision)

    assert done.rollout.state is State.PROMOTED
    assert (desk.traffic.champion, desk.traffic.previous) == ("2", "1")
    assert [event.kind for event in desk.store.events(rollout_id="r1")][-2:] == [EventKind.CLEARED, EventKind.CUT_OVER]


@pytest.mark.parametrize(
    ("deed", "answer"), [(Deed.HOLD, "Hold"), (Deed.ROLL_BACK, "Roll back"), (Deed.EXPAND, "Approve")]
)
def test_the_question_that_a_run_waits_with_is_answered_by_the_deed(desk: Desk, deed: Deed, answer: str) -> None:
    desk.ask("Approve", "Hold", "Roll back")

    done = desk.hands.do(deed, "r1", "anna", "because")

    assert desk.asked.answered == [("approve", answer)]
    assert f"approve was answered: {answer}" in done.follows


def test_an_approval_answers_the_question_and_is_on_record(desk: Desk) -> None:
    with pytest.raises(IllegalTransitionError, match="nothing of r1 waits for a person: it is baking"):
        desk.hands.approve("r1", "anna", "looks good")
    desk.ask("Approve", "Hold", "Roll back")
    with pytest.raises(MissingReasonError):
        desk.hands.approve("r1", "anna", "  ")
    assert desk.asked.answered == []

    desk.hands.approve("r1", "anna", "looks good", desk.rollout.revision)

    assert desk.asked.answered == [("approve", "Approve")]
    event = desk.store.events(rollout_id="r1")[-1]
    assert (event.kind, event.actor, event.reason) == (EventKind.ANSWERED, "anna", "Let it leave? Approve: looks good")
    desk.ask("We stand by", "Not now", task_id="acknowledge")
    desk.hands.approve("r1", "anna", "here")
    assert desk.asked.answered[-1] == ("acknowledge", "We stand by")


def test_an_approval_that_airflow_does_not_take_is_not_on_record(desk: Desk) -> None:
    desk.ask("Approve", "Hold", "Roll back")
    events = desk.store.events(rollout_id="r1")

    def refuse(question: Question, option: str) -> None:
        raise RolloutError("answered meanwhile")

    desk.asked.answer = refuse  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match="answered meanwhile"):
        desk.hands.approve("r1", "anna", "looks good")
    assert desk.store.events(rollout_id="r1") == events


@pytest.mark.parametrize("may_answer", [None, True, False])
@pytest.mark.parametrize("held", [False, True])
def test_an_approval_of_the_plan_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_answer: bool | None, held: bool
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    desk = Desk(tmp_path, may_answer, approval_from_share=5)
    if held:
        desk.hands.do(Deed.HOLD, "r1", "bert", "lunch")
    offered = {each.deed: each for each in desk.hands.offers("r1")}[Deed.EXPAND]
    state = desk.rollout.state

    if may_answer is False:
        assert "you may not give it; ask somebody who may answer what runs of the DAG canary ask" in offered.refusal
        with pytest.raises(IllegalTransitionError, match="stage 1 of r1 is left with an approval only"):
            desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
        assert desk.rollout.state is state
        assert desk.asked.triggered == []
    else:
        assert offered.refusal == ""
        assert "your word stands for the approval" in offered.change
        done = desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
        assert done.rollout.state is State.CLEARED
        evidence = desk.store.events(rollout_id="r1")[-1].evidence
        assert evidence["approval"] == ("skipped" if may_answer is None else "given with this")


def test_the_last_stages_approval_is_not_passed_over_by_a_cut_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    desk = Desk(tmp_path, may_answer=False, approval_from_share=100)
    desk.hands.do(Deed.EXPAND, "r1", "anna", "go")  # stage 1 asks nobody
    desk.parts.service.open_stage("r1", 1, "test", RUN)

    with pytest.raises(IllegalTransitionError, match="stage 2 of r1 is left with an approval only"):
        desk.hands.do(Deed.CUT_OVER, "r1", "anna", "go")
    assert (desk.rollout.state, desk.traffic.champion) == (State.BAKING, "1")


def test_an_open_question_is_not_passed_over_though_the_plan_asks_for_no_approval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    desk = Desk(tmp_path, may_answer=False)
    desk.ask("Approve", "Hold", "Roll back")
    with pytest.raises(IllegalTransitionError, match="with an approval only"):
        desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
    desk.airflow = None  # what can't be known is not passed over
    with pytest.raises(IllegalTransitionError, match="with an approval only"):
        desk.hands.do(Deed.EXPAND, "r1", "anna", "go")
    assert desk.rollout.state is State.BAKING
    assert desk.hands.do(Deed.HOLD, "r1", "anna", "odd").rollout.state is State.HOLDING


@pytest.mark.parametrize("advance", ["at_once", "on_schedule"])
def test_who_opens_the_next_stage_is_told_as_the_plan_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advance: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    desk = Desk(tmp_path, advance=advance)
    offered = {each.deed: each for each in desk.hands.offers("r1")}[Deed.EXPAND]
    assert ("calendar of the schedule is passed over" in offered.change) is (advance == "on_schedule")
    desk.airflow = None

    told = " ".join(desk.hands.do(Deed.EXPAND, "r1", "anna", "go").warnings)

    assert ("reconcile starts one" in told) is (advance == "at_once")
    assert ("at the schedule's next tick, once Airflow runs, or expand again" in told) is (advance == "on_schedule")
    if advance == "on_schedule":
        desk.airflow = StandInAirflow()
        assert "run r1--stage-2 of DAG canary starts" in desk.hands.do(Deed.EXPAND, "r1", "anna", "go").follows


def test_a_warning_has_no_credentials(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise OSError(f"{'x' * 260} http://svc:S3cr@et@mlflow.example:5000/api can't be reached")

    monkeypatch.setattr(desk.parts.service, "sync_registry", away)

    (warning,) = desk.hands.do(Deed.HOLD, "r1", "anna", "odd").warnings

    assert "svc" not in warning
    assert "et@" not in warning
    assert "http://mlflow" in warning
