"""The demo on an installation that runs: its settings."""

import pytest

from demo.composed import config_of

ENVIRONMENT = {
    "DEMO_GATEWAY": "http://gateway:8600",
    "DEMO_HOME": "/data/demo",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "MODEL_ROLLOUTS_AIRFLOW_URL": "http://airflow-api:8080",
    "MODEL_ROLLOUTS_AIRFLOW_USER": "admin",
    "MODEL_ROLLOUTS_AIRFLOW_PASSWORD": "secret",
    "MODEL_ROLLOUTS_GATEWAY_TOKEN": "the operator's",
    "DEMO_GATEWAY_TOKEN": "a caller's",
    "HOME": "/tmp",  # noqa: S108 - passed on to nobody
}


def test_a_champion_that_serves_is_not_trained_again() -> None:
    assert config_of(ENVIRONMENT, has_champion=False).variants == ("champion", "better", "inaccurate")
    assert config_of(ENVIRONMENT, has_champion=True).variants == ("better", "inaccurate")


def test_what_it_starts_gets_the_containers_settings() -> None:
    config = config_of(ENVIRONMENT | {"DEMO_CHALLENGERS": "raises", "DEMO_RATE": "100"}, has_champion=True)
    passed = config.environment()
    assert passed["MLFLOW_TRACKING_PASSWORD"] == "secret"
    assert passed["MODEL_ROLLOUTS_GATEWAY_TOKEN"] == "a caller's", "traffic is no operator"
    assert "HOME" not in passed
    assert (config.gateway_url, config.mlflow_url) == ("http://gateway:8600", "http://mlflow:5000")
    assert (config.variants, config.rate) == (("raises",), 100.0)
    assert [(case.challenger, case.expected) for case in config.cases] == [("raises", "roll_back")]


@pytest.mark.parametrize(
    "name", sorted(set(ENVIRONMENT) - {"HOME", "MLFLOW_TRACKING_PASSWORD", "MODEL_ROLLOUTS_GATEWAY_TOKEN"})
)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        config_of(ENVIRONMENT | {name: ""}, has_champion=True)


@pytest.mark.parametrize(("name", "value"), [("DEMO_RATE", "many"), ("DEMO_CHALLENGERS", "better,nobody")])
def test_what_is_wrong_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=value.rpartition(",")[2]):
        config_of(ENVIRONMENT | {name: value}, has_champion=True)
