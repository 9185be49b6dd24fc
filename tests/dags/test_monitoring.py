"""The monitoring DAG in process: what it measures, what it keeps in MLflow, and what an alert does."""

import json
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
WINDOW = 600
HEALTHY: dict[str, float] = {"errors": 0.02, "wrong": 0.1, "latency": 8.0, "value": 5.0, "shift": 0.0}


@dataclass
class Monitor:
    """A world with a champion that serves, and a log with a reference window and a window to look at."""

    world: Any
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    segment: int = 0

    def write(self, version: str = "1", ago: float = 0, n: int = 600, **changes: Any) -> None:
        """`n` requests within one window, the one that ended `ago` seconds before now, with labels and values."""
        from model_rollouts.adapters.delta_log import DeltaLogWriter

        rates = HEALTHY | {key: changes.pop(key) for key in list(changes) if key in HEALTHY}
        no_outcomes = changes.pop("no_outcomes", False)
        dice = random.Random(self.segment)
        predictions, outcomes = [], []
        for _ in range(n):
            name, at = uuid.uuid4().hex, self.now - timedelta(seconds=ago + dice.uniform(60, WINDOW - 60))
            failed, label = dice.random() < rates["errors"], dice.randrange(2)
            right = dice.random() >= rates["wrong"]
            predictions.append(
                {
                    "request_id": name,
                    "ts": at,
                    "model": self.world.model,
                    "version": version,
                    "arm": "champion",
                    "cohort": None,
                    "served": not failed,
                    "rollout_id": None,
                    "stage": None,
                    "unit_id": f"u{dice.randrange(400)}",
                    "status": "error" if failed else "ok",
                    "error": "KeyError: 'dest'" if failed else None,
                    "latency_ms": rates["latency"] * dice.lognormvariate(0, 0.3),
                    "prediction": None if failed else str(label if right else 1 - label),
                    "score": None,
                    "gateway_id": "g1",
                    "traffic_revision": 1,
                    "features": {"x": dice.gauss(rates["shift"], 1)},
                }
                | changes
            )
            known = {"request_id": name, "ts": at + timedelta(seconds=10)}
            outcomes.append({**known, "label": str(label), "value": rates["value"] * dice.gammavariate(4, 0.25)})
        self.segment += 1
        writer = DeltaLogWriter(self.world.log_dir, f"g1-{version}")
        writer.append(self.world.model, "predictions", predictions, self.segment)
        if not no_outcomes:
            writer.append(self.world.model, "outcomes", outcomes, self.segment)

    def both(self, **changes: Any) -> None:
        """A healthy reference of version 1, and a window that is as healthy but for the changes."""
        self.write(ago=WINDOW)
        self.write(**changes)

    def run(self, **conf: Any) -> Any:
        """One tick at `now`, in this process. The same tick again has the same run id."""
        form = {
            "model": self.world.model,
            "window_seconds": WINDOW,
            "reference": "window_before",
            "label_maturity_seconds": 30,
            "grace_seconds": 0,
        }
        dag = self.world.dags["monitoring"]
        return dag.test(run_after=self.now, logical_date=self.now, run_conf=form | conf)

    def promote(self) -> None:
        """Make version 2 the champion by a rollout; version 1 is kept."""
        from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary

        service = self.world.wiring.service
        service.start("r", self.world.model, "2", plan_canary(CanaryParameters(steps=(100,))), "test", "go")
        service.open_stage("r", 0, "test")
        service.clear("r", 0, "test", "passed", {})
        service.cut_over("r", "test", "passed", {})

    @property
    def alerts(self) -> list[Any]:
        """What the audit says that was reported."""
        return [e for e in self.world.wiring.store.events(model=self.world.model) if e.kind == "reported"]

    def trend(self, version: str = "1") -> Any:
        """The long-lived MLflow run of a version."""
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name(f"monitoring/{self.world.model}")
        runs = client.search_runs([experiment.experiment_id], f"tags.`monitoring.version` = '{version}'")
        assert len(runs) == 1
        return runs[0]


@pytest.fixture
def monitor(world: Any) -> Monitor:
    world.wiring.service.adopt(world.model, "test")
    return Monitor(world)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, world: Any) -> Iterator[list[dict[str, Any]]]:
    """What a webhook was told."""
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MODEL_ROLLOUTS_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/hook")
    from model_rollouts.settings import Settings

    world.wiring.settings = Settings()
    yield got
    server.shutdown()
    server.server_close()


