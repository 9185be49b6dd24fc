"""What a user may not see is not there for them: neither in lists, nor by its name, nor by its run."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.test_sql_page import Rollouts, cause

from model_rollouts.airflow_ports import Question
from model_rollouts.core import rollout as steps
from model_rollouts.core.by_hand import Deed
from model_rollouts.core.data_rollback import DataRollback
from model_rollouts.core.decision import Action, Decision, Verdict
from model_rollouts.core.errors import IllegalTransitionError, NotFoundError
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern
from model_rollouts.settings import Settings
from model_rollouts.web import desk as desk_module
from model_rollouts.web.desk import Desk
from model_rollouts.wiring import Wiring

EVERYTHING = {"page": 1, "states": (), "pattern": "", "model": "", "text": ""}


class Rights:
    """A user with rights on some patterns."""

    name = "anna"
    user = None

    def __init__(self, *patterns: Pattern, dags: tuple[str, ...] = (), answers: bool = True) -> None:
        self.patterns, self.dags, self.answers = patterns, dags, answers

    def may_answer(self, dag_id: str) -> bool:
        return self.answers

    def is_one_of(self, assigned: frozenset[str]) -> bool:
        return not assigned or self.name in assigned

    def readable(self) -> tuple[Pattern, ...]:
        return self.patterns

    def may_act(self, patterns: Any) -> bool:
        return set(patterns) <= set(self.patterns)

    def may_trigger(self, dag_id: str) -> bool:
        return dag_id in self.dags


class Dags:
    """Airflow as it is asked."""

    def __init__(self, paused: bool = False) -> None:
        self.paused = paused
        self.open: list[Question] = []
        self.triggered: list[tuple[str, str, dict[str, Any]]] = []

    def dag(self, dag_id: str) -> dict[str, Any]:
        return {"is_paused": self.paused}

    def trigger(self, dag_id: str, run_id: str, conf: Any, note: str = "") -> bool:
        self.triggered.append((dag_id, run_id, dict(conf)))
        return True

    def questions(self, dag_id: str, run_id: str) -> list[Any]:
        return self.open


class World:
    """A desk over a store with a canary and a gradual rollout."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(
            store_url=f"sqlite:///{folder / 'store.db'}", log_dir=folder, mlflow_tracking_uri="http://127.0.0.1:9"
        )
        parts = Wiring(settings)
        parts.store.migrate()
        self.dags = Dags()
        self.desk = Desk(parts, dags=lambda _: self.dags)
        self.rollouts = Rollouts(parts.store)
        self.canary = self.rollouts.start("a", 1, run="manual__1")
        self.gradual = self.rollouts.start("b", 2, Pattern.GRADUAL)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return World(tmp_path)


def test_lists_have_what_the_user_may_see(world: World) -> None:
    told = world.desk.rollouts(Rights(Pattern.GRADUAL), EVERYTHING)

    assert [row["id"] for row in told["rollouts"]] == [world.gradual.id]
    assert (told["total"], told["by_state"], told["models"]) == (1, {"pending": 1}, ["b"])
    assert world.desk.rollouts(Rights(), EVERYTHING)["total"] == 0
    assert world.desk.rollouts(Rights(*Pattern), EVERYTHING)["total"] == 2


def test_what_may_not_be_seen_is_not_there(world: World) -> None:
    rights, name = Rights(Pattern.GRADUAL), world.canary.id

    for ask in (
        lambda: world.desk.rollout(rights, name),
        lambda: world.desk.reports_of(rights, name),
        lambda: world.desk.report(rights, name, "run", "a.html"),
        lambda: world.desk.act(rights, name, Deed.ROLL_BACK, "because", 1),
    ):
        with pytest.raises(NotFoundError, match="that you may see"):
            ask()
    assert world.desk.of_run(rights, "canary", "manual__1")["rollouts"] == []
    assert world.desk.of_run(Rights(*Pattern), "canary", "manual__1")["rollouts"] == [name]
    assert world.rollouts.store.rollout(name) == world.canary


def test_a_chain_of_patterns_takes_the_rights_of_all_that_are_set_in_motion(world: World) -> None:
    traffic = world.rollouts.traffic("b")
    assert traffic.rollout_id == world.gradual.id
    plan = plan_from(Pattern.SHADOW, {"then": [{"pattern": "canary"}]})
    world.rollouts.take(world.gradual, "roll_back", 3)
    world.rollouts.store.apply(steps.start("chain", plan, "3", "s", world.rollouts.traffic("b"), cause(4)))
    with pytest.raises(PermissionError, match="trigger the DAG canary, shadow"):
        world.desk.act(_reads_all(Pattern.SHADOW), "chain", Deed.ROLL_BACK, "because", 1)
    done = world.desk.act(_reads_all(Pattern.SHADOW, Pattern.CANARY), "chain", Deed.ROLL_BACK, "because", 1)
    assert done["state"] == "rolled_back"


def _reads_all(*acts: Pattern) -> Rights:
    rights = Rights(*Pattern)
    rights.may_act = lambda patterns: set(patterns) <= set(acts)  # type: ignore[method-assign]
    return rights


