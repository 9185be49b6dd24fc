"""Offline stages over a real log, a real store and models loaded from a real MLflow."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.offline_past import Past, logged_model, register, request

from model_rollouts.adapters.delta_log import DeltaLogWriter
from model_rollouts.core.decision import Decision
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.recompute import recompute_from


@pytest.fixture
def past(tmp_path: Path, mlflow_server: str) -> Callable[..., Past]:
    """Makes a past whose challenger has the given configuration."""

    def make(parameters: dict[str, Any] | None = None, inputs: str = "", **config: Any) -> Past:
        model = register(mlflow_server, logged_model(mlflow_server), logged_model(mlflow_server, inputs, **config))
        return Past(tmp_path, mlflow_server, model, parameters or {})

    return make


def decided(event: dict[str, Any]) -> Decision:
    return Decision.from_dict(event["decision"])


def test_an_identical_model_passes_before_all_requests_are_scored(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(6000)
    world.start()
    decision = decided(world.scoring(batch=1000).run("ro", 0))
    assert (decision.verdict, decision.action) == ("pass", "cut_over"), decision.reason
    looks = world.store.looks("ro")
    assert decision.looks == len(looks) < 6
    for index, look in enumerate(looks):
        assert (look.stage, look.index) == (0, index)
        assert (look.champion.requests, look.challenger.requests, look.challenger.errors) == (1000, 1000, 0)
        assert (look.pairs.asked, look.pairs.paired, look.pairs.agreed) == (1000, 1000, 1000)
    assert len(world.answers()) == 1000 * len(looks)


def test_a_model_that_differs_in_one_of_twenty_never_passes(past: Callable[..., Past]) -> None:
    world = past(flip_every=20)
    world.requests(6000)
    world.start()
    decision = decided(world.scoring(batch=1000).run("ro", 0))
    assert (decision.verdict, decision.action) == ("inconclusive", "hold"), decision.reason
    assert "agreement with the champion is 9" in decision.reason


def test_a_model_that_raises_on_some_rows_is_rolled_back(past: Callable[..., Past]) -> None:
    world = past(raise_every=10)
    world.requests(4000)
    world.start()
    decision = decided(world.scoring(batch=1000).run("ro", 0))
    assert (decision.verdict, decision.action) == ("fail", "roll_back"), decision.reason
    first = world.store.looks("ro")[0]
    assert first.challenger.requests == 1000
    assert 60 < first.challenger.errors < 150
    assert first.champion.errors == 0
    assert Counter(row["error"] for row in world.answers() if row["status"] != "ok").keys() == {"KeyError: 'carrier'"}


def test_requests_that_run_out_are_no_proof(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(40)
    world.start()
    decision = decided(world.scoring().run("ro", 0))
    assert (decision.verdict, decision.action) == ("inconclusive", "hold")
    assert decision.reason.startswith("all 40 logged requests of the champion are scored; agreement needs about ")
    assert not decision.blind
    again = recompute_from(world.store.rollout("ro").plan, world.store.looks("ro"), decision)
    assert again.differences == ()


def test_what_happens_when_they_run_out_is_up_to_the_plan(past: Callable[..., Past]) -> None:
    world = past({"at_deadline": "roll_back"})
    world.requests(40)
    world.start()
    assert decided(world.scoring().run("ro", 0)).action == "roll_back"


def test_without_logged_requests_nothing_passes(past: Callable[..., Past]) -> None:
    world = past({"at_deadline": "ask"})
    world.start()
    decision = decided(world.scoring().run("ro", 0))
    assert (decision.verdict, decision.action) == ("inconclusive", "ask")
    assert decision.reason.startswith("the champion has no logged requests to score")
    assert decision.blind  # whoever is asked can't go on by it
    assert world.store.looks("ro") == []


def test_an_input_that_was_never_logged_is_named(past: Callable[..., Past]) -> None:
    world = past(inputs="distance")
    world.requests(50)
    plan_of = world.service.readiness
    world.service.readiness = lambda *a: ([], plan_of(*a)[1])  # type: ignore[method-assign] # which refuses it, too
    world.start()
    with pytest.raises(NotReadyError, match=r"no values of the inputs distance, which version 2 needs"):
        world.scoring().run("ro", 0)
    assert world.answers() == []


class _CrashError(Exception):
    pass


@pytest.mark.parametrize("crash", ["before the rows are written", "after the rows are written"])
def test_a_task_that_died_is_gone_on_with_and_nothing_is_written_twice(past: Callable[..., Past], crash: str) -> None:
    world = past(flip_every=60)
    world.requests(2500)
    world.start()

    log = world.offline_log()
    write, calls = log.append, iter(range(9))

    def dying(*arguments: Any) -> bool:
        if next(calls) < 1:
            return write(*arguments)
        if crash.startswith("after"):
            write(*arguments)
        raise _CrashError

    log.append = dying  # type: ignore[method-assign]
    with pytest.raises(_CrashError):
        world.scoring(batch=500, log=log).run("ro", 0)
    assert len(world.store.looks("ro")) == 1

    decision = decided(world.scoring(batch=500).run("ro", 0))
    rows = world.answers()
    assert len({row["request_id"] for row in rows}) == len(rows) == 500 * decision.looks
    assert sum(look.pairs.paired for look in world.store.looks("ro")) == len(rows)
    assert sum(look.pairs.agreed for look in world.store.looks("ro")) == sum(
        int(row["request_id"][1:]) % 60 != 59 for row in rows
    )


def test_two_tasks_at_once_write_each_request_once(past: Callable[..., Past]) -> None:
    world = past(flip_every=60)
    world.requests(1500)
    world.start()
    one, other = world.offline_log(), world.offline_log()
    write = one.append

    def slower(*arguments: Any) -> bool:
        world.scoring(batch=300, log=other).run("ro", 0)  # the other one is through with everything meanwhile
        return write(*arguments)

    one.append = slower  # type: ignore[method-assign]
    world.scoring(batch=300, log=one).run("ro", 0)
    rows = world.answers()
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert sum(look.challenger.requests for look in world.store.looks("ro")) == len(rows)


def test_a_stage_that_was_ended_meanwhile_is_told(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(100)
    world.start()
    world.service.roll_back("ro", "a person", "no")
    assert world.scoring().run("ro", 0) == {"ended": "rolled_back", "stage": 0}


def test_looks_without_their_rows_stop_the_stage(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(40)
    world.start()
    world.scoring().run("ro", 0)
    world.store.save_looks("ro", [type(look)(0, 1, look.champion, look.challenger) for look in world.store.looks("ro")])
    with pytest.raises(NotReadyError, match="2 looks of stage 0 of ro are kept and the log has 1"):
        world.scoring().run("ro", 0)


def test_a_batch_on_record_whose_rows_are_gone_stops_the_stage(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(40)
    world.start()
    row = request(0, world.began, model=world.model)
    assert DeltaLogWriter(world.log_dir, "offline/ro/0").append(world.model, "predictions", [row], 0)
    with pytest.raises(NotReadyError, match="batch 0 was written before and its rows are gone"):
        world.scoring().run("ro", 0)


def test_later_batches_are_larger(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(90)
    world.start()
    world.scoring(batch=10).run("ro", 0)
    sizes = [look.challenger.requests for look in world.store.looks("ro")]
    assert sizes[:5] == [10, 10, 10, 10, 10]
    assert sizes[5:] == [12, 15, 13]


def test_a_resumed_stage_goes_on_with_what_was_logged_meanwhile(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(40)
    world.start()
    decision = decided(world.scoring().run("ro", 0))
    world.service.hold("ro", 0, "test", decision.reason, {})
    world.began += timedelta(seconds=2)  # requests of while it was held
    world.requests(3000, first=100)
    world.service.open_stage("ro", 0, "test")
    decision = decided(world.scoring().run("ro", 0))
    assert decision.verdict == "pass", decision.reason
    assert len({row["request_id"] for row in world.answers()}) == len(world.answers()) > 1000


def test_the_rows_tell_who_answered_what(past: Callable[..., Past]) -> None:
    world = past()
    world.requests(30, unit_id="u1")
    rollout = world.start()
    world.scoring().run("ro", 0)
    for row in world.answers():
        assert row["rollout_id"] == "ro"
        assert (row["stage"], row["version"], row["cohort"], row["served"]) == (0, "2", "challenger", False)
        assert (row["gateway_id"], row["traffic_revision"], row["unit_id"]) == ("offline", 7, "u1")
        assert row["ts"] >= rollout.opened_at
        assert row["prediction"] == str(int(row["f_x"] > 0))
        assert row["latency_ms"] > 0
