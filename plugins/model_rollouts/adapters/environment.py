"""Compares the surroundings of two versions, as MLflow has them on record, and the gateways', as a report."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model_rollouts.adapters.html_page import banner, heading, note, page, table
from model_rollouts.adapters.mlflow_client import is_missing, logged_model_id, make_client
from model_rollouts.core.environment import Columns, Difference, Severity, VersionEnvironment, differences
from model_rollouts.core.errors import NotFoundError, NotReadyError
from model_rollouts.core.requirements import PYTHON
from model_rollouts.ports import Gateways

_MODEL, _REQUIREMENTS, _PYTHON_ENV = "MLmodel", "requirements.txt", "python_env.yaml"
_STATES = {Severity.BREAKS: "failed", Severity.UNKNOWN: "missing", Severity.DIFFERS: "ok"}
_BANNERS = {
    "failed": ("fail", "breaks"),
    "missing": ("inconclusive", "not all could be compared"),
    "ok": ("pass", "fits"),
}
_TOLD = 5  # differences that the one sentence names


@dataclass(frozen=True, slots=True)
class EnvironmentResult:
    """How alike the surroundings are.

    Attributes:
        state: "ok", "failed" (something breaks) or "missing" (something could not be compared); see
            core/conclusion.py.
        detail: One sentence for a person.
        differences: All of them, the worst first.
        metrics: How many differences of each severity.
        files: The result as JSON and as HTML.
    """

    state: str
    detail: str
    differences: tuple[Difference, ...]
    metrics: Mapping[str, float]
    files: tuple[Path, ...]


class MlflowEnvironments:
    """Reads what versions have on record, and compares.

    Args:
        tracking_uri: The MLflow server. Errors of the network are MLflow's own and propagate.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return make_client(self.tracking_uri)

    def of(self, model: str, version: str) -> VersionEnvironment:
        """Requirements, Python and schemas that a version was logged with.

        Raises:
            NotFoundError: There is no such version, or it has no MLmodel file.
        """
        from mlflow.artifacts import download_artifacts, list_artifacts
        from mlflow.models import Model

        where = {"tracking_uri": self.tracking_uri}
        place = self._place(model, version).rstrip("/")
        # what is missing is told from what can't be reached: a list that can't be had is an error
        have = {Path(file.path).name for file in list_artifacts(artifact_uri=place, **where)}
        if _MODEL not in have:
            raise NotFoundError(f"version {version} of {model} has no file {_MODEL} at {place}; log the model again")
        with tempfile.TemporaryDirectory() as folder:
            files = {
                name: Path(
                    download_artifacts(
                        artifact_uri=f"{place}/{name}", dst_path=folder, registry_uri=self.tracking_uri, **where
                    )
                )
                for name in (_MODEL, _REQUIREMENTS, _PYTHON_ENV)
                if name in have
            }
            logged = Model.load(str(files[_MODEL]))
            lines = files[_REQUIREMENTS].read_text(encoding="utf-8").splitlines() if _REQUIREMENTS in files else None
            python = _python(files.get(_PYTHON_ENV), logged.flavors)
        signature = logged.signature
        inputs = None if signature is None else signature.inputs
        return VersionEnvironment(
            requirements=None if lines is None else tuple(lines),
            python=python,
            inputs=_columns(inputs),
            optional=frozenset(
                name
                for name, spec in zip(_names(inputs), inputs or (), strict=True)
                if not getattr(spec, "required", True)
            ),
            outputs=_columns(None if signature is None else signature.outputs),
        )

    def compare_environments(
        self, model: str, champion: str, challenger: str, gateways: Gateways, out_dir: Path
    ) -> EnvironmentResult:
        """Compare two versions with one another, and the challenger with what every gateway has installed.

        Args:
            model: Registered model name.
            champion: Version number.
            challenger: Version number.
            gateways: Asked for what they have; one that does not answer makes the result "missing".
            out_dir: Gets `environment.json` and `environment.html`.

        Raises:
            NotFoundError: There is no such version.
        """
        before, after = self.of(model, champion), self.of(model, challenger)
        problem = ""
        try:
            installed = {name: dict(packages) for name, packages in gateways.environments().items()}
        except NotReadyError as error:
            installed, problem = {}, str(error)
        found = differences(before, after, installed)
        state = _STATES[found[0].severity] if found else "ok"
        detail = _detail(found, after, installed) + (f"; {problem}" if problem else "")
        title = f"{model}: surroundings of version {challenger} against version {champion} and the gateways"
        out_dir.mkdir(parents=True, exist_ok=True)
        files = (out_dir / "environment.json", out_dir / "environment.html")
        told = {
            "title": title,
            "state": state,
            "detail": detail,
            "differences": [asdict(difference) for difference in found],
            "champion": _plain(before),
            "challenger": _plain(after),
            "gateways": installed,
        }
        files[0].write_text(json.dumps(told, indent=2), encoding="utf-8")
        files[1].write_text(_render(title, state, detail, found, installed), encoding="utf-8")
        metrics = {f"environment_{s}": float(sum(d.severity is s for d in found)) for s in Severity}
        return EnvironmentResult(state, detail, found, metrics, files)

    def _place(self, model: str, version: str) -> str:
        """Where a version's files are; see `MlflowRegistry`."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version(model, version)
            if model_id := logged_model_id(found):
                return str(self._client.get_logged_model(model_id).artifact_location)
            return str(self._client.get_model_version_download_uri(model, version))
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise NotFoundError(f"the registry {self.tracking_uri} has no version {version} of {model}") from error


# --- inside


def _python(file: Path | None, flavors: Mapping[str, Any]) -> str:
    """Python's version from python_env.yaml, or else from the model's flavour."""
    import yaml  # type: ignore[import-untyped]  # comes with MLflow

    if file is not None:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get(PYTHON), str):
            return str(content[PYTHON])
    return str(flavors.get("python_function", {}).get("python_version", ""))


def _names(schema: Any) -> list[str]:
    """Names of columns; their positions where they have none."""
    return [] if schema is None else [spec.name or str(position) for position, spec in enumerate(schema.inputs)]


def _columns(schema: Any) -> Columns | None:
    if schema is None:
        return None
    return tuple((name, _type(spec)) for name, spec in zip(_names(schema), schema.inputs, strict=True))


def _type(spec: Any) -> str:
    if hasattr(spec, "shape"):
        return f"tensor of {spec.type.name}, {tuple(spec.shape)}"
    return getattr(spec.type, "name", None) or str(spec.type)


def _plain(version: VersionEnvironment) -> dict[str, Any]:
    return asdict(version) | {"optional": sorted(version.optional)}


def _detail(
    found: tuple[Difference, ...], challenger: VersionEnvironment, installed: Mapping[str, Mapping[str, str]]
) -> str:
    counts = {severity: sum(d.severity is severity for d in found) for severity in Severity}
    if not found:
        requirements, inputs = challenger.requirements or (), challenger.inputs or ()
        return f"no difference in {len(requirements)} requirements, {len(inputs)} inputs and {len(installed)} gateways"
    words = {Severity.BREAKS: "break", Severity.UNKNOWN: "can't be compared", Severity.DIFFERS: "differ"}
    heads = ", ".join(f"{n} {words[severity]}" for severity, n in counts.items() if n)
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return f"{heads}: {'; '.join(str(difference) for difference in found[:_TOLD])}{more}"


def _render(
    title: str, state: str, detail: str, found: tuple[Difference, ...], installed: Mapping[str, Mapping[str, str]]
) -> str:
    colour, headline = _BANNERS[state]
    rows = [(d.severity, d.kind, d.name, d.before or "none", d.after or "none") for d in found]
    body = [
        banner(colour, headline, detail),
        note(
            "Before is what the champion has, or what the challenger asks of a gateway; after is what the challenger "
            "has, or what gateways have."
        ),
        heading("Differences"),
        table(("means", "kind", "name", "before", "after"), rows) if rows else note("none"),
        heading("Gateways"),
        table(
            ("gateway", "Python", "packages"),
            [(name, packages.get(PYTHON, "not told"), len(packages)) for name, packages in sorted(installed.items())],
        )
        if installed
        else note("none of them told what it has"),
    ]
    return page(title, body)
