"""HTTP calls to servers of versions: pooled, bounded in time and in size, with every reason told."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

_OK = 200
_REDIRECTS = range(300, 400)
_SHOWN = 300
# Idle connections go before a server closes them (gunicorn after 2 s, uvicorn after 5 s): a request that meets a
# connection on its way down is lost, and may not be sent again, because the server may have begun with it.
_IDLE_SECONDS = 1.5


class UpstreamError(Exception):
    """There is no answer, and asking for a part of the rows would not help."""


class RefusedError(UpstreamError):
    """The server took the request and answered that it fails; fewer rows of it may do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every call.

    Attributes:
        connect_seconds: Time that a new connection may take.
        max_bytes: Largest answer.
    """

    connect_seconds: float
    max_bytes: int


class UpstreamHttp:
    """One pool of connections to all servers. Belongs to the event loop that it is first used on.

    Args:
        limits: Bounds of every call.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close the connections."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    async def call(
        self,
        method: str,
        url: str,
        body: bytes | None,
        seconds: float,
        *,
        fresh: bool = False,
        token: str | None = None,
    ) -> bytes:
        """The body of a good answer.

        It is sent a second time only where a pooled connection turned out to be closed before a byte was sent.

        Args:
            method: GET or POST.
            url: Where to.
            body: JSON, or None.
            seconds: Time for all of it.
            fresh: Use a connection that nobody has used: a server that failed on a request may be hanging up.
            token: Bearer token to show, or None.

        Raises:
            TimeoutError: It took longer.
            RefusedError: The answer is 4xx or 5xx, other than that it has no room now.
            UpstreamError: There is no answer, or none that can be used.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._once(method, url, body, fresh, headers)
                except aiohttp.ClientConnectionError as error:
                    if not _nothing_sent(error):
                        raise
                    return await self._once(method, url, body, fresh, headers)
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamError(f"no connection to {url} within {self._limits.connect_seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise UpstreamError(f"no answer from {url}: {type(error).__name__}: {error}") from error

    async def _once(self, method: str, url: str, body: bytes | None, fresh: bool, headers: Mapping[str, str]) -> bytes:
        session = self._sessions.get(fresh) or self._sessions.setdefault(fresh, self._session(fresh))
        async with session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
            content = await self._read(answer, url)
            if answer.status == _OK:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise UpstreamError(f"{url} answered packed ({answer.headers['Content-Encoding']}), must be plain")
                return content
            said = _said(content)
            if answer.status in _REDIRECTS:
                where = answer.headers.get("Location", "nowhere")[:_SHOWN]
                raise UpstreamError(f"{url} answered {answer.status}, a redirect to {where}; set its own address")
            if answer.status in (429, 503):
                raise UpstreamError(f"{url} answered {answer.status}, it has no room: {said}")
            raise RefusedError(f"{url} answered {answer.status}: {said}")

    def _session(self, fresh: bool) -> aiohttp.ClientSession:
        keeping: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": _IDLE_SECONDS}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, **keeping),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_seconds),
            headers={"Accept-Encoding": "identity"},  # a small body could unpack to any size
            auto_decompress=False,
        )

    async def _read(self, answer: aiohttp.ClientResponse, url: str) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_any():
            size += len(part)
            if size > self._limits.max_bytes:
                answer.close()
                raise UpstreamError(f"{url} answered more than {self._limits.max_bytes} bytes; ask for fewer rows")
            parts.append(part)
        return b"".join(parts)


def _said(content: bytes) -> str:
    """What a server says about its failure: of a traceback, the last line."""
    text = content.decode(errors="replace").strip()
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        told = None
    if isinstance(told, dict):  # MLflow has `message` and `stack_trace`, MLServer `error`, FastAPI `detail`
        found = (told.get(key) for key in ("stack_trace", "error", "message", "detail"))
        text = next((value.strip() for value in found if isinstance(value, str) and value.strip()), text)
    return (text.splitlines()[-1] if "Traceback (most recent call last)" in text else text)[:_SHOWN]


def _nothing_sent(error: aiohttp.ClientConnectionError) -> bool:
    """Whether the connection was closed already when the first byte was to be written."""
    reset = aiohttp.ClientConnectionResetError
    return isinstance(error, reset) or isinstance(error.__cause__, reset)
