"""Looks wait for rows that gateways hold: a look is closed once, and what is missing in it is missing for good."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from tests.replay.past import GOOD, MODEL, START, Clock, Past, Registry, quick_plan

from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.evidence import Look
from model_rollouts.core.recompute import recompute_from
from model_rollouts.logged_until import PatientBacklog, logged_until
from model_rollouts.service import RolloutService

BROKEN = {"errors": 0.9, "wrong": 0.1}
ID = "live-1"


class Stage:
    """A rollout at its first stage, with gateways that say what they hold."""

    def __init__(self, root: Path) -> None:
        self.store = SqlStore(f"sqlite:///{root / 'store.db'}")
        self.store.migrate()
        self.root, self.clock = root / "log", Clock()
        self.past = Past(self.root)
        self.holds: dict[str, float] = {"g1": 0.0, "g2": 0.0}
        self.away = ""
        self.asked = 0
        self.service = RolloutService(
            self.store,
            Registry(),
            evidence=self.store,
            log=DeltaPredictionLog(self.root),
            clock=self.clock,
            backlog=self.backlog,
        )
        self.plan = quick_plan(steps=[50, 100])
        self.service.start(ID, MODEL, "2", self.plan, "test", "test")
        self.service.open_stage(ID, 0, "test")

    def backlog(self, model: str) -> Mapping[str, float]:
        assert model == MODEL
        self.asked += 1
        if self.away:
            raise NotReadyError(self.away)
        return self.holds

    def asked_for(self, seconds: float, at: float = 0.0, **rates: dict[str, float]) -> None:
        """Requests from `at` on, by the traffic as it is, in the log."""
        self.past.rates = {"1": GOOD, "2": GOOD} | {name[1:]: rate for name, rate in rates.items()}
        self.past.live(self.store.traffic(MODEL), seconds, START + timedelta(seconds=at))

    def at(self, seconds: float) -> None:
        self.clock.now = START + timedelta(seconds=seconds)

    @property
    def looks(self) -> list[Look]:
        return self.store.looks(ID)

    @property
    def counted(self) -> int:
        return sum(look.champion.requests + look.challenger.requests for look in self.looks)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.store.close()


def test_rows_that_a_gateway_holds_are_counted_when_they_come_and_no_look_closes_without_them(stage: Stage) -> None:
    stage.asked_for(30)
    stage.at(30)
    stage.holds = {"g1": 0.0, "g2": 28.0}
    decision = stage.service.look(ID)
    assert (decision.verdict, stage.looks) == ("wait", [])
    assert "gateway g2 has rows of flights that are 28.0 s old and not in the log yet; look at its /status" in (
        decision.unreadable
    )

    stage.holds = {"g1": 0.0, "g2": 12.0}  # those of the first 18 s have come
    stage.service.look(ID)
    assert len(stage.looks) == 3  # to 15 s and grace; the next one ends at 20 s

    stage.asked_for(30, _2=BROKEN)
    stage.holds = {"g1": 0.0, "g2": 0.0}
    stage.service.look(ID)
    assert len(stage.looks) == 5
    assert sum(look.challenger.errors for look in stage.looks[3:]) > 50


def test_a_moment_before_the_next_commit_nothing_is_decided_and_the_next_look_is_soon(stage: Stage) -> None:
    stage.asked_for(400)
    stage.at(27.5)  # the look that ended at 25 s is due
    stage.holds = {"g1": 0.8, "g2": 0.1}
    decision, due = stage.service.look_ahead(ID)
    assert decision.verdict == "wait"
    assert "gateway g1 has rows of flights that are 0.8 s old" in decision.waits_for
    assert not decision.unreadable
    assert due == stage.clock.now + timedelta(seconds=1)
    assert len(stage.looks) == 4

    # not even at the deadline, which has come meanwhile
    stage.at(stage.plan.stages[0].deadline_seconds + 2.1)
    waiting, _ = stage.service.look_ahead(ID)
    assert (waiting.verdict, waiting.action) == ("wait", "wait")
    assert recompute_from(stage.plan, stage.looks, waiting).differences == ()
    stage.holds = {"g1": 0.0, "g2": 0.0}
    assert stage.service.look(ID).verdict == "pass"


def test_a_gateway_that_does_not_answer_holds_looks_up_to_the_deadline_and_no_pass_comes_of_it(stage: Stage) -> None:
    stage.asked_for(400)
    stage.away = "no gateway answers at http://gateway-2:8600"
    stage.at(200)
    decision, due = stage.service.look_ahead(ID)
    assert (decision.verdict, decision.blind, due, stage.looks) == ("wait", True, None, [])
    assert "what gateways have not logged is not known: no gateway answers at http://gateway-2" in decision.unreadable
    stage.at(stage.plan.stages[0].deadline_seconds + 1)
    decision = stage.service.look(ID)
    assert (decision.verdict, decision.action) == ("inconclusive", "hold")
    assert stage.looks == []


@pytest.mark.parametrize("wrong", ["away", "late", "nobody"])
def test_harm_is_seen_in_what_is_there(stage: Stage, wrong: str) -> None:
    stage.asked_for(60, _2=BROKEN)
    stage.at(60)
    if wrong == "away":
        stage.away = "no gateway answers"
    elif wrong == "nobody":
        stage.holds = {}
    else:
        stage.holds = {"g1": 59.0, "g2": 0.0}
    decision = stage.service.look(ID)
    assert (decision.verdict, decision.action) == ("fail", "roll_back")
    assert stage.counted > 0  # kept, as the verdict rests on it


def test_gateways_are_not_asked_while_no_look_is_due(stage: Stage) -> None:
    stage.away = "nobody is to be asked"
    stage.at(6.9)
    assert stage.service.look(ID).verdict == "wait"
    assert stage.asked == 0
    stage.at(7)
    stage.service.look(ID)
    assert stage.asked == 1


def test_without_gateways_the_log_is_all_there_is() -> None:
    known = logged_until(None, MODEL, START)
    assert (known.time, known.missing) == (START, "")


def test_a_gateway_that_hangs_is_not_asked_again_by_everybody() -> None:
    now, takes, asked = [0.0], [0.2], []

    def ask(model: str) -> Mapping[str, float]:
        asked.append(model)
        now[0] += takes[0]
        raise NotReadyError(f"away for {model}")

    backlog = PatientBacklog(ask, lambda: now[0])
    for model in ("a", "b"):  # refused at once
        with pytest.raises(NotReadyError, match=f"away for {model}"):
            backlog(model)
    takes[0] = 5.0
    for _ in range(3):
        with pytest.raises(NotReadyError, match="away for a"):
            backlog("a")
    with pytest.raises(NotReadyError, match="away for a"):
        backlog("b")
    assert asked == ["a", "b", "a"]
    now[0] += 5.1
    with pytest.raises(NotReadyError, match="away for b"):
        backlog("b")
