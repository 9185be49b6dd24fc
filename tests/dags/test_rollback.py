"""The rollback DAG in process."""


def test_an_active_rollout_is_rolled_back_with_the_reason_that_was_given(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        world.run()
    run = world.dags["rollback"].test(run_conf={"model": world.model, "reason": "customers complain"})
    assert world.states(run)["roll_back"] == "success"
    assert (world.rollout.state, world.rollout.reason) == ("rolled_back", "customers complain")
    assert (world.traffic.champion, world.traffic.challenger, world.traffic.share) == ("1", None, 0)
    assert (world.alias("champion"), world.alias("challenger")) == ("1", None)
    again = world.dags["rollback"].test(run_conf={"model": world.model, "reason": "again"})
    assert world.states(again)["roll_back"] == "success"
    assert world.kinds.count("rolled_back") == 1


def test_a_model_that_never_had_a_rollout_is_refused(world):
    run = world.dags["rollback"].test(run_conf={"model": world.model, "reason": "oops"})
    assert world.states(run)["roll_back"] == "failed"
    assert world.traffic is None


def test_it_works_with_mlflow_away_and_the_registry_follows_later(world, monkeypatch):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        world.run()
    away = RuntimeError("MLflow is away")

    def refuse(*_: object) -> None:
        raise away

    with monkeypatch.context() as patch:
        patch.setattr(world.wiring.registry, "set_roles", refuse)
        run = world.dags["rollback"].test(run_conf={"model": world.model, "reason": "now"})
    assert world.states(run)["roll_back"] == "failed"  # and is tried again in production
    assert (world.traffic.champion, world.traffic.share) == ("1", 0)
    assert world.alias("challenger") == "2"
    again = world.dags["rollback"].test(run_conf={"model": world.model, "reason": "now"})
    assert world.states(again)["roll_back"] == "success"
    assert world.alias("challenger") is None
