"""Against MLflow's own signing code."""

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from model_rollouts.web.signature import Delivery, SignatureError, verify

SECRET = "a secret of the webhook"
NOW = 1_800_000_000.0
BODY = b'{"entity": "model_version_alias", "data": {"name": "flights \\u00fc"}}'


def signed(body: bytes = BODY, secret: str = SECRET, at: int = int(NOW), delivery: str = "d-1") -> dict[str, str]:
    """The headers that MLflow sends with a body."""
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": str(at),
        "x-mlflow-signature": _generate_hmac_signature(secret, delivery, str(at), body.decode()),
    }


def test_what_mlflow_signs_is_taken():
    assert verify(SECRET, signed(), BODY, NOW) == Delivery("d-1", int(NOW))


def test_an_id_that_is_too_long_is_refused():
    with pytest.raises(SignatureError, match="201 characters, must have at most 200"):
        verify(SECRET, signed(delivery="d" * 201), BODY, NOW)


@pytest.mark.parametrize("seconds", [-300, -1, 0, 299, 300])
def test_clocks_may_differ_by_minutes(seconds):
    verify(SECRET, signed(at=int(NOW) + seconds), BODY, NOW)


@pytest.mark.parametrize("seconds", [-301, 301, -1_000_000])
def test_an_old_or_early_delivery_is_refused(seconds):
    with pytest.raises(SignatureError, match="away from the clock here, must be at most 300"):
        verify(SECRET, signed(at=int(NOW) + seconds), BODY, NOW)


def test_another_secret_is_refused_and_neither_is_told():
    with pytest.raises(SignatureError, match="does not fit") as caught:
        verify("another secret", signed(), BODY, NOW)

    assert SECRET not in str(caught.value)
    assert "another secret" not in str(caught.value)


def test_another_body_is_refused():
    with pytest.raises(SignatureError, match="does not fit"):
        verify(SECRET, signed(), BODY.replace(b"flights", b"fraud"), NOW)


@pytest.mark.parametrize("name", ["x-mlflow-delivery-id", "x-mlflow-timestamp"])
def test_each_header_is_signed(name):
    other = {"x-mlflow-delivery-id": "d-2", "x-mlflow-timestamp": str(int(NOW) + 1)}

    with pytest.raises(SignatureError, match="does not fit"):
        verify(SECRET, signed() | {name: other[name]}, BODY, NOW)


@pytest.mark.parametrize("name", ["x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"])
def test_each_header_must_be_there(name):
    headers = signed()
    del headers[name]

    with pytest.raises(SignatureError, match="must all be there"):
        verify(SECRET, headers, BODY, NOW)


@pytest.mark.parametrize("timestamp", ["now", "-1", "1e9", "9" * 400, "١٨٠٠٠٠٠٠٠٠", "1800000000.0"])
def test_a_time_that_is_none_is_refused(timestamp):
    with pytest.raises(SignatureError, match="must be seconds since 1970"):
        verify(SECRET, signed() | {"x-mlflow-timestamp": timestamp}, BODY, NOW)


@pytest.mark.parametrize("change", [lambda s: s.replace("v1,", "v2,"), lambda s: s[3:], lambda s: "v1,"])
def test_a_signature_of_another_kind_is_refused(change):
    headers = signed()

    with pytest.raises(SignatureError):
        verify(SECRET, headers | {"x-mlflow-signature": change(headers["x-mlflow-signature"])}, BODY, NOW)


def test_a_signature_that_is_no_base64_is_refused():
    with pytest.raises(SignatureError, match="is no 'v1,<base64>'"):
        verify(SECRET, signed() | {"x-mlflow-signature": "v1,ü!"}, BODY, NOW)
