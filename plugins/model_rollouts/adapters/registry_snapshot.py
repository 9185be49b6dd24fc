"""Reads the MLflow registry by its REST interface: a poller and a web server need no client library for that.

`import mlflow` takes seconds and a hundred megabytes; this takes milliseconds. Two calls tell of one model, and two
(or as many as there are pages) tell of all of them.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import requests

from model_rollouts.adapters.mlflow_client import quoted
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.registry_snapshot import (
    DEFAULT_PATTERN_TAG,
    NO_STAGE,
    PARAMS_TAG,
    REQUEST_TAG,
    Snapshot,
    VersionSeen,
)

_TIMEOUT = (3.05, 15.0)  # seconds to connect, and to answer
_MODELS_A_PAGE = 1000  # the most that MLflow gives
_VERSIONS_A_PAGE = 10_000
_MOST_PAGES = 1000
_OK, _NOT_FOUND = 200, 404


class RestRegistry:
    """Implements `RegistrySnapshots`. The environment's MLflow credentials are used as MLflow's client uses them.

    Args:
        tracking_uri: The MLflow server, such as http://127.0.0.1:5000.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._url = tracking_uri.rstrip("/")

    def snapshots(self, models: Collection[str] | None = None) -> Mapping[str, Snapshot]:
        """Model -> what it says; models that are not there are left out. None: all models.

        Raises:
            NotReadyError: The registry can't be read; a part of it is never taken for the whole.
        """
        try:
            with requests.Session() as session:
                _authorise(session)
                return self._read(session, models)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NotReadyError(f"{self._url} answers in a way that MLflow 3 does not: {error!r}") from error

    # --- inside

    def _read(self, session: requests.Session, models: Collection[str] | None) -> dict[str, Snapshot]:
        if models is None:
            registered = list(self._pages(session, "registered-models/search", "registered_models"))
            return _put_together(registered, list(self._versions(session)))
        found = [self._model(session, model) for model in sorted(models)]
        registered = [each for each in found if each is not None]
        return _put_together(registered, [v for each in registered for v in self._versions(session, each["name"])])

    def _model(self, session: requests.Session, model: str) -> dict[str, Any] | None:
        answer = self._get(session, "registered-models/get", {"name": model}, missing_is_none=True)
        return None if answer is None else dict(answer["registered_model"])

    def _versions(self, session: requests.Session, model: str | None = None) -> Iterator[dict[str, Any]]:
        wanted = {"filter": f"name={quoted(model)}"} if model else {}
        return self._pages(session, "model-versions/search", "model_versions", wanted)

    def _pages(
        self, session: requests.Session, path: str, key: str, wanted: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        size = _MODELS_A_PAGE if path.startswith("registered") else _VERSIONS_A_PAGE
        params: dict[str, str | int] = {**(wanted or {}), "max_results": size}
        for _ in range(_MOST_PAGES):
            answer = self._get(session, path, params) or {}
            yield from answer.get(key, [])
            token = answer.get("next_page_token")
            if not token:
                return
            params["page_token"] = token
        raise NotReadyError(
            f"{self._url} has more than {_MOST_PAGES} pages of {key}; name the models to watch in "
            "MODEL_ROLLOUTS_WATCHED_MODELS"
        )

    def _get(
        self, session: requests.Session, path: str, params: Mapping[str, str | int], missing_is_none: bool = False
    ) -> dict[str, Any] | None:
        try:
            answer = session.get(f"{self._url}/api/2.0/mlflow/{path}", params=params, timeout=_TIMEOUT)
            content = answer.json()
        except requests.RequestException as error:  # a body that is no JSON is one of them
            raise NotReadyError(f"the registry {self._url} can't be read: {type(error).__name__}: {error}") from error
        if not isinstance(content, dict):
            raise NotReadyError(f"the registry {self._url} answers {path} with {type(content).__name__}, not an object")
        if answer.status_code == _OK:
            return content
        if (
            missing_is_none
            and answer.status_code == _NOT_FOUND
            and (content.get("error_code") == "RESOURCE_DOES_NOT_EXIST")
        ):
            return None
        raise NotReadyError(
            f"the registry {self._url} answers {path} with HTTP {answer.status_code}: {content.get('message')!r}"
        )


def _authorise(session: requests.Session) -> None:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    if authority := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        session.verify = authority


def _put_together(registered: list[dict[str, Any]], versions: list[dict[str, Any]]) -> dict[str, Snapshot]:
    seen: dict[str, dict[str, VersionSeen]] = {}
    for version in versions:
        told = _version_of(version)
        if told != VersionSeen():
            seen.setdefault(version["name"], {})[str(version["version"])] = told
    found = {}
    for model in registered:
        aliases = {alias["alias"]: str(alias["version"]) for alias in model.get("aliases", [])}
        found[model["name"]] = Snapshot(
            model=model["name"],
            created_at=datetime.fromtimestamp(int(model["creation_timestamp"]) / 1000, UTC),
            champion=aliases.get("champion"),
            challenger=aliases.get("challenger"),
            default_pattern=_tags(model).get(DEFAULT_PATTERN_TAG, ""),
            versions=seen.get(model["name"], {}),
        )
    return found


def _version_of(version: dict[str, Any]) -> VersionSeen:
    tags = _tags(version)
    return VersionSeen(
        stage=version.get("current_stage") or NO_STAGE,
        request=tags.get(REQUEST_TAG, ""),
        params=tags.get(PARAMS_TAG, ""),
        rollout_id=tags.get("rollout.id", ""),
        rollout_state=tags.get("rollout.state", ""),
    )


def _tags(entity: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: str(tag.get("value", "")) for tag in entity.get("tags", [])}
