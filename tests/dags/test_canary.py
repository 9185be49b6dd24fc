"""The canary DAG in process: every branch, and what is missing at each task."""

import json
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest

from model_rollouts.core.patterns.canary import CanaryParameters

REPO = Path(__file__).parents[2]
REHEARSAL = ["drill_began", "drill_ended", "drilled"]


def test_the_form_offers_every_parameter_with_the_default_that_the_pattern_has(world):
    offered = {name: param.value for name, param in world.dag.params.items()}
    own = {"model", "challenger", "rollout_id", "stage", "requested_by", "reason"}
    known = {field.name: getattr(CanaryParameters(), field.name) for field in fields(CanaryParameters)}
    assert set(offered) - own == set(known)
    for name, default in known.items():
        assert offered[name] == (list(default) if isinstance(default, tuple) else default), name
        assert world.dag.params.get_param(name).description


def test_parsing_the_dag_file_takes_under_100_ms_beyond_airflow():
    script = (
        "import importlib.util, sys, time\n"
        "import airflow.sdk\n"
        "from airflow.sdk import DAG, Param, TriggerRule\n"
        "DAG('warm', params={'a': Param(1, type='number')})\n"
        "import airflow.providers.standard.operators.hitl, airflow.providers.standard.operators.trigger_dagrun\n"
        "import airflow.triggers.base\n"
        "start = time.process_time()\n"
        f"spec = importlib.util.spec_from_file_location('canary', {str(REPO / 'dags' / 'canary.py')!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(1000 * (time.process_time() - start))\n"
        "heavy = {'mlflow', 'pandas', 'scipy', 'evidently', 'great_expectations', 'duckdb', 'deltalake'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    quickest = 1000.0
    for _ in range(3):  # other work on the machine costs processor time, too
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
        milliseconds, heavy = out.stdout.strip().splitlines()[-2:]
        assert heavy == "[]"
        quickest = min(quickest, float(milliseconds))
        if quickest < 100:
            break
    assert quickest < 100


@pytest.mark.pictures
def test_a_good_challenger_goes_through_every_step_and_becomes_champion(world):
    from mlflow import MlflowClient

    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        first = world.run()
        assert world.states(first)["expand"] == "success", world.states(first)
        rollout = world.rollout
        assert (rollout.state, rollout.stage) == ("cleared", 0)
        assert (world.traffic.share, world.alias("challenger")) == (50, "2")

        conf = world.next_conf(rollout.id, 1)
        assert conf["rollout_id"] == rollout.id
        second = world.dag.test(run_conf=conf)
    assert world.states(second)["cut_over"] == "success", world.states(second)
    assert world.rollout.state == "promoted"
    assert (world.traffic.champion, world.traffic.previous, world.traffic.challenger) == ("2", "1", None)
    assert [world.alias(name) for name in ("champion", "previous", "challenger")] == ["2", "1", None]
    assert world.kinds == [
        "adopted", "started", *REHEARSAL, "stage_opened", "cleared", "stage_opened", "cleared", "cut_over",
    ]  # fmt: skip
    for event in world.wiring.store.events(model=world.model):
        assert sum(event.after.values()) == 100

    client = MlflowClient()
    assert client.get_model_version(world.model, "2").tags["rollout.state"] == "promoted"
    experiment = client.get_experiment_by_name(f"rollouts/{world.model}")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["rollout.stage"] for run in runs} == {"0", "1"}
    for run in runs:
        assert run.info.status == "FINISHED"
        names = set(walk(client, run.info.run_id))
        for wanted in ("comparison.json", "comparison.html", "decision.json", "drift.html", "drift.json"):
            assert any(name.endswith(wanted) for name in names), (wanted, names)
        assert any("data_checks_predictions" in name for name in names), names


def walk(client, run_id, path=None):
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            yield from walk(client, run_id, entry.path)
        else:
            yield entry.path


def test_a_less_accurate_challenger_is_rolled_back_and_the_gate_is_named(world):
    with world.replay(wrong={"1": 0.1, "2": 0.4}):
        run = world.run()
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert world.states(run)["expand"] == "skipped"
    assert (world.traffic.champion, world.traffic.challenger, world.traffic.share) == ("1", None, 0)
    assert (world.alias("champion"), world.alias("challenger")) == ("1", None)
    assert world.kinds == ["adopted", "started", *REHEARSAL, "stage_opened", "rolled_back"]
    event = world.wiring.store.events(model=world.model)[-1]
    assert "wrong predictions" in event.reason
    assert event.evidence["verdict"] == "fail"


