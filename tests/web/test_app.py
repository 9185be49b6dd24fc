import json
import time
import uuid
from typing import Any

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from starlette.testclient import TestClient

from model_rollouts.web.app import make_app

SECRET = "sixteen or more characters"


class Receiver:
    """The app as a caller sees it, and the models that it was told to look at."""

    def __init__(self, secret: str | None = SECRET) -> None:
        self.taken: list[str] = []
        self.client = TestClient(make_app(secret, lambda model: model != "unwatched", self.taken.append))

    def post(self, body: bytes, headers: dict[str, str] | None = None, secret: str = SECRET) -> Any:
        delivery, at = str(uuid.uuid4()), str(int(time.time()))
        signature = _generate_hmac_signature(secret, delivery, at, body.decode())
        signed = {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": at, "X-MLflow-Signature": signature}
        return self.client.post("/registry-events", content=body, headers=signed if headers is None else headers)

    def deliver(self, entity: str = "model_version_alias", name: Any = "m") -> Any:
        return self.post(json.dumps({"entity": entity, "action": "created", "data": {"name": name}}).encode())


@pytest.mark.parametrize("entity", ["model_version", "model_version_tag", "model_version_alias", "registered_model"])
def test_a_signed_delivery_is_taken_as_a_hint(entity):
    receiver = Receiver()

    answer = receiver.deliver(entity)

    assert (answer.status_code, answer.json()) == (202, {"status": "looking", "model": "m"})
    assert receiver.taken == ["m"]


@pytest.mark.parametrize(("entity", "name"), [("prompt", "m"), ("model_version", "unwatched")])
def test_what_is_none_of_our_business_is_answered_and_left_alone(entity, name):
    receiver = Receiver()

    assert receiver.deliver(entity, name).json() == {"status": "ignored"}
    assert receiver.taken == []


@pytest.mark.parametrize("secret", [None, "", "fifteen letters"])
def test_without_a_good_secret_nothing_is_taken(secret):
    receiver = Receiver(secret)

    answer = receiver.post(b"{}", secret=secret or "")

    assert answer.status_code == 503
    assert "MODEL_ROLLOUTS_WEBHOOK_SECRET" in answer.json()["detail"]
    assert receiver.taken == []


def test_an_unsigned_delivery_is_refused():
    receiver = Receiver()
    body = json.dumps({"entity": "model_version", "data": {"name": "m"}}).encode()

    assert receiver.post(body, headers={}).status_code == 401
    assert receiver.post(body, secret="somebody else's secret").status_code == 401
    assert receiver.taken == []


def test_a_body_that_is_too_long_is_refused_before_it_is_read_to_its_end():
    receiver = Receiver()

    assert receiver.post(b"x" * 70_000).status_code == 413
    assert receiver.taken == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'{"entity": "model_version", "data": 1}', b"[" * 60_000, b'{"entity": 1}']
)
def test_a_signed_body_that_is_no_delivery_is_refused(body):
    receiver = Receiver()

    assert receiver.post(body).status_code == 400
    assert receiver.taken == []


@pytest.mark.parametrize("name", ["", "x" * 300, None, 7, ["m"]])
def test_a_name_that_is_none_is_refused(name):
    receiver = Receiver()

    assert receiver.deliver(name=name).status_code == 400
    assert receiver.taken == []


def test_nothing_else_is_served():
    client = Receiver().client

    assert [client.get(path).status_code for path in ("/", "/docs", "/openapi.json")] == [404] * 3
    assert client.get("/registry-events").status_code == 405
