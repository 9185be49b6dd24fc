"""Scores rows on one loaded version, for whoever prepares a change of the traffic. Nothing of it is logged."""

from typing import Any

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.inputs import Inputs, off_loop, weight
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.payload import Payload
from model_rollouts.gateway.scorer import Results
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.settings import GatewaySettings


class Prober:
    """Asks versions, whatever the traffic says.

    Args:
        follower: Who is loaded.
        settings: Bounds and time limits.
    """

    def __init__(self, follower: Follower, settings: GatewaySettings) -> None:
        self._follower = follower
        self._settings = settings
        self._inputs = Inputs(settings)

    async def probe(self, model: str, version: str, body: bytes, content_type: str | None) -> list[dict[str, Any]]:
        """One result a row: `status`, `prediction`, `score` and `error`, as the prediction log would have them.

        Args:
            model: Registered model name.
            version: Champion, challenger or previous, by its number.
            body: As for an invocation. At most as many rows as go into one call: callers wait behind it.
            content_type: Of the body.

        Raises:
            VersionNotLoadedError: The version is not loaded here; says how it is.
            GatewayError: The rows do not fit the version's signature.
        """
        loaded = self._follower.version(model, version)
        document, payload = await off_loop(weight(body, content_type), self._read, loaded, body, content_type)
        timeout = self._settings.challenger_timeout_seconds
        results: Results = await loaded.scorer.score(payload, document.params, timeout)
        return [_shown(result) for result in results]

    def _read(self, version: Version, body: bytes, content_type: str | None) -> tuple[Document, Payload]:
        document, reading = self._inputs.parse(version, body, content_type, max_rows=self._settings.max_batch_rows)
        return document, reading.payload


def _shown(result: Answer | Failure) -> dict[str, Any]:
    if isinstance(result, Answer):
        return {"status": "ok", "prediction": result.prediction, "score": result.score, "error": ""}
    return {"status": result.status, "prediction": None, "score": None, "error": result.error}
