"""The page's JSON: requests made from its OpenAPI document, by a user with all rights and by one with few."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from starlette.testclient import TestClient
from tests.fuzz.budget import tries
from tests.web.test_desk import Rights, World

from model_rollouts.core.plan import Pattern
from model_rollouts.web.page import make_page

OURS = {"X-Model-Rollouts": "page", "Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}


class Page:
    """The page over a store with two rollouts, and its document."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.user: Any = Rights(*Pattern, dags=tuple(pattern.dag_id for pattern in Pattern))
        self.app = make_page(lambda: world.desk, lambda: self.user)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.schema = schemathesis.openapi.from_dict(self.app.openapi())
        self.operations = [found.ok() for found in self.schema.get_all_operations()]

    def ask(self, case: Any) -> Any:
        """Send a case, as our page would."""
        made = case.as_transport_kwargs(base_url="http://testserver")
        content = json.dumps(made["json"]) if "json" in made else made.get("data")
        headers = {**dict(made.get("headers") or {}), **OURS}
        if content is not None:
            headers["Content-Type"] = "application/json"
        asked = {"params": made.get("params"), "headers": {k: v for k, v in headers.items() if isinstance(v, str)}}
        return self.client.request(made["method"], made["url"], content=content, **asked)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr(
            "model_rollouts.web.page.Access", lambda user: user
        )  # Airflow's is asked in tests/web/test_page.py
        yield Page(World(tmp_path_factory.mktemp("page")))


def cases(page: Page, operation: Any) -> st.SearchStrategy[Any]:
    modes = [operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
    ids = st.sampled_from([page.world.canary.id, page.world.gradual.id, "nothing"])
    deeds = st.sampled_from(["approve", "hold", "resume", "expand", "cut_over", "roll_back", "abort", "nothing"])
    known = {
        "rollout_id": ids,
        "deed": deeds,
        "run_id": st.just("run"),
        "path": st.sampled_from(["a.html", "../a", "a/../../b"]),
    }
    own = {parameter.name: known[parameter.name] for parameter in operation.path_parameters if parameter.name in known}

    def placed(case: Any, there: dict[str, str] | None) -> Any:
        if there is not None and own:
            case.path_parameters = there
        return case

    return st.builds(placed, st.one_of(*modes), st.one_of(st.none(), st.fixed_dictionaries(own)))


def test_the_document_has_every_call(page: Page) -> None:
    assert {each.label for each in page.operations} == {
        "GET /api/rollouts",
        "GET /api/of-run",
        "GET /api/rollouts/{rollout_id}",
        "GET /api/rollouts/{rollout_id}/reports",
        "GET /api/rollouts/{rollout_id}/reports/{run_id}/{path}",
        "POST /api/rollouts/{rollout_id}/{deed}",
    }


@pytest.mark.parametrize("number", range(6))
def test_every_call_is_answered_in_words(page: Page, number: int) -> None:
    operation = page.operations[number]

    @tries(4 if "/reports" in operation.path else 15)
    @given(cases(page, operation))
    def run(case: Any) -> None:
        answer = page.ask(case)
        if "/reports" in operation.path and answer.status_code >= 500:  # there is no MLflow to ask here
            assert answer.status_code in (502, 503)
        else:
            assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["detail"]
        assert answer.headers["content-security-policy"]

    run()


def test_everything_that_was_done_can_be_read_again(page: Page) -> None:
    store = page.world.rollouts.store
    for rollout in (page.world.canary, page.world.gradual):
        now = store.rollout(rollout.id)
        assert page.client.get(f"/api/rollouts/{now.id}", headers=OURS).json()["id"] == now.id
        events = store.events(rollout_id=now.id)
        assert events
        assert all(json.dumps(event.evidence) for event in events)


@tries(20)
@given(st.data())
def test_who_may_do_nothing_changes_nothing(page: Page, data: Any) -> None:
    before = [page.world.rollouts.store.rollout(each.id) for each in (page.world.canary, page.world.gradual)]
    operation = next(each for each in page.operations if each.method == "post")
    case, page.user = data.draw(cases(page, operation)), Rights()
    try:
        answer = page.ask(case)
    finally:
        page.user = Rights(*Pattern)
    assert answer.status_code in (400, 403, 404, 405, 413, 422), answer.text
    assert [page.world.rollouts.store.rollout(each.id) for each in before] == before
