"""What Airflow's `airflow providers` shows of this package. Imports nothing: every Airflow process reads it."""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Name, description and integrations, as Airflow's schema for providers has them."""
    return {
        "package-name": "model-rollouts",
        "name": "Model rollouts",
        "description": "Five safe ways to bring a new model version to production, over an MLflow registry.",
        "integrations": [
            {"integration-name": "MLflow", "external-doc-url": "https://mlflow.org/docs/latest/", "tags": ["software"]},
        ],
        "operators": [
            {
                "integration-name": "MLflow",
                "python-modules": [
                    "model_rollouts.operators.preflight",
                    "model_rollouts.operators.traffic",
                    "model_rollouts.operators.watch",
                    "model_rollouts.operators.reports",
                    "model_rollouts.operators.approve",
                    "model_rollouts.operators.decide",
                    "model_rollouts.operators.finish",
                    "model_rollouts.operators.rollback",
                ],
            }
        ],
        "triggers": [{"integration-name": "MLflow", "python-modules": ["model_rollouts.triggers.watch"]}],
        "notifications": ["model_rollouts.notifiers.WebhookNotifier"],
    }
