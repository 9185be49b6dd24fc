"""Bearer tokens with roles: what the gateway keeps of them, and what each may do. Pure.

A token is random and long, so its plain SHA-256 tells nobody what it is. The gateway keeps that alone.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from model_rollouts.core.errors import RolloutError

MOST_TOKENS = 100  # each call is compared with all of them, whichever it has
LEAST_TOKEN_CHARS = 32  # of a token that somebody else has made

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_DIGEST = re.compile(r"sha256=([0-9a-f]{64})")
_PREFIX = "mrt_"  # so that who scans files for secrets finds it
_RANDOM_BYTES = 32


class TokensError(RolloutError, ValueError):
    """The tokens can't be read; the message holds none of them."""


class Role(StrEnum):
    """What a token is for. None of them holds another: a prediction of an operator would be evidence."""

    PREDICT = "predict"  # predictions, and the metadata of models
    OUTCOMES = "outcomes"  # labels and values
    METRICS = "metrics"  # Prometheus
    ADMIN = "admin"  # status, probes, packages, metrics, metadata: what Airflow asks
    TESTER = "tester"  # as X-Rollouts-Token: chooses the arm


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Token:
    """One caller's token.

    Attributes:
        name: What logs and metrics call it.
        roles: What it is for.
        digest: SHA-256 of the token.
    """

    name: str
    roles: frozenset[Role]
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, roles: Iterable[Role], token: str) -> "Token":
        """What is kept of a token.

        Args:
            name: What logs and metrics call it.
            roles: What it is for.
            token: The token; must not be empty.
        """
        return cls(name, frozenset(roles), digest_of(token.encode()))


def digest_of(token: bytes) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token).digest()


def new_token() -> str:
    """A token that nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def line_of(token: Token) -> str:
    """A token's line in the file.

    Raises:
        TokensError: Its name can't be in one, or it has no role.
    """
    line = f"{','.join(sorted(token.roles))}:{token.name}:sha256={token.digest.hex()}"
    _read(line)
    return line


def parse_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file: one a line, `role,role:name:sha256=<hex>`. Blank lines, and those after #, say nothing.

    Args:
        text: All of the file.

    Raises:
        TokensError: A line is none, a name or a token is there twice, or there is no token; says which line, and
            nothing of what might be a token.
    """
    tokens: dict[str, Token] = {}
    lines_of: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = _read(line.strip())
        except TokensError as error:
            raise TokensError(f"line {number}: {error}") from None
        if token.name in tokens:
            raise TokensError(f"line {number}: the name {token.name!r} is there twice; give each token its own")
        if token.digest in lines_of:
            raise TokensError(f"line {number}: the token of line {lines_of[token.digest]} is there again; keep one")
        tokens[token.name], lines_of[token.digest] = token, number
        if len(tokens) > MOST_TOKENS:
            raise TokensError(f"there are more than {MOST_TOKENS} tokens; remove those that nobody uses any more")
    if not tokens:
        raise TokensError("there is no token; make one with: rollouts token new")
    return tuple(tokens.values())


def _read(line: str) -> Token:
    parts = [part.strip() for part in line.split(":")]
    if len(parts) != 3:  # noqa: PLR2004  # roles, name, digest
        raise TokensError(f"there are {len(parts)} parts between colons, must be 3: role,role:name:sha256=<hex>")
    roles, name, kept = parts
    known: set[Role] = set()
    for role in roles.split(","):
        try:
            known.add(Role(role.strip()))
        except ValueError:  # a token at the wrong place is not told either
            said = repr(role.strip()) if len(role) <= len(max(Role, key=len)) else f"a text of {len(role)} characters"
            raise TokensError(f"the role is {said}, must be one of {', '.join(Role)}") from None
    if not _NAME.fullmatch(name):
        raise TokensError(
            f"the name has {len(name)} characters, must have 1 to 64: letters, digits and . _ @ / -, and must begin "
            "with a letter or digit"
        )
    found = _DIGEST.fullmatch(kept)
    if found is None:
        raise TokensError(
            "the last part must be sha256= and 64 hexadecimal digits in lower case; a token itself does not belong "
            "here: make a line with: rollouts token new"
        )
    return Token(name, frozenset(known), bytes.fromhex(found[1]))
