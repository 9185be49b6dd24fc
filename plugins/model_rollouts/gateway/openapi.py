"""The gateway's OpenAPI 3.1 document: every call, what it takes, what it answers and how it refuses."""

from typing import Any

from model_rollouts.gateway.callers import roles_for
from model_rollouts.gateway.open_inference import HEADER_LENGTH
from model_rollouts.gateway.openapi_schemas import Schema, reference, schemas
from model_rollouts.gateway.scoring_protocol import CSV, JSON, PARQUET

Operation = dict[str, Any]

_TEXT = "text/plain"
_REFUSALS = {
    400: "The request does not fit the protocol or the model's signature; says where",
    401: "The token is missing or wrong",
    403: "The token has another role than the call needs; says which",
    404: "The model or the version is not served here",
    413: "The body is larger than the limit",
    415: "The body is of another content type",
    429: "Too much is under way; try again",
    500: "The model failed",
    503: "The model is not served yet, or the answer could not be logged; try again",
    504: "The model did not answer in time",
}
_AGAIN = (429, 503)
_ROLES = "x-roles"
_SCORED = ("/infer", "/invocations")
_SCORING = tuple(_REFUSALS)

_UNIT = {"type": "string", "maxLength": 256}
_REQUEST_ID = {"type": "string", "pattern": "^[\\x21-\\x7e]{1,200}$"}
_PARAMETERS: dict[str, Operation] = {
    "model": {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
    "version": {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}},
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The request in the log; made where it is missing. Row i of several has `:i` at its end",
        "schema": _REQUEST_ID,
    },
    "UnitId": {
        "name": "X-Unit-Id",
        "in": "header",
        "description": "Who the request is for: one unit always has one version, as long as the traffic stays",
        "schema": _UNIT,
    },
    "Route": {
        "name": "X-Rollouts-Route",
        "in": "header",
        "description": "The arm that is to answer, whatever the traffic says; for testers, with X-Rollouts-Token",
        "schema": {"type": "string", "enum": ["champion", "challenger"]},
    },
    "RouteToken": {
        "name": "X-Rollouts-Token",
        "in": "header",
        "description": "The testers' token",
        "schema": {"type": "string"},
    },
}
_HEADERS: dict[str, Operation] = {
    "RequestId": {"description": "The request in the log", "required": True, "schema": _REQUEST_ID},
    "ModelVersion": {
        "description": "The versions that answered, comma-separated",
        "required": True,
        "schema": {"type": "string"},
    },
    "RetryAfter": {"description": "Seconds to wait", "required": True, "schema": {"type": "integer"}},
    "Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}},
}


