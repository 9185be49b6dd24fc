"""Webhook deliveries: followed, left alone or refused; never an error of ours, whatever is signed."""

import json
import time
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.fuzz.budget import tries
from tests.fuzz.shapes import bodies, changed, documents, encoded
from tests.web.test_app import SECRET, signature_of

from model_rollouts.web.app import make_app

GOOD = {
    "entity": "model_version_alias",
    "action": "created",
    "timestamp": "t",
    "data": {"name": "m", "alias": "champion"},
}
taken: list[str] = []
CLIENT = TestClient(make_app(SECRET, lambda model: len(model) < 5, taken.append), raise_server_exceptions=False)


@tries(120)
@given(st.one_of(changed(GOOD, documents("entity", "data", "name")).map(encoded), bodies))
def test_whatever_is_signed(body: bytes) -> None:
    taken.clear()
    headers = signature_of(body) if _is_text(body) else {}
    answer = CLIENT.post("/registry-events", content=body, headers=headers)
    event(str(answer.status_code))
    assert answer.status_code in ((202, 400) if headers else (401,))
    assert answer.json()
    if answer.status_code == 202:
        name = json.loads(body)["data"]["name"]
        assert taken == ([name] if answer.json()["status"] == "looking" else [])
    else:
        assert taken == []


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40), st.just(str(int(time.time())))
)


@tries(80)
@given(
    st.fixed_dictionaries(dict.fromkeys(("X-MLflow-Signature", "X-MLflow-Delivery-Id", "X-MLflow-Timestamp"), _VALUES))
)
def test_whatever_is_sent_for_a_signature(headers: dict[str, str]) -> None:
    taken.clear()
    sent: Any = {name: value.encode("latin-1") for name, value in headers.items()}
    assert CLIENT.post("/registry-events", content=encoded(GOOD), headers=sent).status_code == 401
    assert taken == []
