"""The DAG that cares for the log, in process."""

from datetime import UTC, datetime, timedelta

from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog

NOW = datetime.now(UTC)


def fill(world):
    writer = DeltaLogWriter(world.log_dir, "g1")
    for number, age in enumerate((60, 60, 50, 2, 2)):
        at = NOW - timedelta(days=age, seconds=number)
        row = {
            "request_id": f"r{number}", "ts": at, "model": world.model, "version": "1", "arm": "champion",
            "served": True, "rollout_id": "ro", "stage": 0, "status": "ok", "latency_ms": 1.0, "prediction": "1",
            "gateway_id": "g1", "traffic_revision": 1,
        }  # fmt: skip
        writer.append(world.model, "predictions", [row], number)


def rows(world):
    span = (NOW - timedelta(days=100), NOW + timedelta(days=1))
    return DeltaPredictionLog(world.log_dir).count_rows(world.model, "ro", 0, None, *span)


def maintain(world, **conf):
    run = world.dags["log_maintenance"].test(run_conf=conf)
    return world.states(run)["upkeep"], run.get_task_instance("upkeep").xcom_pull(task_ids="upkeep")


def test_old_days_go_small_files_are_merged_and_a_dry_run_changes_nothing(world, monkeypatch):
    monkeypatch.setattr(world.wiring.settings, "log_retention_days", 30)
    world.wiring.service.adopt(world.model, "test")
    fill(world)
    state, told = maintain(world, model=world.model, dry_run=True)
    assert (state, told[0]["rows_dropped"], rows(world)) == ("success", 3, 5)
    state, told = maintain(world, dry_run=False)
    assert (state, told[0]["rows_dropped"], told[0]["files_after"], rows(world)) == ("success", 3, 1, 2)


def test_a_model_that_is_not_in_the_log_fails_the_task(world):
    fill(world)
    assert maintain(world, model="nobody")[0] in ("failed", "up_for_retry")
    assert rows(world) == 5
