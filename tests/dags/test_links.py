"""The buttons on the tasks' pages; what a run leaves for them is in test_canary.py."""

from pathlib import Path

from model_rollouts.adapters.links import mlflow_address
from model_rollouts.settings import Settings


def test_a_serialized_dag_knows_the_buttons(airflow_db):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    canary = DagBag(str(Path(__file__).parents[2] / "dags" / "canary.py")).dags["canary"]
    dag = DagSerialization.from_dict(DagSerialization.to_dict(canary))

    assert {"Rollout", "MLflow run", "Report"} <= set(dag.get_task("compare").extra_links)
    assert {"Rollout", "MLflow run"} <= set(dag.get_task("expand").extra_links)


def test_an_address_for_a_browser_holds_no_password():
    for given, shown in (
        ("http://user:secret@mlflow.example:5000/base/", "http://mlflow.example:5000/base"),
        ("sqlite:////data/mlflow.db", ""),
        ("databricks", ""),
    ):
        assert mlflow_address(Settings(mlflow_tracking_uri=given)) == shown
    assert mlflow_address(Settings(mlflow_tracking_uri="http://a", mlflow_ui_url="https://b/")) == "https://b"
