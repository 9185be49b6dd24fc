"""The MLflow model registry: versions, aliases, tags, and stages for teams that still use them."""

import tempfile
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from model_rollouts.adapters.mlflow_client import is_missing, logged_model_id, make_client, quoted
from model_rollouts.core.description import described
from model_rollouts.core.errors import NotFoundError
from model_rollouts.ports import ModelVersion

_STAGES = {"champion": "Production", "challenger": "Staging", "previous": "Archived"}
_RETIRED = "Archived"
_LISTED = 20  # how many names an error message lists


class _Inputs(NamedTuple):
    columns: tuple[tuple[str, str], ...] | None
    optional: frozenset[str]


class MlflowRegistry:
    """Implements `Registry`. Errors of the network are MLflow's own and propagate.

    Args:
        tracking_uri: The MLflow server.
        sync_stages: Also move versions between registry stages: champion is Production, challenger Staging,
            previous and whatever lost its role Archived.
    """

    def __init__(self, tracking_uri: str, sync_stages: bool = False) -> None:
        self.tracking_uri = tracking_uri
        self.sync_stages = sync_stages
        self._inputs: dict[tuple[str, str, str], _Inputs] = {}

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def resolve(self, model: str, version_or_alias: str) -> ModelVersion:
        """A version by its number ("3") or by an alias ("challenger").

        Raises:
            NotFoundError: No such model, version or alias; the message says which, and what there is.
        """
        aliases = self._aliases(model)
        number = version_or_alias
        if not version_or_alias.isdecimal():
            if version_or_alias not in aliases:
                have = ", ".join(f"{alias} (version {v})" for alias, v in sorted(aliases.items())) or "none"
                raise NotFoundError(
                    f"model {model} has no alias {version_or_alias!r}; aliases: {have}; "
                    f"versions: {self._versions(model)}"
                )
            number = aliases[version_or_alias]
        found = self._version(model, number)
        inputs = self._inputs_of(found)
        return ModelVersion(
            model=model,
            version=str(found.version),
            aliases=tuple(sorted(alias for alias, v in aliases.items() if v == str(found.version))),
            run_id=found.run_id or "",
            model_id=logged_model_id(found),
            inputs=inputs.columns,
            optional=inputs.optional,
            tags=dict(found.tags),
        )

    def set_roles(self, model: str, roles: Mapping[str, str | None]) -> None:
        """Point aliases at versions; None takes the alias away. Repeating it changes nothing.

        Raises:
            NotFoundError: No such model or version.
        """
        have = self._aliases(model)
        # nothing is moved before every version is known to exist
        versions = {v: self._version(model, v) for v in roles.values() if v is not None}
        if self.sync_stages:
            # Stages first: which version loses a role is known from the aliases, and a repetition after a crash
            # must still find them.
            self._move_stages(model, roles, have, versions)
        for alias, version in roles.items():
            if version is not None and have.get(alias) != version:
                self._client.set_registered_model_alias(model, alias, version)
        for alias, version in roles.items():
            if version is None and alias in have:
                self._client.delete_registered_model_alias(model, alias)

    def tag(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version; a rollout's are told in its description, too, beside what people have written.

        Raises:
            NotFoundError: No such model or version.
        """
        found = self._version(model, version)
        have = found.tags
        if "rollout.id" in tags:  # before the tags, the last of which says that everything is done
            description = described(found.description or "", tags)
            if description != (found.description or ""):
                self._client.update_model_version(model, version, description)
        for key, value in tags.items():
            if have.get(key) != value:
                self._client.set_model_version_tag(model, version, key, value)

    # --- inside

    def _aliases(self, model: str) -> dict[str, str]:
        """Version of each alias, as the registry has it now."""
        from mlflow.exceptions import MlflowException

        try:
            registered = self._client.get_registered_model(model)
        except MlflowException as error:
            if not is_missing(error):
                raise
            names = [found.name for found in self._client.search_registered_models(max_results=_LISTED)]
            have = ", ".join(sorted(names)) or "none"
            raise NotFoundError(f"the registry {self.tracking_uri} has no model {model!r}; it has: {have}") from error
        return {alias: str(version) for alias, version in registered.aliases.items()}

    def _version(self, model: str, version: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(model, version)
        except MlflowException as error:
            if not is_missing(error):
                raise
            self._aliases(model)  # says so when the model itself is missing
            raise NotFoundError(f"model {model} has no version {version}; versions: {self._versions(model)}") from error

    def _versions(self, model: str) -> str:
        found = self._client.search_model_versions(f"name={quoted(model)}", max_results=_LISTED)
        return ", ".join(sorted((str(v.version) for v in found), key=int)) or "none"

    def _move_stages(
        self, model: str, roles: Mapping[str, str | None], have: Mapping[str, str], versions: Mapping[str, Any]
    ) -> None:
        wanted = {v: _STAGES[role] for role, v in roles.items() if v is not None and role in _STAGES}
        for alias in roles:
            if alias in have and have[alias] not in wanted:
                wanted[have[alias]] = _RETIRED
        for version, stage in wanted.items():
            entity = versions[version] if version in versions else self._version(model, version)
            if entity.current_stage == stage:
                continue
            with warnings.catch_warnings():
                # deprecated for years and not gone; whoever sets sync_stages has chosen them
                warnings.filterwarnings("ignore", category=FutureWarning, module=__name__)
                self._client.transition_model_version_stage(
                    # "models:/<model>/Production" is the newest one in it, so the champion must be alone there
                    *(model, version, stage),
                    archive_existing_versions=stage == _STAGES["champion"],
                )

    def _inputs_of(self, version: Any) -> _Inputs:
        """The signature's inputs. A version's model never changes, so it is read once."""
        key = (version.name, str(version.version), version.source)
        if key not in self._inputs:
            self._inputs[key] = self._read_inputs(version)
        return self._inputs[key]

    def _read_inputs(self, version: Any) -> _Inputs:
        # "models:/<id>" would be looked up on MLflow's global server, so the place is asked for here
        model_id = logged_model_id(version)
        place = (
            self._client.get_logged_model(model_id).artifact_location
            if model_id
            else self._client.get_model_version_download_uri(version.name, version.version)
        )
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        with tempfile.TemporaryDirectory() as folder:
            file = download_artifacts(
                artifact_uri=f"{place.rstrip('/')}/MLmodel",
                dst_path=folder,
                tracking_uri=self.tracking_uri,
                registry_uri=self.tracking_uri,
            )
            signature = Model.load(file).signature
        schema = None if signature is None else signature.inputs
        if schema is None or not schema.has_input_names():
            return _Inputs(None, frozenset())
        return _Inputs(
            tuple((column.name, getattr(column.type, "name", None) or str(column.type)) for column in schema.inputs),
            frozenset(column.name for column in schema.inputs if not column.required),
        )
