"""The OpenAPI document: it is one, it names every call, and what the gateway answers is what it says."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from model_rollouts.gateway.openapi import openapi_document

DOCUMENT = openapi_document("1.2.3")
METHODS = ("get", "post", "put", "patch", "delete")
#: Calls that are answered before the application's routes (`front.py`).
RAW = [
    ("POST", "/invocations"),
    ("POST", "/models/{model}/invocations"),
    ("POST", "/v2/models/{model}/infer"),
    ("POST", "/v2/models/{model}/versions/{version}/infer"),
]


def differences(document: dict[str, Any], routes: Any, raw: list[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """Calls that are served and not written down, and those that are written down and not served.

    Args:
        document: The OpenAPI document.
        routes: Of the application; what has no methods is left out.
        raw: Method and path of every call that is answered without a route.
    """

    def call(method: str, path: str) -> str:
        return f"{method.upper()} {path.rstrip('/')}"

    served = {call(method, path) for method, path in raw}
    for route in routes:
        served |= {call(method, route.path) for method in getattr(route, "methods", None) or () if method != "HEAD"}
    written = {call(method, path) for path, item in document["paths"].items() for method in item if method in METHODS}
    return served - written, written - served


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def resolved(node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    resource = Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:gateway", resource)
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:gateway#/'))
    return Draft202012Validator(absolute, registry=registry)


def test_it_is_an_openapi_document() -> None:
    assert OpenAPI.model_validate(DOCUMENT).openapi == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_everything_is_referred_to() -> None:
    found = set(references(DOCUMENT))
    for reference in found:
        assert resolved({"$ref": reference}), reference
    for kind in ("schemas", "parameters", "headers"):
        assert {f"#/components/{kind}/{name}" for name in DOCUMENT["components"][kind]} <= found


def test_every_operation_has_a_name_of_its_own_and_says_all_of_its_path() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, _, operation in operations():
        parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
        assert {p["name"] for p in parameters if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        assert "200" in operation["responses"]


def test_predictions_say_their_headers_and_every_refusal() -> None:
    for method, path in RAW:
        operation = DOCUMENT["paths"][path][method.lower()]
        sent = {resolved(p)["name"] for p in operation["parameters"] if resolved(p)["in"] == "header"}
        assert sent == {"X-Request-Id", "X-Unit-Id", "X-Rollouts-Route", "X-Rollouts-Token"}
        assert operation["responses"]["200"]["headers"].keys() == {"X-Request-Id", "X-Model-Version"}
        assert set(operation["responses"]) == {str(n) for n in (200, 400, 401, 403, 404, 413, 415, 429, 500, 503, 504)}
        for status in ("429", "503"):
            assert "Retry-After" in resolved(operation["responses"][status])["headers"]
        kind = "OpenInferenceError" if path.startswith("/v2") else "Error"
        schema = resolved(operation["responses"]["400"])["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{kind}"}


def test_differences_are_found_in_both_directions() -> None:
    class Route:
        path, methods = "/new", frozenset({"GET", "HEAD"})

    more, less = differences(DOCUMENT, [Route()], RAW)
    assert more == {"GET /new"}
    assert "GET /status" in less
    assert not less & {f"{method} {path}" for method, path in RAW}


EXAMPLES: dict[str, tuple[str, list[Any], list[Any]]] = {
    "Invocation": (
        "Invocation",
        [
            {"dataframe_split": {"columns": ["x"], "data": [[1]]}},
            {"inputs": [1.5], "params": {"a": 1}},
            {"instances": {"x": [1]}},
        ],
        [{}, {"inputs": [1], "instances": [1]}, {"dataframe_split": {"data": [], "rows": 1}}, [1]],
    ),
    "Outcome": (
        "Outcome",
        [{"request_id": "a", "label": 1}, {"request_id": "a", "value": 0.5, "ts": "2013-01-01T00:00:00Z"}],
        [{"label": 1}, {"request_id": "", "label": 1}, {"request_id": "a", "extra": 1}],
    ),
    "InferRequest": (
        "InferRequest",
        [{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}], "outputs": [{"name": "y"}]}],
        [{"inputs": []}, {"inputs": [{"name": "x", "shape": [0], "datatype": "FP64", "data": []}]}, {}],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_schemas_of_requests_take_what_the_gateway_takes(name: str) -> None:
    schema, good, bad = EXAMPLES[name]
    check = validator({"$ref": f"#/components/schemas/{schema}"})
    assert [list(check.iter_errors(content)) for content in good] == [[]] * len(good)
    assert all(list(check.iter_errors(content)) for content in bad)


def checked(response: httpx.Response, method: str, path: str) -> None:
    """An answer against the document."""
    said = resolved(DOCUMENT["paths"][path][method]["responses"][str(response.status_code)])
    content = said["content"]["application/json"]["schema"]
    assert list(validator(content).iter_errors(response.json())) == []
    for name in said.get("headers", {}):
        assert name in response.headers


CALLS: dict[str, tuple[str, str, str, Any, int]] = {
    "predictions": ("post", "/models/m/invocations", "/models/{model}/invocations", {"inputs": [{"x": 1}]}, 200),
    "predictions of the default": ("post", "/invocations", "/invocations", {"inputs": [{"x": 1}]}, 200),
    "a bad request": ("post", "/models/m/invocations", "/models/{model}/invocations", {"inputs": [{"x": "a"}]}, 400),
    "an unknown model": ("post", "/models/o/invocations", "/models/{model}/invocations", {"inputs": [{"x": 1}]}, 404),
    "a probe": (
        "post",
        "/models/m/versions/1/invocations",
        "/models/{model}/versions/{version}/invocations",
        {"inputs": [{"x": 1}]},
        200,
    ),
    "outcomes": ("post", "/models/m/outcomes", "/models/{model}/outcomes", [{"request_id": "a", "label": 1}], 200),
    "the status of a model": ("get", "/models/m/status", "/models/{model}/status", None, 200),
    "the status": ("get", "/status", "/status", None, 200),
    "the environment": ("get", "/environment", "/environment", None, 200),
    "the server": ("get", "/v2", "/v2", None, 200),
    "its life": ("get", "/v2/health/live", "/v2/health/live", None, 200),
    "its readiness": ("get", "/v2/health/ready", "/v2/health/ready", None, 200),
    "a model": ("get", "/v2/models/m", "/v2/models/{model}", None, 200),
    "a version": ("get", "/v2/models/m/versions/1", "/v2/models/{model}/versions/{version}", None, 200),
    "a model's readiness": ("get", "/v2/models/m/ready", "/v2/models/{model}/ready", None, 200),
    "a version's readiness": (
        "get",
        "/v2/models/m/versions/1/ready",
        "/v2/models/{model}/versions/{version}/ready",
        None,
        200,
    ),
    "an unknown version": ("get", "/v2/models/m/versions/9", "/v2/models/{model}/versions/{version}", None, 404),
    "an inference": (
        "post",
        "/v2/models/m/infer",
        "/v2/models/{model}/infer",
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}]},
        200,
    ),
    "a bad inference": ("post", "/v2/models/m/infer", "/v2/models/{model}/infer", {"inputs": []}, 400),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_gateway_answers_as_the_document_says(name: str, gateway: Callable[..., Any]) -> None:
    method, url, path, content, status = CALLS[name]

    async def run() -> httpx.Response:
        async with gateway() as g:
            found: httpx.Response = await g.client.request(method, url, json=content)
            return found

    response = asyncio.run(run())
    assert response.status_code == status, response.text
    checked(response, method, path)


def test_every_call_is_written_down_and_every_written_one_is_served(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            assert differences(DOCUMENT, g.app.inner.routes, RAW) == (set(), set())

    asyncio.run(run())