def test_an_erring_challenger_is_rolled_back(world):
    with world.replay(errors={"2": 0.3}):
        run = world.run()
    assert world.states(run)["roll_back"] == "success"
    assert "error rate" in world.rollout.reason
    assert world.traffic.share == 0
    assert_tasks_link_to_what_they_made(world, run)


def assert_tasks_link_to_what_they_made(world, run):
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"rollouts/{world.model}")
    (found,) = client.search_runs([experiment.experiment_id])
    base = f"{world.wiring.settings.mlflow_tracking_uri}/#/experiments/{experiment.experiment_id}"
    stage = f"{base}/runs/{found.info.run_id}"
    both = {"RolloutLink": f"/model-rollouts/page/#/rollout/{world.rollout.id}", "MlflowRunLink": stage}
    assert links(run, "preflight") == links(run, "roll_back") == both
    assert links(run, "compare") == {**both, "ReportLink": f"{stage}/artifacts/comparison.html"}
    names = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {links(run, task)["ReportLink"].rpartition("/")[2] for task in ("compare", "drift_report")} <= names


def links(run, task_id):
    """The buttons of a task's page, as Airflow keeps them when it has ended."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = (
            session.query(XComModel.key, XComModel.value)
            .filter(XComModel.dag_id == run.dag_id, XComModel.run_id == run.run_id, XComModel.task_id == task_id)
            .filter(XComModel.key.like("_link_%"))
        )
        return {key.removeprefix("_link_"): str(value).strip('"') for key, value in rows}


@pytest.mark.parametrize(("policy", "state", "share"), [("hold", "holding", 50), ("roll_back", "rolled_back", 0)])
def test_no_traffic_is_inconclusive_at_the_deadline_and_does_what_the_plan_says(world, policy, state, share):
    run = world.run(deadline_seconds=3, at_deadline=policy)
    assert world.states(run)["expand"] == "skipped"
    assert world.rollout.state == state
    assert world.traffic.share == share
    assert "deadline of 3 s reached" in world.rollout.reason
    assert "cleared" not in world.kinds


def test_labels_that_never_come_do_not_pass(world, monkeypatch):
    from model_rollouts.adapters.delta_log import DeltaLogWriter

    append = DeltaLogWriter.append
    monkeypatch.setattr(
        DeltaLogWriter, "append", lambda self, model, table, rows, version: table == "outcomes"
        or append(self, model, table, rows, version),
    )  # fmt: skip
    with world.replay():
        world.run(deadline_seconds=6)
    assert world.rollout.state == "holding"
    assert "no due label of this stage has arrived" in world.rollout.reason


def _broken_log(world):
    broken = world.log_dir / world.model / "predictions" / "_delta_log"
    broken.mkdir(parents=True)
    (broken / "00000000000000000000.json").write_text("not a commit\n")


def test_nothing_starts_on_a_log_that_cannot_be_read(world):
    _broken_log(world)
    run = world.run()
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []
    assert world.traffic is None


def test_a_log_that_cannot_be_read_any_more_does_not_pass(world):
    def break_while_it_bakes():
        while not world.wiring.store.rollouts(world.model) or world.rollout.state != "baking":
            threading.Event().wait(0.05)
        _broken_log(world)

    late = threading.Thread(target=break_while_it_bakes)
    late.start()
    world.run(deadline_seconds=3)
    late.join()
    assert world.rollout.state == "holding"
    assert "the evidence can't be read" in world.rollout.reason


def test_evidence_that_breaks_the_contract_holds_the_step(world):
    with world.replay(null_features=True):
        run = world.run()
    assert world.states(run)["hold"] == "success", world.states(run)
    assert world.rollout.state == "holding"
    assert "validate_data failed" in world.rollout.reason
    assert "f_x" in world.rollout.reason


def test_a_second_rollout_of_the_model_is_refused_and_names_the_first(world):
    from model_rollouts.core.patterns.canary import plan_canary

    first = world.wiring.service.start("first", world.model, "2", plan_canary(CanaryParameters()), "test", "held")
    before = world.traffic
    run = world.run()
    assert world.states(run)["preflight"] == "failed"
    assert world.states(run)["shift_traffic"] == "upstream_failed"
    assert world.states(run)["decide"] == "upstream_failed"
    assert world.traffic == before
    assert world.wiring.store.active(world.model).id == first.id
    from model_rollouts.core.errors import ActiveRolloutError

    with pytest.raises(ActiveRolloutError, match="rollout first of version 2 is active"):
        world.wiring.service.start("other", world.model, "2", first.plan, "test", "again")


def test_a_challenger_that_does_not_load_moves_nothing_and_frees_the_lease(world):
    world.gateway.states = {"1": "ready", "2": "failed: no module named flights"}
    run = world.run()
    assert world.states(run)["preflight"] == "failed"
    assert world.rollout.state == "rolled_back"
    assert "no module named flights" in world.rollout.reason
    assert world.wiring.store.active(world.model) is None
    assert "stage_opened" not in world.kinds


def test_a_form_with_a_value_out_of_bounds_moves_nothing(world):
    run = world.run(steps=[50, 5])
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []
    assert world.traffic is None


def test_a_watch_that_fails_holds_the_share(world, monkeypatch):
    monkeypatch.setattr(
        "model_rollouts.triggers.watch.look_once", lambda *_: (_ for _ in ()).throw(OSError("store is away"))
    )
    run = world.run()
    assert world.states(run)["watch"] == "failed"
    assert world.states(run)["hold"] == "success", world.states(run)
    assert world.rollout.state == "holding"
    assert world.traffic.share == 50


def test_a_stage_that_holds_is_still_watched_for_harm(world):
    world.dag.get_task("hold").watch_harm = True

    def fail_while_it_holds():
        while not world.wiring.store.rollouts(world.model) or world.rollout.state != "holding":
            threading.Event().wait(0.05)
        with world.replay(errors={"2": 0.6}):
            while world.rollout.active:
                threading.Event().wait(0.05)

    late = threading.Thread(target=fail_while_it_holds)
    late.start()
    run = world.run(deadline_seconds=3)
    late.join()
    assert world.states(run)["hold"] == "success", world.states(run)
    assert world.kinds[-2:] == ["held", "rolled_back"]
    assert world.traffic.share == 0
    assert world.alias("challenger") is None


def test_harm_that_shows_after_the_verdict_still_rolls_back(world, monkeypatch):
    from model_rollouts.core.decision import Verdict
    from model_rollouts.operators.approve import ApproveOperator

    with world.replay(wrong={"1": 0.12, "2": 0.08}) as traffic:

        def thinks_long(self, context):
            traffic.errors = {"2": 0.9}
            while world.wiring.service.look(world.rollout.id).verdict is not Verdict.FAIL:
                threading.Event().wait(0.1)
            return {"answer": "Approve"}

        monkeypatch.setattr(ApproveOperator, "execute", thinks_long)
        run = world.run()
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert world.states(run)["expand"] == "skipped"
    assert "error rate" in world.rollout.reason
    assert "cleared" not in world.kinds


def test_a_pass_is_taken_back_when_the_evidence_has_stopped_coming(world, monkeypatch):
    from model_rollouts.operators.approve import ApproveOperator

    with world.replay(wrong={"1": 0.12, "2": 0.08}) as running:

        def thinks_long(self, context):
            running.requests = 0
            while not world.wiring.service.look(world.rollout.id).blind:
                threading.Event().wait(0.1)
            return {"answer": "Approve"}

        monkeypatch.setattr(ApproveOperator, "execute", thinks_long)
        run = world.run()
    assert world.states(run)["hold"] == "success", world.states(run)
    assert world.rollout.state == "holding"
    assert "has no requests in the last" in world.rollout.reason
    assert "cleared" not in world.kinds


def test_a_previous_version_that_is_gone_does_not_hold_up_the_roles(world):
    from dataclasses import replace

    from model_rollouts.core.patterns.canary import plan_canary
    from model_rollouts.core.rollout import Change

    service, store = world.wiring.service, world.wiring.store
    before = service.adopt(world.model, "test")
    after = replace(before, previous="99", revision=before.revision + 1)
    event = replace(store.events(model=world.model)[-1], traffic_revision=after.revision)
    store.apply(Change(event, after, None, before.revision, 0))
    service.start("r", world.model, "2", plan_canary(CanaryParameters()), "test", "go")
    assert (world.alias("champion"), world.alias("challenger"), world.alias("previous")) == ("1", "2", None)


def test_a_rollback_by_hand_ends_the_watch(world):
    def by_hand():
        while not world.wiring.store.rollouts(world.model) or world.rollout.state != "baking":
            threading.Event().wait(0.05)
        world.wiring.service.roll_back(world.rollout.id, "on call", "customers complain")

    person = threading.Thread(target=by_hand)
    person.start()
    run = world.run()
    person.join()
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert world.kinds.count("rolled_back") == 1
    assert world.rollout.reason == "customers complain"
    assert world.alias("challenger") is None


def test_a_held_step_is_resumed_and_can_pass(world):
    world.run(deadline_seconds=12)
    assert world.rollout.state == "holding"
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run(rollout_id=world.rollout.id)
    assert world.states(run)["expand"] == "success", world.states(run)
    assert world.kinds.count("stage_opened") == 1
    assert "resumed" in world.kinds


def test_the_verdict_can_be_computed_again_from_what_is_stored(world):
    from model_rollouts.core.decision import decide

    with world.replay(wrong={"2": 0.4}):
        world.run()
    stored = world.wiring.store.events(model=world.model)[-1].evidence
    again = decide(world.rollout.plan, 0, world.wiring.store.looks(world.rollout.id), stored["elapsed_seconds"])
    assert json.loads(json.dumps(again.to_dict())) == stored


@pytest.mark.parametrize(
    ("answer", "end", "state"),
    [("Approve", "expand", "cleared"), ("Hold", "hold", "holding"), (None, "hold", "holding")],
)
def test_where_nothing_can_be_proven_a_person_is_asked_and_silence_holds(world, monkeypatch, answer, end, state):
    from airflow.providers.standard.operators.hitl import HITLOperator

    asked = []

    def person(self, context):
        asked.append(self.subject)
        return {"answer": answer} if answer else None

    monkeypatch.setattr(HITLOperator, "execute", person)
    with world.replay(wrong={"1": 0.1, "2": 0.1}):
        run = world.run(min_requests=10**6, deadline_seconds=12, at_deadline="ask")
    assert len(asked) == 1
    assert world.states(run)[end] == "success", world.states(run)
    assert world.rollout.state == state
    if answer == "Approve":
        cleared = world.wiring.store.events(model=world.model)[-1]
        assert cleared.reason.startswith("a person decided to go on without proof; deadline of 12 s reached")
        assert cleared.evidence["verdict"] == "inconclusive"


def test_nobody_can_approve_what_nobody_has_seen(world, monkeypatch):
    from airflow.providers.standard.operators.hitl import HITLOperator

    monkeypatch.setattr(HITLOperator, "execute", lambda self, context: {"answer": "Approve"})
    run = world.run(deadline_seconds=12, at_deadline="ask")
    assert world.states(run)["hold"] == "success", world.states(run)
    assert world.rollout.state == "holding"


def test_preflight_says_what_the_steps_need_and_that_no_traffic_is_none(world):
    run = world.run(deadline_seconds=12)
    told = run.get_task_instance("preflight").xcom_pull(task_ids="preflight")["power"]
    assert [stage["underpowered"] for stage in told] == [True, True]
    assert told[0]["summary"] == "at 50 %: underpowered, no traffic was logged to measure by"
    started = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "started")
    assert started.evidence["power"] == told


def test_the_stages_artifact_gives_its_verdict_again_by_itself(world):
    from pathlib import Path as File

    from mlflow import MlflowClient

    from model_rollouts.core.recompute import recompute

    with world.replay(wrong={"2": 0.4}):
        world.run()
    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"rollouts/{world.model}")
    (run,) = client.search_runs([experiment.experiment_id])
    record = json.loads(File(client.download_artifacts(run.info.run_id, "decision.json")).read_text())
    result = recompute(record)
    assert result.again.verdict == "fail"
    assert result.differences == ()


def test_a_signal_that_alarms_after_the_verdict_holds_though_a_person_approved(world, monkeypatch):
    from dataclasses import replace

    from model_rollouts.core.decision import Action, Verdict
    from model_rollouts.operators.approve import ApproveOperator

    def thinks_long(self, context):
        service = world.wiring.service
        judged = service.look(world.rollout.id)
        alarm = next(g for g in judged.gates if g.metric == "sample_ratio")
        gates = tuple(replace(g, verdict=Verdict.FAIL) if g is alarm else g for g in judged.gates)
        held = replace(judged, verdict=Verdict.INCONCLUSIVE, action=Action.HOLD, reason="units go astray", gates=gates)
        monkeypatch.setattr(service, "look", lambda rollout_id: held)
        return {"answer": "Approve"}

    monkeypatch.setattr(ApproveOperator, "execute", thinks_long)
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run()
    assert world.states(run)["hold"] == "success", world.states(run)
    assert (world.rollout.state, world.rollout.reason) == ("holding", "units go astray")
    assert "cleared" not in world.kinds
