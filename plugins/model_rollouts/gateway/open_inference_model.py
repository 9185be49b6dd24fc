"""What a version takes and gives in the words of the Open Inference Protocol v2, from its MLflow signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TEXT, BASE64, DATETIME, ARRAY, TABLE, JSON_TEXT = "str", "base64", "datetime", "np", "pd", "pd_json"
CONTENT_TYPES = frozenset({TEXT, BASE64, DATETIME, ARRAY, TABLE, JSON_TEXT, "dict"})  # MLServer's names of them
PLATFORM = "mlflow_pyfunc"

_COLUMN_TYPES = {
    "boolean": ("BOOL", None),
    "integer": ("INT32", None),
    "long": ("INT64", None),
    "float": ("FP32", None),
    "double": ("FP64", None),
    "string": ("BYTES", TEXT),
    "binary": ("BYTES", BASE64),
    "datetime": ("BYTES", DATETIME),
}
_ARRAY_KINDS = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output.

    Attributes:
        name: The signature's, or `input-0`, `output-0` and so on where it has none.
        datatype: The protocol's.
        shape: With -1 for a size that varies; the first one is the rows.
        content_type: How texts are to be read, in MLServer's words; None for numbers.
        required: Whether a request must have it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str | None = None
    required: bool = True

    def document(self) -> dict[str, Any]:
        """As the model's metadata has it."""
        parameters: dict[str, Any] = {} if self.content_type is None else {"content_type": self.content_type}
        if not self.required:
            parameters["optional"] = True
        found = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return found | ({"parameters": parameters} if parameters else {})


@dataclass(frozen=True, slots=True)
class Interface:
    """A version's inputs, outputs and parameters.

    Attributes:
        kind: `columns` (named columns), `tensor` (one array), `tensors` (named arrays), `items` (a list in the form of
            the model's type hints) or `any` (no signature, or one without names).
        inputs: In the signature's order.
        outputs: As the signature declares them; none where it does not.
        params: Names of the inference parameters that it knows.
    """

    kind: str = "any"
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    params: frozenset[str] = frozenset()


def interface(metadata: Any) -> Interface:
    """The interface of a loaded model. Imports MLflow; call it once a version.

    Args:
        metadata: An `mlflow.models.Model`.
    """
    inputs, outputs, params = metadata.get_input_schema(), metadata.get_output_schema(), metadata.get_params_schema()
    kind = "any"
    if metadata._is_signature_from_type_hint():
        kind = "items"
    elif inputs is not None and inputs.is_tensor_spec():
        kind = "tensors" if inputs.has_input_names() else "tensor"
    elif inputs is not None and inputs.has_input_names():
        kind = "columns"
    names = () if params is None else tuple(param.name for param in params.params)
    return Interface(kind, _tensors(inputs, "input"), _tensors(outputs, "output"), frozenset(names))


def server_document(version: str) -> dict[str, Any]:
    """What `GET /v2` answers.

    Args:
        version: Of the gateway.
    """
    return {"name": "model-rollouts", "version": version, "extensions": []}


def model_document(name: str, versions: Sequence[str], described: Interface) -> dict[str, Any]:
    """What `GET /v2/models/{name}` answers.

    Args:
        name: Registered model name.
        versions: That may be asked for by number.
        described: Of the version that is described.
    """
    return {
        "name": name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [tensor.document() for tensor in described.inputs],
        "outputs": [tensor.document() for tensor in described.outputs],
    }


def _tensors(schema: Any, prefix: str) -> tuple[Tensor, ...]:
    return () if schema is None else tuple(_tensor(spec, f"{prefix}-{i}") for i, spec in enumerate(schema.inputs))


def _tensor(spec: Any, default_name: str) -> Tensor:
    from mlflow.types.schema import DataType, TensorSpec

    name, required = spec.name or default_name, bool(getattr(spec, "required", True))
    if isinstance(spec, TensorSpec):
        kind = _ARRAY_KINDS.get(spec.type.kind)
        shape = tuple(int(size) for size in spec.shape)
        if kind is None:
            return Tensor(name, "BYTES", shape, TEXT, required)
        return Tensor(name, kind if kind == "BOOL" else f"{kind}{spec.type.itemsize * 8}", shape, None, required)
    if not isinstance(spec.type, DataType):  # lists and objects have no tensor of their own
        return Tensor(name, "BYTES", (-1, 1), JSON_TEXT, required)
    datatype, content_type = _COLUMN_TYPES[spec.type.name]
    return Tensor(name, datatype, (-1, 1), content_type, required)
