"""The shadow DAG in process: agreement cuts over, disagreement does not, harm rolls back."""


def test_a_challenger_that_agrees_takes_over_and_nobody_met_it_before(world):
    with world.replay(disagree=0.002):
        run = world.run("shadow")
    assert world.states(run)["cut_over"] == "success", (world.states(run), world.rollout.reason)
    assert "agreement" in world.rollout.reason
    shares = [e.after.get("2", 0) for e in world.wiring.store.events(model=world.model) if e.kind != "cut_over"]
    assert set(shares) == {0}
    assert (world.traffic.champion, world.traffic.previous, world.alias("champion")) == ("2", "1", "2")


def test_one_that_disagrees_does_not(world):
    with world.replay(disagree=0.1):
        run = world.run("shadow")
    assert world.states(run)["hold"] == "success", (world.states(run), world.rollout.reason)
    assert (world.rollout.state, world.traffic.champion, world.traffic.share) == ("holding", "1", 0)
    assert "agreement" in world.rollout.reason


def test_one_that_errs_is_rolled_back_and_no_longer_mirrored(world):
    with world.replay(errors={"2": 0.3}):
        run = world.run("shadow")
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert (world.traffic.challenger, world.traffic.mirror_percent, world.alias("challenger")) == (None, 0, None)


def test_nothing_mirrored_is_no_proof(world):
    run = world.run("shadow", deadline_seconds=4)
    assert world.states(run)["hold"] == "success", world.states(run)
    assert "cleared" not in world.kinds


def test_the_pairs_are_compared_request_by_request_and_slices_are_named(world):
    import json
    from pathlib import Path

    from mlflow import MlflowClient

    with world.replay(disagree=0.002):
        world.run("shadow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"rollouts/{world.model}")
    (run,) = client.search_runs([experiment.experiment_id])
    report = json.loads(Path(client.download_artifacts(run.info.run_id, "pairs.json")).read_text())
    assert report["paired"] > 500
    assert {part["feature"] for part in report["slices"]} == {"x"}
