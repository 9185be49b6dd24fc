"""What preflight refuses before anything moves: what can't be monitored, undone or gone back to."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest


def serve(world, *, labels=True, values=True, features=True, rows=400):
    """Write what a champion's ordinary traffic of the last minutes leaves in the log."""
    from model_rollouts.adapters.delta_log import DeltaLogWriter

    writer = DeltaLogWriter(world.log_dir, f"before-{uuid.uuid4().hex}")
    now = datetime.now(UTC)
    predictions, outcomes = [], []
    for i in range(rows):
        at, x = int((now - timedelta(seconds=600 - i)).timestamp() * 1e6), (i % 20) - 9.5
        predictions.append(
            {
                "request_id": f"before-{i}", "ts": at, "model": world.model, "version": "1", "arm": "champion",
                "cohort": None, "served": True, "rollout_id": None, "stage": None, "unit_id": f"u{i % 100}",
                "status": "error" if i % 50 == 7 else "ok", "error": None, "latency_ms": 8.0,
                "prediction": None if i % 50 == 7 else str(int(x > 0)), "score": None, "gateway_id": "before",
                "traffic_revision": 1, "features": {"x": x} if features else {},
            }
        )  # fmt: skip
        outcome = {
            "request_id": f"before-{i}",
            "ts": at,
            "label": "1" if labels else None,
            "value": 2.0 if values else None,
        }
        if labels or values:
            outcomes.append(outcome)
    writer.append(world.model, "predictions", predictions, 1)
    if outcomes:
        writer.append(world.model, "outcomes", outcomes, 1)


STRICT = {"may_be_missing": [], "golden_requests": 10}


def test_a_champion_that_can_be_monitored_and_answers_as_before_may_be_challenged(world):
    serve(world)
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run(**STRICT)
    assert world.states(run)["expand"] == "success", (world.states(run), world.rollout.reason)
    started = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "started")
    checks = {check["name"]: check for check in started.evidence["checks"]}
    for name in ("accuracy", "latency", "errors", "drift", "business"):
        assert checks[f"monitoring of {name}"]["ok"], checks
    checked = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "checked")
    assert checked.evidence["champion"]["asked"] == 10
    assert checked.evidence["champion"]["agreed"] == 10


@pytest.mark.parametrize(("lacking", "named"), [("labels", "accuracy"), ("values", "business"), ("features", "drift")])
def test_what_can_not_be_monitored_is_named_and_nothing_starts(world, lacking, named):
    serve(world, **{lacking: False})
    run = world.run(may_be_missing=[])
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []
    assert world.traffic is None


def test_an_empty_log_monitors_nothing(world):
    run = world.run(may_be_missing=["business"])
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []


@pytest.mark.parametrize(
    ("version", "answer", "who"), [("1", "7", "the rollback target"), ("2", "error", "the challenger")]
)
def test_a_version_that_fails_the_golden_requests_moves_nothing_and_frees_the_lease(world, version, answer, who):
    serve(world)
    world.gateway.answers = {version: answer}
    run = world.run(golden_requests=10)
    assert world.states(run)["preflight"] == "failed"
    assert world.rollout.state == "rolled_back"
    assert f"preflight: {who}" in world.rollout.reason
    assert "stage_opened" not in world.kinds


def test_a_rollback_target_that_breaks_between_the_stages_stops_the_expansion(world):
    serve(world)
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        first = world.run(golden_requests=10)
        assert world.states(first)["expand"] == "success", world.rollout.reason
        world.gateway.answers = {"1": "error"}
        second = world.go_on(1)
    assert world.states(second)["preflight"] == "failed"
    assert (world.rollout.state, world.traffic.share) == ("cleared", 50)


def test_the_rollback_is_rehearsed_and_measured_before_anything_moves(world):
    with world.replay(errors={"2": 0.3}):
        world.run()
    drilled = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "drilled")
    assert drilled.evidence["back_seconds"] < 5
    assert drilled.after == {"1": 100, "2": 0}
    assert len(set(world.gateway.revisions)) >= 2


def test_a_gateway_that_does_not_follow_the_rehearsal_refuses_the_start(world, monkeypatch):
    from model_rollouts.drills import Drills

    world.wiring.__dict__["drills"] = Drills(world.wiring.store, world.gateway, timeout_seconds=1)
    monkeypatch.setattr(world.gateway, "routed", lambda model: {"stuck": 1})
    run = world.run()
    assert world.states(run)["preflight"] == "failed"
    assert world.rollout.state == "rolled_back"
    assert "is not followed by {'stuck': 1}" in world.rollout.reason
    assert (world.traffic.champion, world.traffic.challenger, world.traffic.previous) == ("1", None, None)


