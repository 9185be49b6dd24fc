"""Has Airflow load the plugin where this folder was copied and the package is not installed.

An installed package brings the plugin by its entry point; Airflow reports a plugin that it finds twice.
"""

from importlib.metadata import entry_points

if not any(point.value.startswith("model_rollouts.airflow_plugin:") for point in entry_points(group="airflow.plugins")):
    from model_rollouts.airflow_plugin import RolloutsPlugin  # noqa: F401 - Airflow looks for it here
