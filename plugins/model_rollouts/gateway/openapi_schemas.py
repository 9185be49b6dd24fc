"""The shapes of what the gateway takes and answers, as JSON Schemas of its OpenAPI document."""

from typing import Any

from model_rollouts.gateway.open_inference_model import CONTENT_TYPES
from model_rollouts.gateway.open_inference_tensors import DATATYPES
from model_rollouts.gateway.scoring_protocol import FORMATS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
ANYTHING: Schema = {}


def reference(name: str) -> Schema:
    """A schema of `schemas` by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _list(items: Schema, description: str = "") -> Schema:
    return {"type": "array", "items": items} | ({"description": description} if description else {})


def _map(values: Schema, description: str = "") -> Schema:
    found: Schema = {"type": "object", "additionalProperties": values}
    return found | ({"description": description} if description else {})


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | (optional or {}), **more}


def _invocation() -> Schema:
    forms = {
        "dataframe_split": _object(
            {"data": _list(_list(ANYTHING))},
            {"columns": _list(TEXT), "index": _list(ANYTHING)},
            additionalProperties=False,
        ),
        "dataframe_records": _list(_map(ANYTHING)),
        "instances": {"type": ["array", "object"], "description": "Rows, or one list a column"},
        "inputs": {"description": "Rows, one list a column, or an array"},
    }
    return {
        "type": "object",
        "description": "Exactly one of the forms of `mlflow models serve`",
        "properties": forms | {"params": _map(ANYTHING, "Inference parameters of the model's signature")},
        "oneOf": [{"required": [name]} for name in FORMATS],
    }


def schemas() -> dict[str, Schema]:
    """Every schema by its name."""
    parameters = _map({"type": ["string", "number", "boolean", "array", "object", "null"]})
    tensor = {
        "name": TEXT,
        "shape": _list(WHOLE | {"minimum": 1}),
        "datatype": {"type": "string", "enum": list(DATATYPES)},
        "data": _list(ANYTHING, "The elements in row-major order, flat or nested; null for a missing one"),
    }
    kinds = ", ".join(sorted(CONTENT_TYPES))
    with_type = {"parameters": parameters | {"description": f"content_type is one of {kinds}"}}
    wanted = _object({"name": TEXT}, {"parameters": parameters})
    described = {"name": TEXT, "datatype": TEXT, "shape": _list(WHOLE)}
    result = {"status": TEXT, "prediction": _nullable(TEXT), "score": _nullable(NUMBER), "error": TEXT}
    return {
        "Error": _object({"error_code": TEXT, "message": TEXT}, description="As MLflow's server has it"),
        "OpenInferenceError": _object({"error": TEXT}),
        "Invocation": _invocation(),
        "Predictions": _object({"predictions": _list(ANYTHING, "One answer a row, in order")}),
        "Probe": _object({"gateway_id": TEXT, "results": _list(_object(result))}),
        "Outcome": _object(
            {"request_id": TEXT | {"minLength": 1, "maxLength": 220}},
            {
                "label": {"type": ["string", "number", "boolean", "null"]},
                "value": _nullable(NUMBER),
                "ts": {"type": ["string", "number", "null"], "description": "ISO 8601, or seconds since 1970"},
            },
            additionalProperties=False,
            description="What became known of a request: a label, a value or both",
        ),
        "Accepted": _object({"accepted": WHOLE}),
        "ModelStatus": _model_status(),
        "Status": _object(
            {
                "gateway_id": TEXT,
                "healthy": BOOLEAN,
                "store": _object({"ok": BOOLEAN, "polled_seconds_ago": _nullable(NUMBER), "error": _nullable(TEXT)}),
                "models": _map(reference("ModelStatus")),
                "not_adopted": _map(TEXT, "Why a configured model is not served"),
                "spool": _map(ANYTHING, "Answered rows on their way to the log"),
                "mirror": _map(WHOLE),
                "callers": _object(
                    {"guarded": BOOLEAN, "tokens": _map(_list(TEXT), "Roles by name"), "error": _nullable(TEXT)}
                ),
            }
        ),
        "Environment": _object({"gateway_id": TEXT, "packages": _map(TEXT)}),
        "InferRequest": _object(
            {"inputs": _list(_object(tensor, with_type)) | {"minItems": 1}},
            {"id": TEXT, "parameters": parameters, "outputs": _list(wanted)},
        ),
        "InferResponse": _object(
            {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": _list(_object(tensor, with_type))},
            {"parameters": parameters},
        ),
        "ServerMetadata": _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "ModelMetadata": _object(
            {
                "name": TEXT,
                "versions": _list(TEXT),
                "platform": TEXT,
                "inputs": _list(_object(described, {"parameters": parameters})),
                "outputs": _list(_object(described, {"parameters": parameters})),
            }
        ),
        "ServerLive": _object({"live": BOOLEAN}),
        "ServerReady": _object({"ready": BOOLEAN}),
        "ModelReady": _object({"name": TEXT, "ready": BOOLEAN}),
    }


def _model_status() -> Schema:
    return _object(
        {
            "gateway_id": TEXT,
            "model": TEXT,
            "revision": WHOLE,
            "routed_revision": _nullable(WHOLE),
            "champion": TEXT,
            "challenger": _nullable(TEXT),
            "previous": _nullable(TEXT),
            "share": NUMBER,
            "stage": _nullable(WHOLE),
            "rollout_id": _nullable(TEXT),
            "backlog_seconds": NUMBER,
            "versions": _map(TEXT, "`ready`, `loading`, or `failed: ` and the reason"),
            "mirror": _object({"waiting": WHOLE, "mirrored": WHOLE, "dropped": WHOLE}),
        }
    )
