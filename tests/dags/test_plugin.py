"""The plugin as Airflow loads it, in a process of its own."""

import importlib.util
import json
import runpy
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

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
    ours = {name for name in found["added"] if "rollout" in name} | {"model_rollouts"}
    assert ours == {"rollouts_plugin", "model_rollouts", *(name for name in ours if name.startswith("model_rollouts."))}
    assert found["same"]


@pytest.mark.parametrize("installed", [True, False])
def test_the_folder_brings_the_plugin_only_where_the_package_does_not(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint("model_rollouts", "model_rollouts.airflow_plugin:RolloutsPlugin", "airflow.plugins")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if installed else [])

    found = runpy.run_path(str(Path(__file__).parents[2] / "plugins" / "rollouts_plugin.py"))

    assert ("RolloutsPlugin" in found) is not installed


def test_the_package_says_what_it_brings_as_airflow_wants_it() -> None:
    import jsonschema
    from airflow import __path__ as airflow

    points = entry_points(group="apache_airflow_provider")
    (point,) = [each for each in points if each.value.startswith("model_rollouts.")]
    said = point.load()()
    schema = json.loads((Path(airflow[0]) / "provider_info.schema.json").read_text())

    jsonschema.validate(said, schema)
    assert said["package-name"] == "model-rollouts"
    modules = [module for kind in ("operators", "triggers") for each in said[kind] for module in each["python-modules"]]
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module
