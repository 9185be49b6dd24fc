"""The trend of a champion in a real MLflow server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.mlflow_monitoring import MlflowMonitoringRuns

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def runs(mlflow_server: str) -> MlflowMonitoringRuns:
    return MlflowMonitoringRuns(mlflow_server)


def test_the_ticks_of_a_version_make_one_trend(
    runs: MlflowMonitoringRuns, registered_model: str, mlflow_server: str
) -> None:
    client = make_client(mlflow_server)
    for hour, rate in enumerate((0.01, None, 0.03)):
        run_id = runs.open(registered_model, "1", AT + hour * HOUR)
        metrics = {"error_rate": rate, "requests": 100.0, "accuracy": float("nan")}
        runs.log(run_id, AT + hour * HOUR, metrics, tags={"monitoring.state": f"tick {hour}"})
    found = client.search_runs([client.get_experiment_by_name(f"monitoring/{registered_model}").experiment_id])
    assert [run.info.run_id for run in found] == [run_id]
    assert (found[0].info.status, found[0].info.run_name) == ("RUNNING", "version 1")
    history = client.get_metric_history(run_id, "error_rate")
    at = [int((AT + hour * HOUR).timestamp() * 1000) for hour in (0, 2)]
    assert [(m.step, m.timestamp, m.value) for m in history] == [(0, at[0], 0.01), (120, at[1], 0.03)]
    assert len(client.get_metric_history(run_id, "requests")) == 3
    assert client.get_metric_history(run_id, "accuracy") == []
    assert found[0].data.tags["monitoring.state"] == "tick 2"
    assert len(client.get_run(run_id).inputs.model_inputs) == 1


def test_a_tick_that_is_logged_again_is_one_point(
    runs: MlflowMonitoringRuns, registered_model: str, mlflow_server: str
) -> None:
    run_id = runs.open(registered_model, "1", AT)
    for _ in range(2):
        runs.log(run_id, AT, {"requests": 7.0})
    assert len(make_client(mlflow_server).get_metric_history(run_id, "requests")) == 1


def test_another_champion_has_a_run_of_its_own_and_the_old_ones_goes_on_when_it_serves_again(
    runs: MlflowMonitoringRuns, registered_model: str, mlflow_server: str
) -> None:
    client = make_client(mlflow_server)
    first = runs.open(registered_model, "1", AT)
    second = runs.open(registered_model, "2", AT + HOUR)
    assert first != second
    assert [client.get_run(run).info.status for run in (first, second)] == ["FINISHED", "RUNNING"]
    assert runs.open(registered_model, "1", AT + 2 * HOUR) == first
    assert [client.get_run(run).info.status for run in (first, second)] == ["RUNNING", "FINISHED"]


def test_files_are_kept_in_a_folder_of_their_tick(
    runs: MlflowMonitoringRuns, registered_model: str, mlflow_server: str, tmp_path: Path
) -> None:
    report = tmp_path / "drift.html"
    report.write_text("<p>drift</p>")
    run_id = runs.open(registered_model, "3", AT)  # a version without a signature
    for hour in range(2):
        runs.log(run_id, AT + hour * HOUR, {}, [report])
        runs.log_text(run_id, AT + hour * HOUR, "judgement.json", "{}")
    client = make_client(mlflow_server)
    for folder in ("ticks/2026-03-01/120000Z", "ticks/2026-03-01/130000Z"):
        names = {entry.path.rsplit("/", 1)[1] for entry in client.list_artifacts(run_id, folder)}
        assert names == {"drift.html", "judgement.json"}


def test_a_missing_file_logs_nothing(
    runs: MlflowMonitoringRuns, registered_model: str, mlflow_server: str, tmp_path: Path
) -> None:
    run_id = runs.open(registered_model, "1", AT)
    with pytest.raises(FileNotFoundError, match=r"gone\.html"):
        runs.log(run_id, AT, {"requests": 1.0}, [tmp_path / "gone.html"])
    assert make_client(mlflow_server).get_metric_history(run_id, "requests") == []


def test_a_version_that_is_gone_from_the_registry_is_still_monitored(
    runs: MlflowMonitoringRuns, registered_model: str
) -> None:
    run_id = runs.open(registered_model, "99", AT)
    assert runs.open(registered_model, "99", AT) == run_id


def test_a_server_that_is_away_is_an_error(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception, match="refused"):
        MlflowMonitoringRuns(f"http://127.0.0.1:{closed_port}").open("flights", "1", AT)