def test_a_rollout_can_ask_for_a_drill_and_a_drill_satisfies_it(world):
    refused = world.run(drill_within_days=7)
    assert world.states(refused)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []

    drill = world.dags["rollback_drill"].test(run_conf={"model": world.model, "version": "2"})
    assert world.states(drill)["drill"] == "success"
    assert world.kinds == ["adopted", "drill_began", "drill_ended", "drilled"]
    assert (world.traffic.champion, world.traffic.challenger) == ("1", None)

    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run(drill_within_days=7)
    assert world.states(run)["expand"] == "success", world.states(run)


def test_a_drill_during_a_rollout_is_refused(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        world.run()
    drill = world.dags["rollback_drill"].test(run_conf={"model": world.model, "version": "2"})
    assert world.states(drill)["drill"] == "failed"
    assert world.traffic.share == 50


@pytest.mark.parametrize(("answer", "state"), [("We stand by", "cleared"), ("Not now", "rolled_back")])
def test_the_team_is_asked_before_anything_moves(world, monkeypatch, answer, state):
    from airflow.providers.standard.operators.hitl import HITLOperator

    from model_rollouts.operators.acknowledge import AcknowledgeOperator

    asked = []

    def person(self, context):
        asked.append(world.kinds[-1])
        AcknowledgeOperator.settle(context, answer, "someone on call")
        return {"answer": answer}

    monkeypatch.setattr(HITLOperator, "execute", person)
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run(acknowledge=True, on_call=["someone on call"])
    assert asked == ["drilled"]
    assert world.rollout.state == state, world.states(run)
    if answer == "Not now":
        assert "stage_opened" not in world.kinds
        assert world.states(run)["decide"] == "skipped"
        assert world.alias("challenger") is None


# --- data rollback


def test_data_is_rolled_back_with_the_model_and_the_result_is_on_record(world, tmp_path):
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    table = str(tmp_path / "features")
    write_deltalake(table, pa.table({"x": [1]}))
    with world.replay(errors={"2": 0.3}) as traffic:
        traffic.requests = 0
        import threading

        def write_then_fail():
            while not world.wiring.store.rollouts(world.model) or world.rollout.state != "baking":
                threading.Event().wait(0.05)
            write_deltalake(table, pa.table({"x": [1, 2]}), mode="overwrite")  # what the new version needs
            traffic.requests = 60

        late = threading.Thread(target=write_then_fail)
        late.start()
        run = world.run(data_rollback=[{"kind": "delta_restore", "target": table}])
        late.join()
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert world.rollout.plan.data_rollback[0].version == 0
    assert DeltaTable(table).to_pyarrow_table()["x"].to_pylist() == [1]
    assert world.kinds[-3:] == ["rolled_back", "data_rollback_began", "data_rolled_back"]


def test_a_data_rollback_that_fails_is_loud_and_the_traffic_is_back_all_the_same(world, monkeypatch):
    monkeypatch.setattr(world.wiring.settings, "undo_allowed", ("callable:json:loads",))
    with world.replay(errors={"2": 0.3}):
        run = world.run(data_rollback=[{"kind": "callable", "target": "json:loads", "arguments": {"s": "no json"}}])
    assert world.states(run)["roll_back"] == "failed"
    assert (world.traffic.champion, world.traffic.challenger) == ("1", None)
    assert world.kinds[-1] == "data_rollback_failed"
    assert "data rollback 1 (callable json:loads) failed" in world.wiring.store.events(model=world.model)[-1].reason


def test_what_can_not_be_undone_refuses_the_start(world, tmp_path):
    run = world.run(data_rollback=[{"kind": "delta_restore", "target": str(tmp_path / "absent")}])
    assert world.states(run)["preflight"] == "failed"
    assert world.wiring.store.rollouts(world.model) == []


# --- chains


def test_patterns_chain_in_one_rollout(world):
    then = [
        {"pattern": "canary", "steps": [50], "bake_seconds": 0, "deadline_seconds": 25, "first_pass_odds": 3},
        {"pattern": "gradual", "bake_seconds": 0, "deadline_seconds": 25, "control_percent": 40},
    ]
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        first = world.run("shadow", then=then)
        assert world.states(first)["expand"] == "success", (world.states(first), world.rollout.reason)
        second = world.go_on(1, "canary")
        assert world.states(second)["expand"] == "success", (world.states(second), world.rollout.reason)
        third = world.go_on(2, "gradual")
    assert world.states(third)["cut_over"] == "success", (world.states(third), world.rollout.reason)
    assert [s.pattern for s in world.rollout.plan.stages] == ["shadow", "canary", "gradual"]
    assert len({e.rollout_id for e in world.wiring.store.events(model=world.model)} - {None}) == 1
    assert json.dumps(world.rollout.plan.to_dict())
