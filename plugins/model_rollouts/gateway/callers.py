"""Who calls, by the token that they show, and whether they may."""

import hmac
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from model_rollouts.gateway.errors import ForbiddenError, UnauthorizedError
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.token_file import TokenFile
from model_rollouts.gateway.tokens import ALL_ROLES, Role, Token, digest_of

OPEN = frozenset({"/ping", "/health", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
ALLOWED, FORBIDDEN, UNKNOWN = "allowed", "forbidden", "unauthenticated"

_BEARER = b"bearer "
_SAID_SECONDS = 60.0  # at most once in that time a refusal of one kind is in the log: anybody can cause them
_MOST_SAID = 1_000

_FOR_EVERYBODY = frozenset({"/version", "/openapi.json", "/v2", "/v2/"})
_OUTCOMES = re.compile(r"/models/[^/]+/outcomes")
_PREDICTIONS = frozenset({Role.PREDICT})
_OF_OUTCOMES = frozenset({Role.OUTCOMES})
_OF_METRICS = frozenset({Role.METRICS, Role.ADMIN})
_OF_METADATA = frozenset({Role.PREDICT, Role.ADMIN})
_OF_ADMIN = frozenset({Role.ADMIN})

_log = structlog.get_logger(__name__)


def roles_for(method: str, path: str, *, predicts: bool) -> frozenset[Role]:
    """The roles that a call may be made with, one of which is enough. What is not listed is for admins.

    Args:
        method: HTTP's.
        path: As the application's routes see it.
        predicts: Whether the call is for predictions.
    """
    if predicts:
        return _PREDICTIONS
    if method == "POST":
        return _OF_OUTCOMES if _OUTCOMES.fullmatch(path) else _OF_ADMIN
    if path in _FOR_EVERYBODY:
        return ALL_ROLES
    if path == "/metrics":
        return _OF_METRICS
    return _OF_METADATA if path.startswith("/v2/models/") else _OF_ADMIN


class Callers:
    """Knows callers by their tokens.

    Args:
        fixed: Tokens of the settings.
        file: More of them, which come and go.
        count: Told the name of a token and ALLOWED or FORBIDDEN; or "" and UNKNOWN.
    """

    def __init__(
        self,
        fixed: Sequence[Token] = (),
        file: TokenFile | None = None,
        count: Callable[[str, str], None] = lambda *_: None,
        *,
        guarded: bool = True,
    ) -> None:
        self.guarded = guarded
        self._fixed = tuple(fixed)
        self._file = file
        self._count = count
        self._used: set[Token] = set()
        self._said: dict[tuple[str, str], float] = {}

    @classmethod
    def of(cls, settings: GatewaySettings, count: Callable[[str, str], None] = lambda *_: None) -> "Callers":
        """Those of the settings.

        Raises:
            TokensError: The file of tokens can't be read.
        """
        fixed = []
        for name, secret, roles in (
            ("MODEL_ROLLOUTS_GATEWAY_TOKEN", settings.gateway_token, ALL_ROLES - {Role.TESTER}),
            ("MODEL_ROLLOUTS_TESTER_TOKEN", settings.tester_token, frozenset({Role.TESTER})),
        ):
            text = secret.get_secret_value() if secret is not None else ""
            if text:  # an empty one is nobody's
                fixed.append(Token.of(name, roles, text))
        path = settings.gateway_tokens_file
        file = None if path is None else TokenFile(path)
        return cls(fixed, file, count, guarded=settings.gateway_token is not None or file is not None)

    def start(self) -> None:
        """Begin to follow the file."""
        if self._file is not None:
            self._file.start()

    def stop(self) -> None:
        """Follow it no more."""
        if self._file is not None:
            self._file.stop()

    @property
    def problem(self) -> str | None:
        """Why the file as it is now is not in force; None: it is, or there is none."""
        return None if self._file is None else self._file.problem

    def status(self) -> dict[str, Any]:
        """Who may call."""
        tokens = {token.name: sorted(token.roles) for token in self._all()}
        return {"guarded": self.guarded, "tokens": tokens, "error": self.problem}

    def known(self, authorization: bytes | None) -> Token:
        """The caller, by the header Authorization.

        Raises:
            UnauthorizedError: It shows no token, or one that is not known.
        """
        found = None
        if authorization is not None and authorization[: len(_BEARER)].lower() == _BEARER:
            found = self._find(authorization[len(_BEARER) :])
        if found is None:
            self._count("", UNKNOWN)
            if self._is_time_to_say("", UNKNOWN):
                _log.warning("caller_unknown", shows="another token" if authorization else "no token")
            raise UnauthorizedError("send the header Authorization: Bearer <token>")
        return found

    def allow(self, caller: Token, roles: frozenset[Role]) -> None:
        """Let a caller go on.

        Args:
            caller: Who calls.
            roles: One of which is enough.

        Raises:
            ForbiddenError: It has none of them.
        """
        if caller.roles.isdisjoint(roles):
            self._count(caller.name, FORBIDDEN)
            needed = " or ".join(sorted(roles))
            if self._is_time_to_say(caller.name, needed):
                _log.warning("caller_forbidden", token=caller.name, roles=sorted(caller.roles), needs=needed)
            raise ForbiddenError(
                f"the token {caller.name} has the role {', '.join(sorted(caller.roles))}, and this call needs {needed}"
            )
        self._count(caller.name, ALLOWED)
        if caller not in self._used:
            self._used.add(caller)
            _log.info("token_used_first", token=caller.name, roles=sorted(caller.roles))

    def is_tester(self, token: bytes | None) -> bool:
        """Whether it is a tester's token."""
        if token is None:
            return False
        found = self._find(token)
        return found is not None and Role.TESTER in found.roles

    def _find(self, token: bytes) -> Token | None:
        """Who has a token. It takes as long for any that is as long, whoever has it and whether or not anybody does."""
        digest, found = digest_of(token), None
        for each in self._all():
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    def _all(self) -> tuple[Token, ...]:
        return self._fixed if self._file is None else self._fixed + self._file.tokens

    def _is_time_to_say(self, *what: str) -> bool:
        now = time.monotonic()
        before = self._said.get((what[0], what[1]))
        if before is not None and now - before < _SAID_SECONDS:
            return False
        if len(self._said) >= _MOST_SAID:
            self._said.clear()
        self._said[what[0], what[1]] = now
        return True
