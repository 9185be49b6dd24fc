"""Surroundings of versions in a real MLflow registry."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.environment import MlflowEnvironments
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.core.environment import Kind, Severity, VersionEnvironment
from model_rollouts.core.errors import NotFoundError, NotReadyError
from model_rollouts.ports import ProbeAnswer

CODE = """
import mlflow

class Late(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1] * len(model_input)

mlflow.models.set_model(Late())
"""


class Gateways:
    """Stands in for the serving processes: they have what the test says, or do not answer."""

    def __init__(self, installed: Mapping[str, Mapping[str, str]] | None) -> None:
        self.installed = installed

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        if self.installed is None:
            raise NotReadyError("no gateway answers at http://127.0.0.1:8600")
        return self.installed

    def versions(self, model: str) -> Mapping[str, str]:
        raise AssertionError("nobody asks")

    def routed(self, model: str) -> Mapping[str, int | None]:
        raise AssertionError("nobody asks")

    def probe(self, model: str, version: str, inputs: Sequence[Mapping[str, Any]]) -> list[list[ProbeAnswer]]:
        raise AssertionError("nobody asks")


@pytest.fixture(scope="module")
def model(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Versions: 1 and 2 alike, 3 with other packages and inputs, 4 with tensors, 5 without a signature."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    code = tmp_path_factory.mktemp("code") / "late.py"
    code.write_text(CODE)
    columns = [ColSpec(DataType.double, "distance"), ColSpec(DataType.long, "hour", required=False)]
    answer = Schema([ColSpec(DataType.long)])
    plain = ModelSignature(inputs=Schema(columns), outputs=answer)
    wider = ModelSignature(inputs=Schema([*columns, ColSpec(DataType.string, "carrier")]), outputs=answer)
    tensor = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 4))]))
    kinds = [
        (plain, ["scikit-learn==1.9.1", "numpy==2.4.6"]),
        (plain, ["scikit-learn==1.9.1", "numpy==2.4.6"]),
        (wider, ["scikit-learn==1.9.1", "numpy==2.4.6", "lightgbm==4.6.0"]),
        (tensor, ["scikit-learn==1.9.1", "numpy==2.4.6"]),
        (None, ["scikit-learn==1.9.1", "numpy==2.4.6"]),
    ]
    name = f"surroundings-{uuid.uuid4().hex[:8]}"
    client = make_client(mlflow_server)
    client.create_registered_model(name)
    with mlflow_at(mlflow_server):
        for signature, requirements in kinds:
            with mlflow.start_run():
                info = mlflow.pyfunc.log_model(
                    name="model", python_model=str(code), signature=signature, pip_requirements=requirements
                )
            client.create_model_version(name, source=info.model_uri, model_id=info.model_id)
    return name


@pytest.fixture
def environments(mlflow_server: str) -> MlflowEnvironments:
    return MlflowEnvironments(mlflow_server)


@pytest.fixture
def installed(environments: MlflowEnvironments, model: str) -> dict[str, dict[str, str]]:
    """A gateway that has what version 1 asks for."""
    found = environments.of(model, "1")
    pinned = dict(line.split("==") for line in found.requirements or ())
    return {"gw-1": {**pinned, "python": found.python}}


def test_a_version_tells_what_it_was_logged_with(environments: MlflowEnvironments, model: str) -> None:
    import platform

    found = environments.of(model, "1")
    assert {"scikit-learn==1.9.1", "numpy==2.4.6"} <= set(found.requirements or ())
    assert found.python == platform.python_version()
    assert found.inputs == (("distance", "double"), ("hour", "long"))
    assert (found.optional, found.outputs) == (frozenset({"hour"}), (("0", "long"),))
    assert environments.of(model, "4").inputs == (("0", "tensor of float32, (-1, 4)"),)
    nothing = environments.of(model, "5")
    assert (nothing.inputs, nothing.outputs) == (None, None)


def test_alike_versions_fit(
    environments: MlflowEnvironments, model: str, installed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    result = environments.compare_environments(model, "1", "2", Gateways(installed), tmp_path)
    assert (result.state, result.differences) == ("ok", ())
    assert result.detail.startswith("no difference in ")
    assert result.detail.endswith("2 inputs and 1 gateways")
    assert result.metrics == {"environment_breaks": 0.0, "environment_unknown": 0.0, "environment_differs": 0.0}
    assert all(file.parent == tmp_path for file in result.files)


def test_what_breaks_is_told_on_the_page_and_in_the_file(
    environments: MlflowEnvironments, model: str, installed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    installed["gw-2"] = {**installed["gw-1"], "numpy": "2.3.0"}
    result = environments.compare_environments(model, "1", "3", Gateways(installed), tmp_path / "out")
    assert result.state == "failed"
    assert [(d.kind, d.name, d.severity) for d in result.differences] == [
        (Kind.INPUT, "carrier", Severity.BREAKS),
        (Kind.INSTALLED, "lightgbm", Severity.BREAKS),
        (Kind.REQUIREMENT, "lightgbm", Severity.DIFFERS),
        (Kind.INSTALLED, "numpy", Severity.DIFFERS),
    ]
    assert result.detail.startswith("2 break, 2 differ: input carrier: none became string; lightgbm: the challenger")
    document = json.loads(result.files[0].read_text())
    assert document["state"] == "failed"
    assert document["differences"][1] == {
        "kind": "installed",
        "name": "lightgbm",
        "before": "==4.6.0",
        "after": "not installed",
        "severity": "breaks",
    }
    assert document["gateways"]["gw-2"]["numpy"] == "2.3.0"
    page = result.files[1].read_text()
    assert "2.4.6 on gw-1, 2.3.0 on gw-2" in page
    assert 'class="banner fail"' in page


def test_gateways_that_do_not_answer_are_not_taken_for_fitting(
    environments: MlflowEnvironments, model: str, tmp_path: Path
) -> None:
    result = environments.compare_environments(model, "1", "2", Gateways(None), tmp_path)
    assert result.state == "missing"
    assert result.detail.endswith("; no gateway answers at http://127.0.0.1:8600")
    assert 'class="banner inconclusive"' in result.files[1].read_text()


@pytest.mark.parametrize(("challenger", "state"), [("4", "failed"), ("5", "missing")])
def test_another_kind_of_input_breaks_and_none_can_not_be_compared(
    environments: MlflowEnvironments,
    model: str,
    installed: dict[str, dict[str, str]],
    tmp_path: Path,
    challenger: str,
    state: str,
) -> None:
    result = environments.compare_environments(model, "1", challenger, Gateways(installed), tmp_path)
    assert result.state == state


def test_requirements_that_were_not_logged_are_not_on_record(
    mlflow_server: str, environments: MlflowEnvironments, model: str, tmp_path: Path
) -> None:
    client = make_client(mlflow_server)
    (tmp_path / "bare").mkdir()
    flavor = "flavors:\n  python_function:\n    python_version: 3.10.2\n    loader_module: x\n"
    (tmp_path / "bare" / "MLmodel").write_text(flavor)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("nothing")
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(tmp_path))
    place = run.info.artifact_uri
    numbers = [
        client.create_model_version(model, source=f"{place}/{name}", run_id=run.info.run_id).version
        for name in ("bare", "empty")
    ]
    assert environments.of(model, str(numbers[0])) == VersionEnvironment(python="3.10.2")
    with pytest.raises(NotFoundError, match="has no file MLmodel"):
        environments.of(model, str(numbers[1]))


def test_a_version_that_is_not_there_is_told(environments: MlflowEnvironments, model: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"no version 99 of {model}"):
        environments.compare_environments(model, "1", "99", Gateways({}), tmp_path)
