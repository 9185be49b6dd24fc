"""The A/B DAG in process: winner, loser, no difference, each with its action."""


def test_a_winner_takes_over(world):
    with world.replay(values={"1": 1.0, "2": 1.6}, requests=120):
        run = world.run("ab_test")
    assert world.states(run)["cut_over"] == "success", (world.states(run), world.rollout.reason)
    opened = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "stage_opened")
    assert opened.after == {"1": 50, "2": 50}
    assert (world.traffic.champion, world.traffic.previous, world.alias("champion")) == ("2", "1", "2")
    assert world.states(run)["readout"] == "success"


def test_a_loser_goes(world):
    with world.replay(values={"1": 1.6, "2": 1.0}, requests=120):
        run = world.run("ab_test")
    assert world.states(run)["roll_back"] == "success", (world.states(run), world.rollout.reason)
    assert (world.traffic.champion, world.traffic.share, world.alias("challenger")) == ("1", 0, None)
    assert "value" in world.rollout.reason


def test_no_difference_by_the_horizon_keeps_the_champion(world):
    with world.replay(values={"1": 1.0, "2": 1.0}):
        run = world.run("ab_test", horizon_seconds=8)
    assert world.states(run)["roll_back"] == "success", (world.states(run), world.rollout.reason)
    assert "deadline of 8 s reached" in world.rollout.reason
    assert world.traffic.champion == "1"


def test_a_harmed_guardrail_rolls_back_whatever_the_value(world):
    with world.replay(values={"1": 1.0, "2": 1.6}, errors={"2": 0.4}, requests=120):
        run = world.run("ab_test", bake_seconds=10)
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert "error rate" in world.rollout.reason


def test_without_a_horizon_and_without_values_to_plan_by_nothing_starts(world):
    run = world.run("ab_test", horizon_seconds=None)
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []
