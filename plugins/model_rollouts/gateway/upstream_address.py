"""Where a version's own server is. It is read from the settings and from nowhere else.

A registry tag that named an address would let anybody who may tag a version send requests, and what they hold, to any
host that this process can reach.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

Protocol = Literal["mlflow", "oip"]

NO_TOKENS: Mapping[str, SecretStr] = MappingProxyType({})

_SCHEME = re.compile(r"(mlflow|oip)\+(https?)://")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_EXAMPLES = "mlflow+http://flights-{version}:8080 or oip+http://kserve:8080/v2/models/{model}/versions/{version}"


@dataclass(frozen=True, slots=True)
class Address:
    """A version's server.

    Attributes:
        protocol: `mlflow` (`mlflow models serve`) or `oip` (Open Inference Protocol: MLServer, KServe, Triton).
        url: Base of its paths, without a slash at its end.
        version: The version that its answers have to name, where the URL asks for one; else "".
        token: What it wants to be shown, or None.
    """

    protocol: Protocol
    url: str
    version: str = ""
    token: str | None = field(default=None, repr=False)


def address_of(
    upstreams: Mapping[str, str], model: str, version: str, tokens: Mapping[str, SecretStr] = NO_TOKENS
) -> Address | None:
    """A version's server; None where it is served in this process.

    Args:
        upstreams: The setting: `model` or `model/version` -> URL template.
        model: Registered model name.
        version: Its number.
        tokens: The setting: a key of `upstreams` -> token of the servers that are named there, and of no others.

    Raises:
        ValueError: The template does not hold, or the names make no address.
    """
    key = f"{model}/{version}" if f"{model}/{version}" in upstreams else model
    if key not in upstreams:
        return None
    found = _address(upstreams[key], model, version, one=key != model)
    return replace(found, token=tokens[key].get_secret_value()) if key in tokens else found


def check(upstreams: Mapping[str, str]) -> None:
    """Refuse what can't hold, before anything is served.

    Raises:
        ValueError: A template is no address, or would send all versions of a model to one server.
    """
    for key, template in upstreams.items():
        model, _, version = key.rpartition("/") if re.fullmatch(r".+/\d+", key) else (key, "", "")
        if not model:
            raise ValueError(f"upstreams has an empty name for {template!r}, must be a model, or model/version")
        try:
            _address(template, "model", version or "1", one=bool(version))
        except ValueError as error:
            raise ValueError(f"upstreams has {template!r} for {key}: {error}") from error


def check_tokens(tokens: Mapping[str, SecretStr], upstreams: Mapping[str, str]) -> None:
    """Refuse tokens that nobody would be shown, or that HTTP can't carry.

    Raises:
        ValueError: A key names no server, or a token is not of visible ASCII characters.
    """
    for key, token in tokens.items():
        if key not in upstreams:
            raise ValueError(f"upstream_tokens has {key!r}, must be one of upstreams: {', '.join(upstreams) or 'none'}")
        if not _TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError(f"upstream_tokens for {key!r} must be visible ASCII characters without blanks")


def _address(template: str, model: str, version: str, *, one: bool) -> Address:
    scheme = _SCHEME.match(template)
    if scheme is None:
        raise ValueError(f"must begin with mlflow+http://, mlflow+https://, oip+http:// or oip+https://: {_EXAMPLES}")
    protocol: Protocol = "mlflow" if scheme[1] == "mlflow" else "oip"
    pattern = f"{scheme[2]}://{template[scheme.end() :].rstrip('/')}"
    if protocol == "oip" and not urlsplit(pattern).path:
        pattern += "/v2/models/{model}" + ("" if one else "/versions/{version}")
    if not one and "{version}" not in pattern:
        raise ValueError(f"must hold {{version}}, or one server would answer for all versions; {_EXAMPLES}")
    url = pattern.replace("{model}", quote(model, safe="")).replace("{version}", quote(version, safe=""))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address: {error}") from error
    host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    if not _HOST.fullmatch(host) or port == 0 or re.search(r"[{}?#\s]", url):
        raise ValueError(f"{url!r} must be host, port and path, without user, query and other braces; {_EXAMPLES}")
    in_path = protocol == "oip" and parts.path.endswith(f"/versions/{quote(version, safe='')}")
    return Address(protocol, url, version if in_path else "")
