"""Imports what the tasks need once, in the process whose forks run them: it is seconds in every task otherwise."""

import contextlib
import importlib
import os
import sys

_NAMES = ("mlflow", "mlflow.pyfunc", "pandas", "great_expectations", "evidently", "duckdb", "deltalake")
_LOCAL = os.environ.get("AIRFLOW__CORE__EXECUTOR", "") == "LocalExecutor"

if "worker" in sys.argv or (_LOCAL and "scheduler" in sys.argv):
    for _name in _NAMES:
        # A task that needs a package that is not there says so itself.
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)

__all__: list[str] = []  # nothing of this is a setting
