"""Whether a request was signed by the MLflow server that shares our secret.

MLflow signs delivery id, time and body with HMAC-SHA256 (the Standard Webhooks convention) and sends the base64 text as
`v1,<text>` in the header X-MLflow-Signature.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE_SECONDS = 300  # how far the sender's clock may be away; a copy of a request is of no use later
SHORTEST_SECRET = 16  # characters; a shorter one could be found by trying

_VERSION = "v1"
_LONGEST_ID = 200  # MLflow's have 36 characters


class SignatureError(ValueError):
    """The request is not signed, or not by our secret, or too old."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One that is signed.

    Attributes:
        id: Its own, the same in each copy of it.
        sent: When it was signed, seconds since 1970.
    """

    id: str
    sent: int


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> Delivery:
    """Refuse a request that MLflow did not sign just now.

    Args:
        secret: The webhook's secret.
        headers: The request's headers; names in lower case, or found without regard to it.
        body: Its body, as it came.
        now: Seconds since 1970.

    Raises:
        SignatureError: Says what is wrong, and nothing of the secret.
    """
    signature = headers.get("x-mlflow-signature", "")
    delivery, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    if not (signature and delivery and timestamp):
        raise SignatureError("X-MLflow-Signature, X-MLflow-Delivery-Id and X-MLflow-Timestamp must all be there")
    if len(delivery) > _LONGEST_ID:
        raise SignatureError(f"X-MLflow-Delivery-Id has {len(delivery)} characters, must have at most {_LONGEST_ID}")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("9999999999")):
        raise SignatureError(f"X-MLflow-Timestamp is {timestamp[:20]!r}, must be seconds since 1970")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise SignatureError(
            f"X-MLflow-Timestamp is {now - int(timestamp):.0f} s away from the clock here, must be at most "
            f"{TOLERANCE_SECONDS}"
        )
    version, _, text = signature.partition(",")
    try:
        sent = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"X-MLflow-Signature is no '{_VERSION},<base64>'") from error
    signed = f"{delivery}.{timestamp}.".encode() + body
    own = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    if version != _VERSION or not hmac.compare_digest(own, sent):
        raise SignatureError("X-MLflow-Signature does not fit the request; is it the same secret on both sides?")
    return Delivery(delivery, int(timestamp))
