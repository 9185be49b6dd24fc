"""Scheduled expansion in process: a stage opens on a tick that may open it, and never twice."""

from datetime import UTC, datetime, timedelta


def tick(world):
    """What one tick of the schedule triggers: (dag id, run id, conf)."""
    run = world.dags["scheduled_expansion"].test()
    assert world.states(run)["due"] == "success", world.states(run)
    return run.get_task_instance("due").xcom_pull(task_ids="due")


def passed_first_stage(world, **conf):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run(advance="on_schedule", **conf)
    assert world.states(run)["expand"] == "success", (world.states(run), world.rollout.reason)
    assert (world.rollout.state, world.traffic.share) == ("cleared", 50)


def runs_of(world, stage):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    from model_rollouts.core.names import stage_run_id

    with create_session() as session:
        return session.query(DagRun).filter(DagRun.run_id == stage_run_id(world.rollout.id, stage)).count()


def test_a_stage_that_passed_waits_for_the_tick_and_several_ticks_open_it_once(world):
    passed_first_stage(world)
    assert runs_of(world, 1) == 0
    first, second = tick(world), tick(world)
    assert [run["conf"]["stage"] for run in first] == [1]
    assert first == second
    assert runs_of(world, 1) == 1
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.go_on(1)
    assert world.states(run)["cut_over"] == "success", (world.states(run), world.rollout.reason)
    assert tick(world) == []


def test_an_open_stage_is_not_due_however_many_ticks_there_are(world):
    passed_first_stage(world)
    world.wiring.service.open_stage(world.rollout.id, 1, "test")
    assert tick(world) == []
    assert (world.rollout.stage, world.traffic.share) == (1, 100)


def test_a_blackout_date_keeps_it_waiting(world):
    today = datetime.now(UTC).date()
    passed_first_stage(world, blackout_dates=[str(today), str(today + timedelta(days=1))])
    assert tick(world) == []
    assert world.rollout.state == "cleared"


def test_what_advances_at_once_is_none_of_its_business(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        world.run()
    assert tick(world) == []
