"""Asks the gateway which versions it has loaded."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from model_rollouts.core.errors import NotReadyError

_TIMEOUT = (3.0, 5.0)  # seconds to connect, and to answer
_OK = 200


class GatewayClient:
    """A gateway at an address. Implements `ports.Gateways`.

    Args:
        url: Its address, such as http://127.0.0.1:8600.
        token: The bearer token that it asks for, if any.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def status(self, model: str) -> dict[str, Any]:
        """The model's status as docs/contracts.md has it.

        Raises:
            NotReadyError: The gateway does not answer, or does not serve the model.
        """
        address = f"{self._url}/models/{quote(model, safe='')}/status"
        try:
            answer = requests.get(address, headers=self._headers, timeout=_TIMEOUT)
        except requests.RequestException as error:
            raise NotReadyError(
                f"no gateway answers at {self._url} ({type(error).__name__}); start it (rollouts gateway) "
                "or set MODEL_ROLLOUTS_GATEWAY_URL"
            ) from error
        try:
            content = answer.json()
        except requests.JSONDecodeError:
            content = None
        if answer.status_code != _OK or not isinstance(content, dict):
            said = content.get("message") if isinstance(content, dict) else None
            raise NotReadyError(
                f"the gateway at {self._url} has no status of {model}: HTTP {answer.status_code}, "
                f"{said or answer.text[:200]!r}; look at {self._url}/status"
            )
        return content

    def versions(self, model: str) -> Mapping[str, str]:
        """State of each version that the gateway keeps: "ready", "loading", or "failed: " with the reason.

        Raises:
            NotReadyError: As for `status`.
        """
        versions = self.status(model).get("versions")
        if not isinstance(versions, dict) or not all(isinstance(state, str) for state in versions.values()):
            raise NotReadyError(f"what answers at {self._url} is no gateway; set MODEL_ROLLOUTS_GATEWAY_URL")
        return versions