def openapi_document(version: str) -> dict[str, Any]:
    """The document, as `GET /openapi.json` answers it.

    Args:
        version: Of the gateway.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "model-rollouts gateway",
            "version": version,
            "description": "Serves the versions of models that a rollout's traffic names, and logs what they answer",
        },
        "security": [{"token": []}],
        "paths": _with_roles(_paths()),
        "components": {
            "schemas": schemas(),
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {
                **{f"Refused{status}": _refusal(status, "Error") for status in _REFUSALS},
                **{f"OpenInferenceRefused{status}": _refusal(status, "OpenInferenceError") for status in _REFUSALS},
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where tokens are set. Each has roles, and a call needs one of those in its x-roles",
                }
            },
        },
    }


def _paths() -> dict[str, Operation]:
    model, version = "/models/{model}", "/versions/{version}"
    infer, infer_version = f"/v2{model}", f"/v2{model}{version}"
    return {
        "/invocations": {"post": _invocation("invokeDefault", "Predictions of the default model")},
        f"{model}/invocations": {"post": _invocation("invoke", "Predictions, by the version that the traffic says")},
        f"{model}{version}/invocations": {"post": _probe()},
        f"{model}/outcomes": {"post": _outcomes()},
        f"{model}/status": {"get": _read("modelStatus", "How one model is served", "ModelStatus", (401, 404), "model")},
        "/status": {"get": _read("status", "How everything is served", "Status")},
        "/environment": {"get": _read("environment", "The packages of this process", "Environment")},
        "/ping": {"get": _probe_of_health("ping", 404)},
        "/health": {"get": _probe_of_health("health", 404)},
        "/healthz": {"get": _probe_of_health("healthz", 503, "Whether the process lives")},
        "/readyz": {"get": _probe_of_health("readyz", 503, "Whether it should get requests")},
        "/version": {"get": _plain("mlflowVersion", "MLflow's version, as its server says it", JSON)},
        "/metrics": {"get": _plain("metrics", "For Prometheus", _TEXT)},
        "/openapi.json": {"get": _plain("openapi", "This document", JSON, {"type": "object"})},
        "/v2": {"get": _v2_read("serverMetadata", "The server", "ServerMetadata", (401,))},
        "/v2/health/live": {"get": _v2_read("serverLive", "Whether the process lives", "ServerLive", ())},
        "/v2/health/ready": {"get": _v2_read("serverReady", "Whether all is served", "ServerReady", (503,))},
        **_v2_model(infer, ""),
        **_v2_model(infer_version, "Version"),
    }


def _with_roles(paths: dict[str, Operation]) -> dict[str, Operation]:
    """The paths, with the roles that each call takes, one of which is enough."""
    for path, item in paths.items():
        for method, operation in item.items():
            if operation.get("security") != []:
                predicts = path.endswith(_SCORED) and operation["operationId"] != "probe"
                operation[_ROLES] = sorted(roles_for(method.upper(), path, predicts=predicts))
    return paths


def _v2_model(path: str, suffix: str) -> dict[str, Operation]:
    names = ("model", "version") if suffix else ("model",)
    seen = (401, 404, 503)
    return {
        path: {"get": _v2_read(f"model{suffix}Metadata", "Inputs and outputs", "ModelMetadata", seen, *names)},
        f"{path}/ready": {"get": _v2_read(f"model{suffix}Ready", "Whether it is served", "ModelReady", seen, *names)},
        f"{path}/infer": {"post": _infer(f"infer{suffix}", *names)},
    }


def _invocation(operation: str, summary: str) -> Operation:
    names = ("RequestId", "UnitId", "Route", "RouteToken")
    path = () if operation == "invokeDefault" else ("model",)
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["predictions"],
        "parameters": _parameters(*path, *names),
        "requestBody": _table_body(),
        "responses": _responses("Predictions", _SCORING, answered=True),
    }


def _probe() -> Operation:
    return {
        "operationId": "probe",
        "summary": "Scores on one loaded version, whatever the traffic says; nothing is logged",
        "tags": ["operators"],
        "parameters": _parameters("model", "version"),
        "requestBody": _table_body(),
        "responses": _responses("Probe", (400, 401, 404, 413, 415, 500)),
    }


def _outcomes() -> Operation:
    one = reference("Outcome")
    lines = {"type": "string", "description": "One outcome a line"}
    return {
        "operationId": "outcomes",
        "summary": "Takes labels and values of earlier requests; all or none",
        "tags": ["outcomes"],
        "parameters": _parameters("model"),
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"oneOf": [one, {"type": "array", "items": one, "minItems": 1}]}},
                "application/x-ndjson": {"schema": lines},
            },
        },
        "responses": _responses("Accepted", (400, 401, 404, 413, 500, 503)),
    }


def _infer(operation: str, *path: str) -> Operation:
    return {
        "operationId": operation,
        "summary": "Predictions, by the Open Inference Protocol",
        "description": f"Tensors in JSON alone: {HEADER_LENGTH} is refused",
        "tags": ["open inference"],
        "parameters": _parameters(*path, "RequestId", "UnitId", "Route", "RouteToken"),
        "requestBody": {"required": True, "content": {JSON: {"schema": reference("InferRequest")}}},
        "responses": _responses("InferResponse", _SCORING, "OpenInferenceRefused", answered=True),
    }


def _read(operation: str, summary: str, schema: str, refused: tuple[int, ...] = (401,), *path: str) -> Operation:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["operators"],
        "parameters": _parameters(*path),
        "responses": _responses(schema, refused),
    }


def _v2_read(operation: str, summary: str, schema: str, refused: tuple[int, ...], *path: str) -> Operation:
    found = {
        "operationId": operation,
        "summary": summary,
        "tags": ["open inference"],
        "parameters": _parameters(*path),
        "responses": _responses(schema, refused, "OpenInferenceRefused"),
    }
    return found if 401 in refused else found | {"security": []}  # noqa: PLR2004  # the status


def _probe_of_health(operation: str, sick: int, summary: str = "Whether all models are served") -> Operation:
    said: Operation = {"content": {JSON: {"schema": {}}}}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["health"],
        "security": [],
        "responses": {"200": {"description": "Yes", **said}, str(sick): {"description": "No", **said}},
    }


def _plain(operation: str, summary: str, kind: str, schema: Schema | None = None) -> Operation:
    content = {kind: {"schema": schema or {"type": "string"}}}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["operators"],
        "responses": {"200": {"description": summary, "content": content}}
        | {str(status): _refused("Refused", status) for status in (401, 403)},
    }


def _table_body() -> Operation:
    return {
        "required": True,
        "content": {
            JSON: {"schema": reference("Invocation")},
            CSV: {"schema": {"type": "string", "description": "With a header"}},
            PARQUET: {"schema": {"type": "string", "contentMediaType": PARQUET}},
        },
    }


def _parameters(*names: str) -> list[Operation]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _responses(
    schema: str, refused: tuple[int, ...], prefix: str = "Refused", *, answered: bool = False
) -> dict[str, Operation]:
    if 401 in refused:  # noqa: PLR2004  # the status
        refused = tuple(sorted({*refused, 403}))
    good: Operation = {"description": "Done", "content": {JSON: {"schema": reference(schema)}}}
    if answered:
        good["headers"] = {"X-Request-Id": _header("RequestId"), "X-Model-Version": _header("ModelVersion")}
    return {"200": good} | {str(status): _refused(prefix, status) for status in refused}


def _refused(prefix: str, status: int) -> Operation:
    return {"$ref": f"#/components/responses/{prefix}{status}"}


def _refusal(status: int, schema: str) -> Operation:
    found: Operation = {"description": _REFUSALS[status], "content": {JSON: {"schema": reference(schema)}}}
    if status in _AGAIN:
        found["headers"] = {"Retry-After": _header("RetryAfter")}
    if status == 401:  # noqa: PLR2004  # the status
        found["headers"] = {"WWW-Authenticate": _header("Authenticate")}
    return found


def _header(name: str) -> Operation:
    return {"$ref": f"#/components/headers/{name}"}
