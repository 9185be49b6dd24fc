"""A model's signature in the words of the Open Inference Protocol."""

import numpy as np
from mlflow.models.model import Model
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, TensorSpec
from tests.gateway.open_inference_bodies import ALL, metadata

from model_rollouts.gateway.open_inference_model import Interface, Tensor, interface, model_document, server_document


def test_the_models_metadata_is_its_signature_in_mlservers_words() -> None:
    meta = metadata(Schema([*ALL, ColSpec(Array("double"), "path")]), Schema([ColSpec("string")]))
    document = model_document("flights", ["1", "2"], interface(meta))
    assert {t["name"]: (t["datatype"], t["shape"], t.get("parameters")) for t in document["inputs"]} == {
        "late": ("BOOL", [-1, 1], None),
        "seats": ("INT32", [-1, 1], None),
        "id": ("INT64", [-1, 1], None),
        "share": ("FP32", [-1, 1], None),
        "delay": ("FP64", [-1, 1], None),
        "carrier": ("BYTES", [-1, 1], {"content_type": "str"}),
        "raw": ("BYTES", [-1, 1], {"content_type": "base64"}),
        "day": ("BYTES", [-1, 1], {"content_type": "datetime"}),
        "note": ("BYTES", [-1, 1], {"content_type": "str", "optional": True}),
        "path": ("BYTES", [-1, 1], {"content_type": "pd_json"}),
    }
    assert document["outputs"] == [
        {"name": "output-0", "datatype": "BYTES", "shape": [-1, 1], "parameters": {"content_type": "str"}}
    ]
    assert (document["name"], document["versions"], document["platform"]) == ("flights", ["1", "2"], "mlflow_pyfunc")


def test_arrays_are_described_by_their_shapes_and_no_signature_by_nothing() -> None:
    specs = [TensorSpec(np.dtype("float32"), (-1, 28, 28), "image"), TensorSpec(np.dtype("uint8"), (-1,), "size")]
    found = interface(metadata(Schema(specs), Schema([TensorSpec(np.dtype("bool"), (-1,))])))
    assert found.kind == "tensors"
    assert [(t.name, t.datatype, t.shape) for t in found.inputs] == [
        ("image", "FP32", (-1, 28, 28)),
        ("size", "UINT8", (-1,)),
    ]
    assert found.outputs == (Tensor("output-0", "BOOL", (-1,)),)
    assert interface(Model()) == Interface()
    assert server_document("0.1.0") == {"name": "model-rollouts", "version": "0.1.0", "extensions": []}
