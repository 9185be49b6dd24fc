"""The blue-green DAG in process: green tests, the switch, and the way back to blue."""

import pytest


def green_and_switch(world, **conf):
    first = world.run("blue_green", **conf)
    assert world.states(first)["expand"] == "success", (world.states(first), world.rollout.reason)
    assert (world.traffic.share, world.traffic.champion) == (0, "1")
    return world.go_on(1, "blue_green")


def test_green_is_tested_without_live_traffic_and_then_takes_everything_in_one_revision(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        second = green_and_switch(world)
    assert world.states(second)["cut_over"] == "success", (world.states(second), world.rollout.reason)
    assert (world.traffic.champion, world.traffic.previous) == ("2", "1")
    assert [world.alias(name) for name in ("champion", "previous", "challenger")] == ["2", "1", None]
    events = world.wiring.store.events(model=world.model)
    shares = [e.after.get("2", 0) for e in events if e.kind in ("stage_opened", "cut_over")]
    assert shares == [0, 100, 100]
    opened = [e for e in events if e.kind == "stage_opened"]
    assert opened[1].before == {"1": 100, "2": 0}


def test_a_green_that_errs_is_rolled_back_before_anybody_meets_it(world):
    with world.replay(errors={"2": 0.3}):
        run = world.run("blue_green")
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert all(e.after.get("2", 0) == 0 for e in world.wiring.store.events(model=world.model))
    assert (world.alias("champion"), world.alias("challenger")) == ("1", None)
    assert (world.traffic.champion, world.traffic.mirror_percent) == ("1", 0)


def test_harm_after_the_switch_brings_blue_back(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}) as traffic:
        first = world.run("blue_green")
        assert world.states(first)["expand"] == "success", world.rollout.reason
        traffic.errors = {"2": 0.5}
        second = world.go_on(1, "blue_green")
    assert world.states(second)["roll_back"] == "success", (world.states(second), world.rollout.reason)
    assert (world.traffic.champion, world.traffic.share, world.traffic.challenger) == ("1", 0, None)


def test_blue_is_an_instant_way_back_after_the_promotion(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        green_and_switch(world)
    assert world.rollout.state == "promoted"
    world.dags["rollback"].test(run_conf={"model": world.model, "reason": "customers complain"})
    assert (world.traffic.champion, world.traffic.previous) == ("1", None)
    assert (world.rollout.state, world.rollout.reason) == ("rolled_back", "customers complain")
    assert [world.alias(name) for name in ("champion", "previous")] == ["1", None]


@pytest.mark.parametrize(("answer", "end"), [("Approve", "expand"), ("Hold", "hold"), ("Roll back", "roll_back")])
def test_a_person_decides_before_the_switch(world, monkeypatch, answer, end):
    from airflow.providers.standard.operators.hitl import HITLOperator

    monkeypatch.setattr(HITLOperator, "execute", lambda self, context: {"answer": answer})
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run("blue_green", switch_approval=True)
    assert world.states(run)[end] == "success", (world.states(run), world.rollout.reason)
    assert world.traffic.share == 0


def test_an_environment_that_would_break_green_holds_the_switch(world, monkeypatch):
    real = world.gateway.environments
    monkeypatch.setattr(
        world.gateway,
        "environments",
        lambda: {name: {k: v for k, v in found.items() if k != "mlflow"} for name, found in real().items()},
    )
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run("blue_green", on_differences="hold")
    assert world.states(run)["hold"] == "success", (world.states(run), world.rollout.reason)
    assert "compare_environments failed" in world.rollout.reason
    assert "mlflow" in world.rollout.reason
