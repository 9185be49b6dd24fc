import json
import time
import uuid
from typing import Any

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from starlette.testclient import TestClient

from model_rollouts.web.app import make_app
from model_rollouts.web.deliveries import Deliveries, FullError
from model_rollouts.web.signature import Delivery

SECRET = "sixteen or more characters"


class Receiver:
    """The app as a caller sees it, and the models that it was told to look at."""

    def __init__(self, secret: str | None = SECRET) -> None:
        self.taken: list[str] = []
        self.client = TestClient(make_app(secret, lambda model: model != "unwatched", self.taken.append))

    def post(self, body: bytes, headers: dict[str, str] | None = None, secret: str = SECRET) -> Any:
        signed = signature_of(body, secret) if headers is None else headers
        return self.client.post("/registry-events", content=body, headers=signed)

    def deliver(self, entity: str = "model_version_alias", name: Any = "m") -> Any:
        return self.post(delivery_of(entity, name))


def delivery_of(entity: str, name: Any) -> bytes:
    return json.dumps({"entity": entity, "action": "created", "data": {"name": name}}).encode()


def signature_of(body: bytes, secret: str = SECRET, at: int | None = None) -> dict[str, str]:
    """The headers of a new delivery."""
    delivery, moment = str(uuid.uuid4()), str(int(time.time()) if at is None else at)
    signature = _generate_hmac_signature(secret, delivery, moment, body.decode())
    return {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": moment, "X-MLflow-Signature": signature}


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


def test_a_copy_of_a_delivery_is_not_taken_again():
    receiver = Receiver()
    body = delivery_of("model_version", "m")
    headers = signature_of(body)

    answers = [receiver.post(body, headers).json()["status"] for _ in range(3)]

    assert answers == ["looking", "repeated", "repeated"]
    assert receiver.taken == ["m"]
    assert receiver.post(body).json()["status"] == "looking", "another delivery of the same is none"
    assert receiver.post(body, headers | {"X-MLflow-Delivery-Id": "another"}).status_code == 401, "it is signed"


def test_one_that_was_refused_may_come_again():
    receiver = Receiver()
    body = delivery_of("model_version", "m")
    headers = signature_of(body)

    assert receiver.post(body, headers | {"X-MLflow-Signature": "v1,"}).status_code == 401
    assert receiver.post(body, headers).json()["status"] == "looking"
    broken = signature_of(b"{}")
    assert [receiver.post(b"{}", broken).status_code for _ in range(2)] == [400, 400]


def test_a_copy_is_remembered_for_as_long_as_its_signature_holds(monkeypatch):
    receiver, now = Receiver(), time.time()
    body = delivery_of("model_version", "m")
    headers = signature_of(body, at=int(now) + 290)  # a clock that is ahead

    answers = []
    for seconds in (0, 300, 580, 600):
        monkeypatch.setattr("model_rollouts.web.app.time.time", lambda at=seconds: now + at)
        answers.append(receiver.post(body, headers).status_code)
        status = receiver.post(body, headers).json().get("status")
        assert status == (None if seconds == 600 else "repeated")

    assert answers == [202, 202, 202, 401]
    assert receiver.taken == ["m"]


def test_where_no_more_can_be_remembered_nothing_more_is_taken():
    known, now = Deliveries(most=3), 1_000_000.0
    for number in range(3):
        delivery = Delivery(str(number), int(now) + number)
        assert not known.is_known(delivery, now)
        known.remember(delivery)

    with pytest.raises(FullError, match="3 deliveries came within 600 s; the registry is polled"):
        known.is_known(Delivery("3", int(now)), now)
    assert known.is_known(Delivery("0", int(now)), now), "a copy is still one"
    assert not known.is_known(Delivery("3", int(now)), now + 302)
    assert len(known._until) == 1


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
