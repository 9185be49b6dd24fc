"""Reconcile in process: what died is taken up, what was moved by hand is reported, and nothing is guessed."""

from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from model_rollouts.adapters.sql_backup import back_up
from model_rollouts.core.patterns import plan_from
from model_rollouts.core.plan import Pattern

CANARY = {
    "steps": [50, 100], "bake_seconds": 0, "deadline_seconds": 600, "look_seconds": 1, "grace_seconds": 0,
    "label_maturity_seconds": 0, "control_percent": 40,
}  # fmt: skip


@pytest.fixture
def later(world, monkeypatch):
    """Reconcile as it would be some minutes from now: nothing is too young to be looked at."""
    from model_rollouts import reconcile

    monkeypatch.setattr(reconcile.Reconciler.__init__, "__defaults__", (timedelta(0),))
    return world


def reconcile(world):
    run = world.dags["reconcile"].test()
    assert world.states(run)["reconcile"] == "success", world.states(run)
    return run.get_task_instance("reconcile").xcom_pull(task_ids="reconcile")


def begun(world, run_id="gone", **changes):
    """A rollout whose first stage is open and whose run Airflow does not know."""
    service = world.wiring.service
    run = {"dag_id": "canary", "run_id": run_id}
    plan = plan_from(Pattern.CANARY, {**CANARY, **changes})
    service.start("r-" + world.model, world.model, "2", plan, "test", "go", run=run)
    return service.open_stage("r-" + world.model, 0, "test", run)


def reasons(world, kind):
    return [e.reason for e in world.wiring.store.events(model=world.model) if e.kind == kind]


def test_where_all_is_well_nothing_is_done(later):
    later.wiring.service.adopt(later.model, "test")
    assert reconcile(later) == []
    assert later.kinds == ["adopted"]


def test_a_stage_whose_run_is_gone_is_taken_up_by_another_and_goes_on(later):
    begun(later)
    (run,) = reconcile(later)
    assert run["trigger_dag_id"] == "canary"
    assert (run["conf"]["rollout_id"], run["conf"]["stage"]) == (later.rollout.id, 0)
    form = {**later.params(), **run["conf"]}
    with later.replay(wrong={"1": 0.12, "2": 0.08}):
        taken = later.dag.test(run_conf=form)
    assert later.states(taken)["expand"] == "success", (later.states(taken), later.rollout.reason)
    assert "taken_up" in later.kinds
    assert later.kinds.count("stage_opened") == 1


def test_a_young_step_is_left_alone(world):
    begun(world)
    assert reconcile(world) == []


def test_past_its_deadline_a_stage_without_a_run_does_what_the_plan_says(later):
    import time

    begun(later, deadline_seconds=2, at_deadline="roll_back", label_coverage=0)
    time.sleep(2)  # the deadline is what is being waited for
    assert reconcile(later) == []
    assert (later.rollout.state, later.traffic.share) == ("rolled_back", 0)
    assert "past its deadline" in later.rollout.reason


def test_a_stage_that_passed_and_was_followed_by_nothing_is_followed(later):
    begun(later)
    later.wiring.service.clear(later.rollout.id, 0, "test", "passed", {})
    (run,) = reconcile(later)
    assert run["conf"]["stage"] == 1


def test_a_cut_over_that_was_not_finished_is_finished(later):
    service = later.wiring.service
    rollout = begun(later)
    service.clear(rollout.id, 0, "test", "passed", {})
    service.open_stage(rollout.id, 1, "test", {"dag_id": "canary", "run_id": "gone too"})
    service.clear(rollout.id, 1, "test", "passed", {})
    assert reconcile(later) == []
    assert (later.rollout.state, later.traffic.champion, later.alias("champion")) == ("promoted", "2", "2")


def test_a_registry_that_did_not_follow_is_brought_up_to_date(later):
    begun(later)
    later.wiring.service.roll_back(later.rollout.id, "test", "by hand, with MLflow away")
    assert later.alias("challenger") == "2"
    reconcile(later)
    assert later.alias("challenger") is None
    assert any("brought up to date" in reason for reason in reasons(later, "repaired"))


def test_an_alias_moved_by_hand_is_reported_once_and_left(later):
    from mlflow import MlflowClient

    begun(later)
    later.wiring.service.roll_back(later.rollout.id, "test", "done")
    later.wiring.service.sync_registry(later.rollout.id)
    MlflowClient().set_registered_model_alias(later.model, "champion", "2")
    reconcile(later)
    reconcile(later)
    assert later.alias("champion") == "2"
    assert later.traffic.champion == "1"
    assert len([r for r in reasons(later, "reported") if "moved by hand" in r]) == 1


def findings(world):
    """What a look finds while every run is alive."""
    from model_rollouts.reconcile import Reconciler

    alive = Reconciler(world.wiring.service, world.gateway, lambda dag_id, run_id: "alive", "test", timedelta(0))
    return [(f.what, f.repaired) for f in alive.check()]


@contextmanager
def lost(world):
    """Whatever happens in the block is gone from the store afterwards, which is restored, and not from MLflow."""
    url = world.wiring.settings.store_url
    file = Path(url.removeprefix("sqlite:///"))
    copy = file.with_name("copy.db")
    back_up(url, copy)
    yield
    for left in file.parent.glob(f"{file.name}*"):
        left.unlink()
    copy.rename(file)


