"""The gateway's OpenAPI document against the gateway: requests made from it, over the wire, and answers checked."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from tests.fuzz.budget import tries
from tests.fuzz.shapes import changed, documents
from tests.fuzz.world import World, serving

from model_rollouts.gateway.openapi import openapi_document
from model_rollouts.gateway.tokens import Role, Token, line_of

TOKENS = {role: f"a token with the role {role}, for tests" for role in Role}
SCHEMA = schemathesis.openapi.from_dict(openapi_document("1.0.0"))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
#: What an answer has to be in any case. That nonsense is refused and sense taken is for the tests of each protocol.
ALWAYS = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
#: MLflow's server answers these with the content type of JSON, and with what is none.
AS_MLFLOW = ("/ping", "/health", "/version")
_SECONDS = 30
_PATHS = {"{model}": ["m"], "{version}": ["1", "2"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("fuzz")
    file = root / "tokens"
    file.write_text("\n".join(line_of(Token.of(role, [role], token)) for role, token in TOKENS.items()))
    with serving(root, gateway_tokens_file=file) as running:
        yield running


def token_for(operation: Any) -> dict[str, str]:
    roles = operation.definition.raw.get("x-roles")
    return {"Authorization": f"Bearer {TOKENS[Role(roles[0])]}"} if roles else {}


#: Bodies that are answered, to be changed a little.
SENSE: dict[str, Any] = {
    "invocations": {"dataframe_records": [{"x": 1.5, "n": 2}, {"x": 2.5, "n": 3}]},
    "infer": {"id": "a", "inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.5, 2.5]}]},
    "outcomes": [{"request_id": "a", "label": "late", "value": 1.5}, {"request_id": "b", "label": 1}],
}
OTHERS = documents("dataframe_split", "inputs", "x", "n", "data", "shape", "request_id", "label", "value", "ts")


def cases(operation: Any) -> st.SearchStrategy[Any]:
    """Requests as the document has them, and as it has them not; half of them for what there is."""
    modes = [operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
    either = st.one_of(*modes) if operation.body or operation.headers or operation.path_parameters else modes[0]
    return st.builds(_placed, either, st.one_of(st.none(), _known(operation)))


def sensible_cases(operation: Any) -> st.SearchStrategy[Any]:
    """Requests for what there is, with bodies that are right or nearly so."""
    good = SENSE[_kind(operation)]
    bodies = st.one_of(st.just(good), changed(good, OTHERS).filter(_is_plain))
    return st.builds(_placed, operation.as_strategy(), _known(operation), bodies)


def _kind(operation: Any) -> str:
    return str(operation.path.rsplit("/", 1)[1])


def _known(operation: Any) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries(
        {name[1:-1]: st.sampled_from(values) for name, values in _PATHS.items() if name in operation.path}
    )


def _placed(case: Any, there: dict[str, str] | None, body: Any = None) -> Any:
    if there:
        case.path_parameters = there
    if body is not None:
        case.body, case.media_type = body, "application/json"
        case.headers = CaseInsensitiveDict({"Content-Type": "application/json"})
    return case


def _is_plain(body: Any) -> bool:
    """Whether the client can send it as JSON; test_requests.py has the rest."""
    try:
        return bool(json.dumps(body, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:
        return False


def sent(world: World, case: Any, headers: dict[str, str]) -> requests.Response:
    """Send a case with these headers, and with no other token."""
    made = case.as_transport_kwargs(base_url=world.url)
    own = {
        name: value for name, value in dict(made.pop("headers", None) or {}).items() if name.lower() != "authorization"
    }
    with requests.Session() as session:
        return session.request(**made, headers=own | headers, timeout=_SECONDS, allow_redirects=False)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.label)
def test_every_call_is_answered_as_the_document_says(world: World, operation: Any) -> None:
    seen: Counter[int] = Counter()

    def check(case: Any) -> None:
        answer = sent(world, case, token_for(operation))
        seen[answer.status_code] += 1
        checks = [check for check in ALWAYS if operation.path not in AS_MLFLOW or "schema" not in check.__name__]
        case.validate_response(answer, checks=checks)

    tries(8 if operation.method == "get" else 12)(given(cases(operation))(check))()
    if _kind(operation) in SENSE:
        tries(12)(given(sensible_cases(operation))(check))()
    assert 200 in seen, f"no call was answered: {seen}"
    health = requests.get(f"{world.url}/readyz", timeout=_SECONDS)
    assert health.status_code == 200


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if "x-roles" in each.definition.raw], ids=lambda e: e.label
)
def test_no_call_is_answered_without_a_token_of_its_role(world: World, operation: Any) -> None:
    allowed = {Role(role) for role in operation.definition.raw["x-roles"]}
    others = [role for role in Role if role not in allowed]

    @settings(parent=tries(4), phases=[Phase.generate])
    @given(cases(operation), st.sampled_from([None, *others]))
    def run(case: Any, role: Role | None) -> None:
        answer = sent(world, case, {} if role is None else {"Authorization": f"Bearer {TOKENS[role]}"})
        assert answer.status_code == (401 if role is None else 403)
        assert operation.path.startswith("/v2") == ("error" in answer.json())

    if others:
        run()


METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]
PARTS = [
    "models",
    "m",
    "invocations",
    "versions",
    "1",
    "status",
    "v2",
    "infer",
    "..",
    "%2F",
    "%00",
    "%ff",
    "\u00e9",
    "",
]


@tries(60)
@given(st.sampled_from(METHODS), st.lists(st.sampled_from(PARTS), max_size=6), st.sampled_from(list(Role)))
def test_no_path_and_no_method_breaks_it(world: World, method: str, parts: list[str], role: Role) -> None:
    url = f"{world.url}/{'/'.join(parts)}"
    headers = {"Authorization": f"Bearer {TOKENS[role]}"}
    request = requests.Request(method, url, headers=headers, data=b"{}").prepare()
    with requests.Session() as session:
        answer = session.send(request, timeout=_SECONDS, allow_redirects=False)
    assert answer.status_code < 500
    if role is not Role.ADMIN and answer.status_code == 200:
        assert "results" not in answer.text


def test_what_was_answered_is_in_the_log_and_can_be_read(world: World) -> None:
    """After all of the above: each row is whole, and each id that was given is there once."""
    bearer = {"Authorization": f"Bearer {TOKENS[Role.PREDICT]}"}
    answered: dict[str, int] = {}

    @settings(parent=tries(25), suppress_health_check=list(HealthCheck))
    @given(sensible_cases(SCHEMA["/models/{model}/invocations"]["POST"]))
    def run(case: Any) -> None:
        answer = sent(world, case, bearer)
        if answer.status_code == 200:
            request_id = answer.headers["x-request-id"]
            answered[request_id] = answered.get(request_id, 0) + len(answer.json()["predictions"])

    run()
    assert answered
    for number in range(3):
        body = {"dataframe_records": [{"x": float(number)}]}
        url = f"{world.url}/models/m/invocations"
        answer = requests.post(url, json=body, headers=bearer | {"X-Request-Id": f"known-{number}"}, timeout=_SECONDS)
        assert answer.json() == {"predictions": [2.0 * number]}
        answered[f"known-{number}"] = 1
    world.spool.flush()
    frame = DeltaTable(str(world.log / "m" / "predictions")).to_pandas()
    served = frame[frame["served"]]
    assert set(served["status"]) == {"ok"}
    assert set(served["version"]) <= {"1", "2"}
    ids = Counter(re.sub(r":\d+$", "", each) for each in served["request_id"])
    assert all(ids[request_id] >= rows for request_id, rows in answered.items())
    outcomes = world.log / "m" / "outcomes"
    if outcomes.exists():
        found = DeltaTable(str(outcomes)).to_pandas()
        assert found["request_id"].str.len().min() >= 1
