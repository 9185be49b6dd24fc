"""The registry adapter against a real MLflow server."""

import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts

from model_rollouts.adapters.mlflow_client import DEFAULTS, make_client, quoted
from model_rollouts.adapters.mlflow_registry import MlflowRegistry
from model_rollouts.core.errors import NotFoundError


class _Counting:
    """Passes everything on to a client and writes down the calls that change something."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.changes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "delete_", "transition_")):
            self.changes.append(name)
        return getattr(self._client, name)


@pytest.fixture
def registry(mlflow_server: str) -> MlflowRegistry:
    return MlflowRegistry(mlflow_server)


def _stage(model: str, version: str, uri: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        stage: str = make_client(uri).get_model_version(model, version).current_stage
        return stage


def test_an_alias_and_a_number_give_the_same_version(registry: MlflowRegistry, registered_model: str) -> None:
    registry.set_roles(registered_model, {"champion": "1"})

    by_alias = registry.resolve(registered_model, "champion")

    assert by_alias == registry.resolve(registered_model, "1")
    assert (by_alias.version, by_alias.aliases) == ("1", ("champion",))
    assert by_alias.run_id
    assert by_alias.model_id.startswith("m-")


def test_inputs_come_from_the_signature_with_their_types_and_what_is_optional(
    registry: MlflowRegistry, registered_model: str
) -> None:
    version = registry.resolve(registered_model, "2")

    assert version.inputs == (("distance", "double"), ("carrier", "string"), ("hour", "long"))
    assert version.optional == {"hour"}


def test_a_version_without_signature_has_no_inputs(registry: MlflowRegistry, registered_model: str) -> None:
    assert registry.resolve(registered_model, "3").inputs is None


def test_a_version_whose_source_is_no_logged_model_is_read_from_its_folder(
    registry: MlflowRegistry, registered_model: str, mlflow_server: str, tmp_path: Path
) -> None:
    client = make_client(mlflow_server)
    logged = client.get_logged_model(registry.resolve(registered_model, "2").model_id)
    file = download_artifacts(f"{logged.artifact_location}/MLmodel", dst_path=str(tmp_path), tracking_uri=mlflow_server)
    run = client.create_run("0")
    client.log_artifact(run.info.run_id, file, "model")
    name = f"older-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    client.create_model_version(name, source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)

    version = registry.resolve(name, "1")

    assert (version.model_id, version.run_id) == ("", run.info.run_id)
    assert version.inputs == (("distance", "double"), ("carrier", "string"), ("hour", "long"))


def test_what_is_not_there_is_named_with_what_there_is(registry: MlflowRegistry, registered_model: str) -> None:
    registry.set_roles(registered_model, {"champion": "1"})

    with pytest.raises(
        NotFoundError, match=r"no alias 'challenger'; aliases: champion \(version 1\); versions: 1, 2, 3"
    ):
        registry.resolve(registered_model, "challenger")
    with pytest.raises(NotFoundError, match=r"no version 9; versions: 1, 2, 3"):
        registry.resolve(registered_model, "9")
    with pytest.raises(NotFoundError, match=r"no model 'nothing'; it has: \w+"):
        registry.resolve("nothing", "champion")
    with pytest.raises(NotFoundError, match="no version 9"):
        registry.tag(registered_model, "9", {"a": "b"})


def test_roles_are_set_taken_away_and_not_touched_when_they_are_right(
    registry: MlflowRegistry, registered_model: str
) -> None:
    registry.set_roles(registered_model, {"champion": "1", "challenger": "2", "previous": None})
    registry.__dict__["_client"] = counting = _Counting(registry._client)

    registry.set_roles(registered_model, {"champion": "1", "challenger": "2", "previous": None})
    assert counting.changes == []

    registry.set_roles(registered_model, {"champion": "2", "challenger": None, "previous": "1"})
    assert registry.resolve(registered_model, "champion").version == "2"
    assert registry.resolve(registered_model, "previous").version == "1"
    with pytest.raises(NotFoundError):
        registry.resolve(registered_model, "challenger")


def test_no_role_is_moved_when_one_of_the_versions_does_not_exist(
    registry: MlflowRegistry, registered_model: str
) -> None:
    registry.set_roles(registered_model, {"champion": "1"})

    with pytest.raises(NotFoundError, match="no version 9"):
        registry.set_roles(registered_model, {"champion": "2", "previous": "9"})

    assert registry.resolve(registered_model, "champion").version == "1"


def test_tags_are_set_once(registry: MlflowRegistry, registered_model: str) -> None:
    registry.tag(registered_model, "2", {"rollout.id": "r1", "rollout.reason": ""})
    registry.__dict__["_client"] = counting = _Counting(registry._client)

    registry.tag(registered_model, "2", {"rollout.id": "r1", "rollout.reason": ""})

    assert counting.changes == []
    assert registry.resolve(registered_model, "2").tags["rollout.id"] == "r1"


def test_the_last_rollout_is_told_in_the_description_beside_what_people_wrote(
    registry: MlflowRegistry, registered_model: str
) -> None:
    registry._client.update_model_version(registered_model, "2", "Trained on May; ask *Anna*.")
    tags = {"rollout.id": "r1", "rollout.pattern": "canary", "rollout.stage": "0", "rollout.share": "5"}
    registry.tag(registered_model, "2", {**tags, "rollout.state": "baking", "rollout.reason": "stage 0 opened"})
    registry.tag(registered_model, "2", {**tags, "rollout.state": "promoted", "rollout.reason": "every gate passed"})
    registry.tag(registered_model, "2", {"other": "tag"})

    told = registry._client.get_model_version(registered_model, "2").description
    assert told.startswith("Trained on May; ask *Anna*.\n\n<!-- model-rollouts")
    assert "**promoted**" in told
    assert "every gate passed" in told
    assert "stage 0 opened" not in told


def test_stages_follow_the_roles_through_a_promotion(registered_model: str, mlflow_server: str) -> None:
    registry = MlflowRegistry(mlflow_server, sync_stages=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # ours to silence, not the user's to read
        registry.set_roles(registered_model, {"champion": "1", "challenger": "2", "previous": None})
        assert [_stage(registered_model, v, mlflow_server) for v in "12"] == ["Production", "Staging"]

        registry.set_roles(registered_model, {"champion": "2", "challenger": None, "previous": "1"})
    assert [_stage(registered_model, v, mlflow_server) for v in "12"] == ["Archived", "Production"]


def test_a_rolled_back_challenger_leaves_staging_also_when_the_first_try_broke_off(
    registered_model: str, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(mlflow_server, sync_stages=True)
    registry.set_roles(registered_model, {"champion": "1", "challenger": "2", "previous": None})

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("MLflow is away")

    monkeypatch.setattr(registry._client, "transition_model_version_stage", away)
    with pytest.raises(ConnectionError):
        registry.set_roles(registered_model, {"champion": "1", "challenger": None, "previous": None})
    monkeypatch.undo()
    registry.set_roles(registered_model, {"champion": "1", "challenger": None, "previous": None})

    assert [_stage(registered_model, v, mlflow_server) for v in "12"] == ["Production", "Archived"]
    with pytest.raises(NotFoundError):
        registry.resolve(registered_model, "challenger")


@pytest.fixture
def http_settings() -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in DEFAULTS}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.mark.usefixtures("http_settings")
def test_waits_are_bounded_and_a_server_that_is_away_is_an_error_of_its_own(closed_port: int) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # what the user says stays

    with pytest.raises(Exception, match="Max retries exceeded") as caught:
        MlflowRegistry(f"http://127.0.0.1:{closed_port}").resolve("flights", "champion")

    assert not isinstance(caught.value, NotFoundError)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 30


def test_names_with_quotes_can_be_searched_for() -> None:
    assert (quoted("flights"), quoted("o'hare"), quoted('the "best"')) == ("'flights'", '"o\'hare"', "'the \"best\"'")
    with pytest.raises(ValueError, match="both kinds of quotes"):
        quoted("""o'hare "best" """)