def test_data_is_undone_by_a_run_and_where_it_is_not_the_user_is_told(world: World) -> None:
    undo = DataRollback.from_dict({"kind": "dag", "target": "undo_features"})
    plan = replace(plan_from(Pattern.CANARY, {}), data_rollback=(undo,))
    store = world.rollouts.store

    def started(name: str) -> None:
        store.apply(steps.adopt(name, "1", cause(0)))
        store.apply(steps.start(name, plan, "2", "s", world.rollouts.traffic(name), cause(1)))

    def rolled_back(name: str, *dags: str) -> str:
        started(name)
        return " ".join(world.desk.act(Rights(*Pattern, dags=dags), name, Deed.ROLL_BACK, "because", 1)["warnings"])

    assert "data is not undone" not in rolled_back("one", "rollback")
    expected = {"model": "one", "reason": "because", "requested_by": "anna (page)"}
    assert world.dags.triggered == [("rollback", "one--data", expected)]
    assert "you may not trigger the DAG rollback; run `rollouts rollback two`" in rolled_back("two")
    world.dags.paused = True
    assert "the DAG rollback is paused" in rolled_back("three", "rollback")
    assert len(world.dags.triggered) == 1


def test_a_rollback_is_answered_though_mlflow_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_PROMPT_SECONDS", 0.3)
    hangs = threading.Event()
    monkeypatch.setattr(world.desk.parts.service, "sync_registry", lambda _: hangs.wait(30))

    began = time.monotonic()
    done = world.desk.act(Rights(*Pattern), world.canary.id, Deed.ROLL_BACK, "because", 1)

    assert time.monotonic() - began < 10
    assert done["state"] == "rolled_back"
    assert "slow to follow" in done["warnings"][0]
    hangs.set()


def test_data_is_undone_or_named_before_a_registry_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_PROMPT_SECONDS", 0.3)
    hangs = threading.Event()
    monkeypatch.setattr(world.desk.parts.service, "sync_registry", lambda _: hangs.wait(30))
    undo = DataRollback.from_dict({"kind": "dag", "target": "undo_features"})
    plan, store = replace(plan_from(Pattern.CANARY, {}), data_rollback=(undo,)), world.rollouts.store
    for name in ("one", "two"):
        store.apply(steps.adopt(name, "1", cause(0)))
        store.apply(steps.start(name, plan, "2", "s", world.rollouts.traffic(name), cause(1)))

    done = world.desk.act(Rights(*Pattern, dags=("rollback",)), "one", Deed.ROLL_BACK, "because", 1)
    barred = world.desk.act(Rights(*Pattern), "two", Deed.ROLL_BACK, "because", 1)

    hangs.set()
    assert [run_id for _, run_id, _ in world.dags.triggered][:1] == ["one--data"]
    assert len(done["warnings"]) == 1
    assert "data is not undone yet" in barred["warnings"][1]


def test_a_step_that_is_slow_itself_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = world.rollouts.take(world.canary, "open_stage", 3, 0)
    monkeypatch.setattr(desk_module, "_PROMPT_SECONDS", 0.05)
    apply = world.desk.parts.store.apply

    def slow(change: Any) -> None:
        time.sleep(0.3)  # a store under load
        apply(change)

    monkeypatch.setattr(world.desk.parts.store, "apply", slow)
    done = world.desk.act(Rights(*Pattern), world.canary.id, Deed.HOLD, "because", opened.revision)

    assert done["state"] == "holding"


@pytest.mark.parametrize(
    ("answers", "assigned", "may"),
    [(True, "", True), (True, "anna", True), (True, "bert", False), (False, "", False)],
)
def test_an_open_question_is_passed_over_by_those_alone_who_may_answer_it(
    world: World, monkeypatch: pytest.MonkeyPatch, answers: bool, assigned: str, may: bool
) -> None:
    unproven = Decision(Verdict.WAIT, Action.WAIT, "not yet", (), 0, 0.0, 3)  # an old stage has many looks to close
    monkeypatch.setattr(world.desk.parts.service, "look", lambda _: unproven)
    opened = world.rollouts.take(world.canary, "open_stage", 3, 0)
    who = frozenset({assigned} - {""})
    world.dags.open = [Question("canary", "manual__1", "approve", "Leave?", "", ("Approve", "Hold"), who)]
    world.dags.answer = lambda question, option: None  # type: ignore[attr-defined]
    access = Rights(*Pattern, answers=answers)

    offers = {each["deed"]: each["refusal"] for each in world.desk.rollout(access, opened.id)["offers"]}

    assert ("approval only" not in offers["expand"]) is may
    assert offers["hold"] == offers["roll_back"] == ""
    if may:
        assert world.desk.act(access, opened.id, Deed.EXPAND, "go", opened.revision)["state"] == "cleared"
    else:
        with pytest.raises(IllegalTransitionError, match="approval only"):
            world.desk.act(access, opened.id, Deed.EXPAND, "go", opened.revision)


def test_a_warning_is_short() -> None:
    text = f"not updated yet (MlflowException: http://mlflow:5000/api {'x' * 300}); no traffic depends on it"

    told = desk_module._short(text)

    assert told.endswith(" ...); no traffic depends on it")
    assert len(told) < 160
