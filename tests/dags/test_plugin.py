"""The plugin as Airflow loads it, in a process of its own."""

import json
import subprocess
import sys

_CODE = """
import json, sys
from airflow import plugins_manager
before = set(sys.modules)
apps, middlewares = plugins_manager.get_fastapi_plugins()
added = set(sys.modules) - before
print(json.dumps({
    "plugins": [plugin.name for plugin in plugins_manager._get_plugins()[0]],
    "errors": plugins_manager.get_import_errors(),
    "apps": [[app["name"], app["url_prefix"]] for app in apps if app["name"] == "model-rollouts"],
    "middlewares": [each["name"] for each in middlewares],
    "added": sorted(added),
    "same": apps[-1]["app"].__class__ is __import__("model_rollouts.web.app", fromlist=["LazyApp"]).LazyApp,
}))
"""
_HEAVY = {"mlflow", "pandas", "numpy", "scipy", "fastapi", "evidently", "great_expectations", "deltalake", "duckdb"}


def test_airflow_loads_the_plugin_and_nothing_heavy_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], check=True, capture_output=True, text=True, timeout=200)
    found = json.loads(done.stdout.splitlines()[-1])

    assert found["errors"] == {}
    assert "model_rollouts" in found["plugins"]
    assert found["apps"] == [["model-rollouts", "/model-rollouts"]]
    assert found["middlewares"] == ["model-rollouts: warms the receiver"]
    assert _HEAVY.isdisjoint(found["added"])
    # no file of the package was taken for a plugin, which would make its classes twice
    ours = {name for name in found["added"] if "rollout" in name}
    assert ours == {"rollouts_plugin", "model_rollouts", *(name for name in ours if name.startswith("model_rollouts."))}
    assert found["same"]