@pytest.fixture
def rollback_awake(airflow_db: None) -> Iterator[None]:
    """The DAG `rollback` is not paused, as new DAGs are."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    def pause(paused: bool) -> None:
        with create_session() as session:
            session.get(DagModel, "rollback").is_paused = paused

    manager = DagBundlesManager()
    with create_session() as session:
        manager.sync_bundles_to_db(session=session)
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        sync_bag_to_db(bag, bundle.name, bundle.version)
    pause(False)
    yield
    pause(True)


def rollback_runs(model: str) -> list[Any]:
    """Runs of the DAG `rollback` for a model."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(DagRun).filter(DagRun.dag_id == "rollback").all()
        return [(run.run_id, dict(run.conf)) for run in found if run.conf.get("model") == model]


def walk(run_id: str, path: str | None = None) -> set[str]:
    from mlflow import MlflowClient

    found = set()
    for entry in MlflowClient().list_artifacts(run_id, path):
        found |= walk(run_id, entry.path) if entry.is_dir else {entry.path}
    return found


def test_parsing_the_dag_file_takes_under_100_ms_beyond_airflow():
    script = (
        "import importlib.util, sys, time\n"
        "import airflow.sdk\n"
        "from airflow.sdk import DAG, BaseBranchOperator, Param, TriggerRule\n"
        "DAG('warm', params={'a': Param(1, type='number')})\n"
        "import airflow.providers.standard.operators.trigger_dagrun, airflow.providers.standard.operators.empty\n"
        "start = time.process_time()\n"
        f"spec = importlib.util.spec_from_file_location('monitoring', {str(REPO / 'dags' / 'monitoring.py')!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(1000 * (time.process_time() - start))\n"
        "heavy = {'mlflow', 'pandas', 'scipy', 'evidently', 'great_expectations', 'duckdb', 'deltalake'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    milliseconds, heavy = out.stdout.strip().splitlines()[-2:]
    assert float(milliseconds) < 100
    assert heavy == "[]"


def test_a_healthy_model_is_quiet_and_its_trend_is_kept(monitor, told):
    monitor.both()
    run = monitor.run(on_alert="roll_back")
    states = monitor.world.states(run)
    assert (states["all_quiet"], states["alert"], states["roll_back"]) == ("success", "skipped", "skipped"), states
    assert (monitor.alerts, told, rollback_runs(monitor.world.model)) == ([], [], [])
    trend = monitor.trend()
    assert trend.data.tags["monitoring.state"] == "ok", trend.data.tags["monitoring.reason"]
    metrics = trend.data.metrics
    assert metrics["requests"] == 600
    assert metrics["error_rate"] == pytest.approx(0.02, abs=0.02)
    assert metrics["accuracy"] == pytest.approx(0.9, abs=0.04)
    assert metrics["value_per_request"] == pytest.approx(5, abs=0.5)
    assert metrics["latency_p95_ms"] == pytest.approx(13.1, abs=1.5)
    assert (metrics["label_coverage"], metrics["label_delay_p95_seconds"]) == (1, pytest.approx(10))
    assert (metrics["drift_share"], metrics["data_checks_failed_predictions"], metrics["alarm"]) == (0, 0, 0)
    folder = monitor.now.strftime("ticks/%Y-%m-%d/%H%M%SZ")
    wanted = ("drift.html", "drift.json", "data_checks_live.html", "data_checks_outcomes.json", "judgement.json")
    assert {f"{folder}/{name}" for name in wanted} <= walk(trend.info.run_id)


def test_an_erring_model_is_told_of_and_rolled_back_once(monitor, told, rollback_awake):
    world = monitor.world
    monitor.promote()
    monitor.write(ago=WINDOW)  # version 1, before
    monitor.write("2", errors=0.2)
    run = monitor.run(on_alert="roll_back")
    states = world.states(run)
    assert (states["alert"], states["roll_back"], states["all_quiet"]) == ("success", "success", "skipped"), states
    (alert,) = monitor.alerts
    assert alert.reason.startswith("alert: errors: error rate is ")
    assert alert.reason.endswith("rolling back to version 1")
    assert alert.evidence["judgement"]["state"] == "alert"
    assert alert.after == {"2": 100.0}
    assert [(each["event"], each["model"]) for each in told] == [("alert", world.model)]
    assert "error rate is" in told[0]["reason"]
    ((run_id, conf),) = rollback_runs(world.model)
    assert conf == {"model": world.model, "reason": conf["reason"]}
    assert "error rate is" in conf["reason"]
    assert monitor.trend("2").data.metrics["alarm"] == 1

    again = monitor.run(on_alert="roll_back")  # the same run, once more
    assert again.run_id == run.run_id
    assert world.states(again)["alert"] == "success"
    assert world.states(again)["roll_back"] == "skipped"
    assert len(monitor.alerts) == 1
    assert [each for each, _ in rollback_runs(world.model)] == [run_id]

    world.dags["rollback"].test(run_conf=conf)
    assert (world.traffic.champion, world.alias("champion")) == ("1", "1")
    assert world.rollout.state == "rolled_back"


def test_a_rollback_that_is_paused_fails_and_does_not_wait_unseen(monitor, told):
    monitor.promote()
    monitor.write(ago=WINDOW)
    monitor.write("2", errors=0.2)
    run = monitor.run(on_alert="roll_back")
    assert monitor.world.states(run)["roll_back"] == "failed"
    assert rollback_runs(monitor.world.model) == []
    assert [each["event"] for each in told] == ["alert"]


@pytest.mark.parametrize(
    ("changes", "limits", "name"),
    [
        ({"wrong": 0.35}, {"min_accuracy": 0.8}, "accuracy"),
        ({"latency": 30.0}, {}, "latency"),
        ({"value": 2.0}, {}, "business"),
        ({"shift": 3.0}, {"max_drift_share": 0.4}, "drift"),
        ({"features": {"x": None}}, {"may_be_missing": ["drift"]}, "data"),
    ],
)
def test_what_is_worse_is_named_and_nothing_moves_where_people_are_only_to_be_told(monitor, changes, limits, name):
    monitor.promote()
    monitor.write(ago=WINDOW)
    monitor.write("2", **changes)
    run = monitor.run(**limits)
    assert monitor.world.states(run)["alert"] == "success"
    assert monitor.world.states(run)["roll_back"] == "skipped"
    (alert,) = monitor.alerts
    findings = {finding["name"]: finding["state"] for finding in alert.evidence["judgement"]["findings"]}
    assert [each for each, state in findings.items() if state == "alert"] == [name], alert.reason
    assert alert.evidence["judgement"]["harm"] is (name in ("accuracy", "latency", "business"))
    assert rollback_runs(monitor.world.model) == []
    assert monitor.world.traffic.champion == "2"


def test_drift_alone_rolls_nothing_back(monitor):
    monitor.promote()
    monitor.write(ago=WINDOW)
    monitor.write("2", shift=3.0)
    run = monitor.run(on_alert="roll_back", max_drift_share=0.4)
    assert monitor.world.states(run)["roll_back"] == "skipped"
    assert "nothing shows that callers are served worse" in monitor.alerts[0].reason
    assert rollback_runs(monitor.world.model) == []


def test_an_empty_log_is_blind_and_told_of_and_moves_nothing(monitor, told):
    monitor.promote()
    run = monitor.run(on_alert="roll_back")
    states = monitor.world.states(run)
    assert (states["alert"], states["roll_back"], states["all_quiet"]) == ("success", "skipped", "skipped"), states
    (alert,) = monitor.alerts
    assert alert.evidence["judgement"]["state"] == "blind"
    assert "accuracy, latency, errors, drift, business: version 2 has no request in the window" in alert.reason
    assert [each["event"] for each in told] == ["alert"]
    assert rollback_runs(monitor.world.model) == []
    assert monitor.trend("2").data.metrics["requests"] == 0


def test_a_log_that_can_not_be_read_is_blind(monitor):
    broken = monitor.world.log_dir / monitor.world.model / "predictions" / "_delta_log"
    broken.mkdir(parents=True)
    (broken / "00000000000000000000.json").write_text("not a commit\n")
    run = monitor.run()
    assert monitor.world.states(run)["measure"] == "failed"
    assert monitor.world.states(run)["alert"] == "success"
    assert "the task that measures left no result" in monitor.alerts[0].reason


def test_without_mlflow_what_was_counted_is_judged_and_the_reports_are_a_blind_spot(
    monitor, monkeypatch, rollback_awake
):
    from model_rollouts.adapters.mlflow_monitoring import MlflowMonitoringRuns

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monitor.world.wiring.__dict__["monitoring_runs"] = MlflowMonitoringRuns("http://127.0.0.1:9")
    monitor.promote()
    monitor.write(ago=WINDOW)
    monitor.write("2", errors=0.2)
    run = monitor.run(on_alert="roll_back")
    states = monitor.world.states(run)
    assert (states["keep_trend"], states["roll_back"]) == ("failed", "success"), states
    reason = monitor.alerts[0].reason
    assert reason.startswith("alert: errors")
    assert "blind: drift: the drift report left no result; data: the data checks left no result" in reason


def test_too_little_is_said_and_is_no_alert(monitor):
    monitor.both(n=50, errors=0.5)
    run = monitor.run()
    assert monitor.world.states(run)["all_quiet"] == "success"
    assert monitor.alerts == []
    tags = monitor.trend().data.tags
    assert tags["monitoring.state"] == "too_little"
    assert "errors: 50 judged for the error rate, needed 200" in tags["monitoring.reason"]


def test_labels_that_stopped_coming_are_a_blind_spot_unless_they_may_be_missing(monitor):
    monitor.both(no_outcomes=True)
    monitor.run()
    (alert,) = monitor.alerts
    assert alert.evidence["judgement"]["state"] == "blind"
    assert "due labels have arrived" in alert.reason
    monitor.now += timedelta(seconds=1)
    run = monitor.run(may_be_missing=["accuracy", "business"])
    assert monitor.world.states(run)["all_quiet"] == "success"
    assert len(monitor.alerts) == 1


def test_during_a_rollout_only_the_champions_group_counts_and_nothing_is_rolled_back(monitor):
    from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary

    world = monitor.world
    world.wiring.service.start("r", world.model, "2", plan_canary(CanaryParameters()), "test", "go")
    world.wiring.service.open_stage("r", 0, "test")
    rollout = {"rollout_id": "r", "stage": 0}
    monitor.write(ago=WINDOW)
    monitor.write(**rollout, cohort="champion")
    monitor.write("2", **rollout, cohort="challenger", arm="challenger", errors=0.9)
    monitor.write(**rollout, cohort="challenger", errors=0.9)  # answered where the challenger failed
    run = monitor.run(on_alert="roll_back")
    assert world.states(run)["all_quiet"] == "success", monitor.alerts
    assert monitor.trend().data.metrics["requests"] == 600

    monitor.write(**rollout, cohort="champion", errors=0.9)
    monitor.now += timedelta(seconds=1)
    run = monitor.run(on_alert="roll_back")
    assert world.states(run)["roll_back"] == "skipped"
    assert "not rolled back: rollout r is active" in monitor.alerts[0].reason
    assert world.rollout.state == "baking"


def test_a_run_without_a_model_starts_one_for_each_that_serves(monitor):
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    run = monitor.run(model=None, margin=0.5)
    states = monitor.world.states(run)
    assert states["each_model"] == "success", states
    assert {states[each] for each in ("measure", "keep_trend", "judge", "alert", "all_quiet")} == {"skipped"}
    with create_session() as session:
        found = session.query(DagRun).filter(DagRun.dag_id == "monitoring", DagRun.run_id != run.run_id).all()
        confs = [dict(each.conf) for each in found if each.run_id.startswith(run.run_id)]
    assert [(conf["model"], conf["margin"]) for conf in confs] == [(monitor.world.model, 0.5)]
    assert monitor.alerts == []


def test_a_model_that_nothing_serves_of_is_told_of_and_fails(world, told):
    run = Monitor(world).run()
    assert world.states(run)["measure"] == "failed"
    assert world.states(run)["alert"] == "failed"
    assert [each["event"] for each in told] == ["alert"]
    assert "the store knows no model" in told[0]["reason"]


def test_a_version_that_took_over_lately_is_not_blind_for_labels_that_can_not_be_due(monitor):
    monitor.promote()
    monitor.write(ago=WINDOW)
    monitor.write("2")
    run = monitor.run(label_maturity_seconds=7 * 86400)
    assert monitor.world.states(run)["all_quiet"] == "success", monitor.alerts
    tags = monitor.trend("2").data.tags
    assert "the version has not served for long enough" in tags["monitoring.reason"]
