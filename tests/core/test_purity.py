"""The core is importable anywhere, at once."""

import json
import pkgutil
import subprocess
import sys

import pytest

import model_rollouts.core

HEAVY = {"airflow", "mlflow", "pandas", "fastapi", "sqlalchemy", "duckdb", "deltalake", "requests", "pydantic", "scipy"}
MODULES = sorted(m.name for m in pkgutil.walk_packages(model_rollouts.core.__path__, "model_rollouts.core."))
IMPORT_ALL = """
import importlib, json, sys, time
import numpy
began = time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([sorted({name.partition('.')[0] for name in sys.modules}), time.process_time() - began]))
"""


def imported(*names: str) -> tuple[set[str], float]:
    """Top-level modules that are loaded after the import, and its CPU seconds without numpy's own."""
    out = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, check=True).stdout
    loaded, seconds = json.loads(out)
    return set(loaded), seconds


def test_the_whole_core_pulls_in_nothing_heavy_and_loads_at_once() -> None:
    assert "model_rollouts.core.decision" in MODULES
    loaded, seconds = imported(*MODULES)
    assert not loaded & HEAVY
    assert seconds < 0.3


@pytest.mark.parametrize("heavy", ["sqlalchemy", "scipy.special"])
def test_the_check_would_see_a_heavy_import(heavy: str) -> None:
    loaded, _ = imported(heavy)
    assert loaded & HEAVY