def test_a_registry_that_is_newer_than_a_restored_store_is_left_to_a_person(later):
    service = later.wiring.service
    rollout = begun(later)
    service.sync_registry(rollout.id)
    with lost(later):
        service.clear(rollout.id, 0, "test", "passed", {})
        service.open_stage(rollout.id, 1, "test", {"dag_id": "canary", "run_id": "gone too"})
        service.clear(rollout.id, 1, "test", "passed", {})
        service.cut_over(rollout.id, "test", "passed", {})
    assert (later.alias("champion"), later.traffic.champion) == ("2", "1")

    found = [findings(later), findings(later)]

    assert found[0] == found[1]
    ((what, repaired),) = found[0]
    assert not repaired
    assert "was the store restored?" in what
    assert f"`rollouts sync {later.model}`" in what
    assert (later.alias("champion"), later.alias("previous")) == ("2", "1")
    assert len([r for r in reasons(later, "reported") if "was the store restored?" in r]) == 1
    service.sync_registry(rollout.id)  # the person's choice
    assert (later.alias("champion"), later.alias("challenger"), findings(later)) == ("1", "2", [])


def test_a_rollout_that_the_store_lost_keeps_its_aliases(later):
    from mlflow import MlflowClient

    service, second = later.wiring.service, MlflowClient().get_model_version(later.model, "2")
    MlflowClient().create_model_version(
        later.model, second.source, second.run_id, model_id=second.source.removeprefix("models:/")
    )
    rollout = begun(later)
    service.roll_back(rollout.id, "test", "done")  # the registry has not followed
    with lost(later):
        plan = plan_from(Pattern.CANARY, {**CANARY, "steps": [100]})
        service.start("lost", later.model, "3", plan, "test", "go")
        service.open_stage("lost", 0, "test")
        service.clear("lost", 0, "test", "passed", {})
        service.cut_over("lost", "test", "passed", {})

    assert [("was the store restored?" in what, repaired) for what, repaired in findings(later)] == [(True, False)]
    assert later.alias("champion") == "3"


def test_an_old_champion_that_has_its_role_again_elsewhere_is_not_released(later):
    service = later.wiring.service
    rollout = begun(later, steps=[100], keep_previous_seconds=0)
    service.clear(rollout.id, 0, "test", "passed", {})
    service.cut_over(rollout.id, "test", "passed", {})
    with lost(later):
        service.roll_back(rollout.id, "test", "harm")
        service.sync_registry(rollout.id)

    assert [("was the store restored?" in what, repaired) for what, repaired in findings(later)] == [(True, False)]
    assert (later.alias("champion"), later.traffic.champion, later.traffic.previous) == ("1", "2", "1")


def test_a_gateway_that_does_not_follow_is_reported(later, monkeypatch):
    later.wiring.service.adopt(later.model, "test")
    monkeypatch.setattr(later.gateway, "routed", lambda model: {"gw-1": 0})
    reconcile(later)
    assert any("gateway gw-1 routes" in reason for reason in reasons(later, "reported"))


def test_an_old_champion_is_released_when_its_time_is_over(later):
    service = later.wiring.service
    rollout = begun(later, steps=[100], keep_previous_seconds=0)
    service.clear(rollout.id, 0, "test", "passed", {})
    service.cut_over(rollout.id, "test", "passed", {})
    assert (later.traffic.previous, later.alias("previous")) == ("1", "1")
    reconcile(later)
    assert (later.traffic.previous, later.alias("previous")) == (None, None)
    assert "previous_released" in later.kinds


def test_a_held_stage_that_nobody_watches_is_still_rolled_back_on_harm(later):
    begun(later)
    with later.replay(errors={"2": 0.5}):
        while later.wiring.service.look(later.rollout.id).verdict != "fail":
            pass
    later.wiring.service.hold(later.rollout.id, 0, "test", "a person looks", {})
    reconcile(later)
    assert (later.rollout.state, later.traffic.share) == ("rolled_back", 0)


def test_what_does_not_come_on_is_stuck_and_told(later, monkeypatch):
    """Each run of the stage has ended and none has brought it on: after six a person has to look."""
    told = []
    monkeypatch.setattr("model_rollouts.operators.reconcile.notify", lambda context, **said: told.append(said))
    rollout = begun(later)
    from model_rollouts.reconcile import Reconciler

    found = Reconciler(
        later.wiring.service, later.gateway, lambda dag_id, run_id: "ended", "test", timedelta(0)
    ).check()
    assert [(f.repaired, f.resume) for f in found if f.rollout_id == rollout.id] == [(False, None)]
    assert "6 runs have not brought it on" in found[0].what


def test_a_broken_drill_is_cleaned_up_and_a_running_one_is_not(later, monkeypatch):
    from model_rollouts import reconcile as module
    from model_rollouts.core import upkeep
    from model_rollouts.core.rollout import Cause

    service = later.wiring.service
    traffic = service.adopt(later.model, "test")
    later.wiring.store.apply(upkeep.drill_out(traffic, "2", Cause("test", service.clock(), "drill")))
    reconcile(later)
    assert later.traffic.challenger == "2"
    monkeypatch.setattr(module, "_DRILL", timedelta(0))
    reconcile(later)
    assert later.traffic.challenger is None
