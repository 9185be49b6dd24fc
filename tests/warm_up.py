"""`python -m tests.warm_up`: what every worker of the tests would do first, done once, while another core is idle.

Imports leave their compiled modules behind, and Airflow's empty database is kept.
"""

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from demo.databases import kept_database

_HEAVY = (
    "airflow.sdk",
    "airflow.dag_processing.dagbag",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "mlflow.server",
    "great_expectations",
    "evidently",
    "pyspark.sql",
    "duckdb",
    "deltalake",
    "sklearn.ensemble",
    "model_rollouts.gateway.main",
)


def main() -> None:
    """Import, and migrate."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        env = os.environ | {
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        }
        with kept_database(home / "airflow.db", "airflow") as there:
            if not there:
                migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
                subprocess.run(migrate, env=env, check=True, capture_output=True, timeout=240)
        os.environ |= {"AIRFLOW_HOME": folder, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        for name in _HEAVY:
            import_module(name)


if __name__ == "__main__":
    main()
