"""Training profiles: kept with a version's model in MLflow by `log_training_profile`, and read back here."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.core.profile import MOST_BYTES, Profile, ProfileError
from model_rollouts.ports import ModelVersion
from model_rollouts.training_profile import FILE_NAME


class MlflowProfiles:
    """Reads the profiles of registered versions. Errors of the network are MLflow's own and propagate.

    Args:
        tracking_uri: The MLflow server.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def training_profile(self, version: ModelVersion) -> Profile | None:
        """The profile of a version's training data, or None where nobody has kept one.

        Args:
            version: As the registry resolves it.

        Raises:
            ProfileError: There is one and it can't be understood. It is never taken for none.
        """
        text = self._of_model(version.model_id) if version.model_id else None
        if text is None and version.run_id:
            text = self._of_run(version.run_id)
        if text is None:
            return None
        try:
            return Profile.from_json(text)
        except ProfileError as error:
            raise ProfileError(f"version {version.version} of {version.model}, {FILE_NAME}: {error}") from error

    def _of_model(self, model_id: str) -> str | None:
        listed = self._client.list_logged_model_artifacts(model_id)
        if (size := _size(listed)) is None:
            return None
        place = self._client.get_logged_model(model_id).artifact_location
        return self._read(f"{place.rstrip('/')}/{FILE_NAME}", size)

    def _of_run(self, run_id: str) -> str | None:
        if (size := _size(self._client.list_artifacts(run_id))) is None:
            return None
        return self._read(f"{self._client.get_run(run_id).info.artifact_uri.rstrip('/')}/{FILE_NAME}", size)

    def _read(self, place: str, size: int) -> str:
        from mlflow.artifacts import download_artifacts

        if size > MOST_BYTES:
            raise ProfileError(f"{place} has {size:,} bytes, must have at most {MOST_BYTES:,}; make it again")
        with tempfile.TemporaryDirectory() as folder:
            file = download_artifacts(
                artifact_uri=place, dst_path=folder, tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri
            )
            try:
                return Path(file).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ProfileError(f"{place} is no text ({error}); make it again from the training data") from error


def _size(listed: Any) -> int | None:
    """Bytes of the profile among a listing's files; None where it is not there."""
    return next((int(found.file_size or 0) for found in listed if found.path == FILE_NAME), None)
