"""What may be sent, over real sockets: large heads, bodies without an end, callers that do not read."""

import asyncio
import itertools
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import uvicorn
from tests.gateway.conftest import captured_logs

from model_rollouts.gateway.bodies import Bodies
from model_rollouts.gateway.connections import Connections
from model_rollouts.gateway.errors import GatewayError
from model_rollouts.gateway.one_write import Limits, OneWriteProtocol, answer
from model_rollouts.gateway.settings import GatewaySettings

LIMITS = Limits(head_bytes=2_000, headers=20, all_bytes=1_000_000)
_LARGE = 30_000_000  # more than a connection's buffers hold


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says how many headers and bytes it was sent; `/large` and `/some` answer at length, `/early` before it reads."""
    if scope["path"] == "/early":
        await answer(scope, send, 401, [(b"content-length", b"0")], b"")
        return
    try:
        body = await Bodies(10_000, seconds=0.5).read(scope, receive)
    except GatewayError as error:
        said = str(error).encode()
        await answer(scope, send, 400, [(b"content-length", b"%d" % len(said))], said)
        return
    said = b"%d headers, %d bytes" % (len(scope["headers"]), len(body))
    said = {"/large": b"x" * _LARGE, "/some": b"x" * 9_000}.get(scope["path"], said)
    await answer(scope, send, 200, [(b"content-length", b"%d" % len(said))], said)


class Known(Connections):
    """Has what its server knows of them."""

    state: Any


@asynccontextmanager
async def served(head_seconds: float = 10.0, limits: Limits = LIMITS) -> AsyncIterator[tuple[int, Known]]:
    connections = Known(50, head_seconds)
    http: Any = partial(OneWriteProtocol, all_of_them=connections, limits=limits)
    config = uvicorn.Config(app, port=0, loop="uvloop", http=http, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    connections.state = server.server_state
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1], connections
    server.should_exit = True
    await serving


async def exchange(*parts: bytes, pause: float = 0.02, limits: Limits = LIMITS) -> bytes:
    """All that comes back for these parts until the server hangs up, or has said nothing for a while."""
    async with served(limits=limits) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        got = asyncio.create_task(read(reader))
        for part in parts:
            with suppress(ConnectionError):
                writer.write(part)
                await writer.drain()
            await asyncio.sleep(pause)
        said = await got
        writer.close()
        return said


async def read(reader: asyncio.StreamReader, quiet: float = 1.0) -> bytes:
    said = b""
    with suppress(ConnectionError, TimeoutError):
        while part := await asyncio.wait_for(reader.read(65_536), quiet):
            said += part
    return said


def head(*lines: str, path: str = "/", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def statuses(said: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", said)]


def test_a_head_up_to_the_limits_is_taken() -> None:
    lines = [f"X-{number}: {'v' * 50}" for number in range(18)]
    said = asyncio.run(exchange(head(*lines, "Connection: close")))
    assert statuses(said) == [200]
    assert said.endswith(b"20 headers, 0 bytes")
    one_by_one = [bytes([byte]) for byte in head("Connection: close")]
    assert statuses(asyncio.run(exchange(*one_by_one, pause=0))) == [200]


TOO_LARGE = {
    "a header more": [head(*[f"X-{number}: v" for number in range(20)])],
    "a long value": [head(f"X: {'v' * 3_000}")],
    "a long name": [head(f"{'X' * 3_000}: v")],
    "a long path": [head(path="/" + "p" * 3_000)],
    "values that are long together": [head(*[f"X-{number}: {'v' * 150}" for number in range(15)])],
    "a long value in parts": [head(f"X: {'v' * 3_000}")[i : i + 100] for i in range(0, 3_100, 100)],
    "a large part and a small one": [head(f"X: {'v' * 3_000}")[:-5], head(f"X: {'v' * 3_000}")[-5:]],
    "a value without an end": [head()[:-2] + b"X: " + b"v" * 1_000] + [b"v" * 1_000] * 3,
    "a name without an end": [head()[:-2] + b"X" * 1_000] + [b"X" * 1_000] * 3,
    "a path without an end": [b"GET /" + b"p" * 1_000] + [b"p" * 1_000] * 3,
    "the second request's": [head(), head(f"X: {'v' * 3_000}")],
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_larger_head_is_refused_and_the_connection_closed(name: str) -> None:
    said = asyncio.run(exchange(*TOO_LARGE[name]))
    assert statuses(said) == ([200, 431] if name.startswith("the second") else [431])
    assert b"\r\nconnection: close\r\n" in said
    error = json.loads(said.rpartition(b"\r\n\r\n")[2])
    assert error["error_code"] == "BAD_REQUEST"
    assert "must have at most 20" in error["message"] or "2000 bytes" in error["message"]


def test_by_the_open_protocol_it_is_refused_in_its_own_words() -> None:
    said = asyncio.run(exchange(head(f"X: {'v' * 3_000}", path="/v2/models/m/infer", method="POST")))
    assert json.loads(said.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}


def test_an_error_is_never_taken_for_the_answer_to_the_request_before() -> None:
    """A proxy that sends several requests on one connection would give one caller's refusal to another."""
    slow = head("Content-Length: 5", path="/", method="POST") + b"abc"
    for bad in (head(f"X: {'v' * 3_000}"), b"nonsense\r\n\r\n"):
        pipelined = head() * 3 + bad
        said = asyncio.run(exchange(pipelined))
        assert statuses(said) in ([], [200], [200] * 2, [200] * 3, [200, 200, 200, 431], [200, 200, 200, 400])
    assert statuses(asyncio.run(exchange(slow, b"de" + head("Connection: close")))) == [200, 200]


def test_only_so_many_requests_wait_for_the_answers_before() -> None:
    """Each answer makes room for as many bytes as a connection's buffer holds, and so for thousands of heads."""
    said = asyncio.run(exchange(head() * 16 + head("Connection: close")))
    assert statuses(said) == [200] * 17
    said = asyncio.run(exchange(head() * 3, head() * 18))
    assert statuses(said) == [200] * 3, "the connection ends, and the requests that wait with it"


@pytest.mark.parametrize(
    "first", [b"\x16\x03\x01\x02\x00\x01", b"\x00\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_told_so(first: bytes) -> None:
    assert statuses(asyncio.run(exchange(first))) == [400]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = head("Transfer-Encoding: chunked", method="POST")
ENDLESS = {
    "trailers": [CHUNKED + b"1\r\nx\r\n0\r\n", *[b"X: " + b"v" * 60_000 + b"\r\n"] * 30],
    "one trailer": [CHUNKED + b"1\r\nx\r\n0\r\nX: ", *[b"v" * 60_000] * 30],
    "what follows a chunk's size": [CHUNKED + b"1;", *[b"v" * 60_000] * 30],
    "a body that nobody takes any more": [
        head("Transfer-Encoding: chunked", method="POST", path="/early"),
        *[chunk(b"b" * 60_000)] * 30,
    ],
}


def test_what_follows_the_last_chunk_is_no_header() -> None:
    trailers = b"".join(b"X-%d: v\r\n" % number for number in range(150))
    said = asyncio.run(exchange(CHUNKED + chunk(b"b") + b"0\r\nX-Unit-Id: other\r\n\r\n" + head("Connection: close")))
    assert re.findall(rb"\d+ headers, \d bytes", said) == [b"2 headers, 1 bytes", b"2 headers, 0 bytes"]
    said = asyncio.run(exchange(CHUNKED, chunk(b"b"), b"0\r\n" + trailers, b"\r\n"))
    assert said.endswith(b"2 headers, 1 bytes")


BESIDE = {
    "a trailer": (b"1\r\nx\r\n0\r\nX: ", b"v" * 500),
    "trailers": (b"1\r\nx\r\n0\r\n", b"X:v\r\n" * 100),
    "what follows a chunk's size": (b"1;", b"v" * 500),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_a_body_is_no_longer_than_a_head(name: str) -> None:
    """The parser joins a field's parts anew for each that comes, which takes a square of their number."""

    async def run() -> None:
        async with served() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            first, part = BESIDE[name]
            writer.write(CHUNKED + first)
            got = asyncio.create_task(read(reader, 3.0))
            sent = 0
            with suppress(ConnectionError):
                while not got.done() and sent < 300_000:
                    writer.write(part)
                    await writer.drain()
                    sent += len(part)
                    await asyncio.sleep(0)
            assert statuses(await got) in ([], [413]), "not let in up to the limit of all bytes"
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", ENDLESS)
def test_what_comes_without_an_end_ends_the_connection(name: str) -> None:
    async def run() -> None:
        async with served() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            got = asyncio.create_task(read(reader, 3.0))
            sent = 0
            with suppress(ConnectionError):
                first, *more = ENDLESS[name]
                for part in (first, *more * 5):
                    writer.write(part)
                    await writer.drain()
                    sent += len(part)
                    await asyncio.sleep(0)
                    if got.done():
                        break
            said = await got
            assert set(statuses(said)) <= {400, 401, 413}
            assert sent < 6_000_000, "the sockets' buffers and the limit"
            writer.close()

    asyncio.run(run())


def test_a_body_in_chunks_of_one_byte_is_taken() -> None:
    said = asyncio.run(exchange(CHUNKED + chunk(b"b") * 9_000 + b"0\r\n\r\n"))
    assert said.endswith(b"9000 bytes")


def test_an_early_answer_leaves_room_for_the_rest_of_the_body() -> None:
    early = head("Content-Length: 9000", method="POST", path="/early")
    said = asyncio.run(exchange(early + b"b" * 4_500, b"b" * 4_500 + head("Connection: close")))
    assert statuses(said) == [401, 200]


def test_a_body_that_is_larger_or_does_not_come_is_refused() -> None:
    said = asyncio.run(exchange(head("Content-Length: 20000", method="POST") + b"b" * 20_000))
    assert b"more than 10000 bytes" in said
    said = asyncio.run(exchange(head("Content-Length: 100", method="POST"), *[b"b"] * 20, pause=0.06))
    assert b"took more than 0.5 s to arrive" in said


def test_who_does_not_read_what_was_answered_is_hung_up_on_and_nobody_else() -> None:
    async def run() -> None:
        with captured_logs() as logs:
            async with served(head_seconds=0.2) as (port, connections):
                deaf_reader, deaf = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
                reader, slow = await asyncio.open_connection("127.0.0.1", port, limit=100_000)
                for writer in (deaf, slow):
                    writer.write(head(path="/large"))
                got, until = 0, asyncio.get_running_loop().time() + 15
                while not closed(logs) and asyncio.get_running_loop().time() < until:
                    got += len(await reader.read(100_000))
                    await asyncio.sleep(0.02)
                assert len(connections._stalled) == 1, "the slow one is not done, and not given up"
                for _ in range(100):
                    got += len(await reader.read(100_000))
                assert 10_000_000 < got < _LARGE
                with suppress(ConnectionError):
                    assert len(await deaf_reader.read(-1)) < _LARGE
                slow.close()
                deaf.close()
        assert closed(logs) == 1

    def closed(logs: Any) -> int:
        return sum(entry["not_reading"] for entry in logs if entry["event"] == "connections_closed")

    asyncio.run(run())


LAST = {
    "answered": head("Connection: close", path="/some"),
    "nothing more to say": b"",
}


@pytest.mark.parametrize("name", LAST)
def test_nor_does_a_connection_stay_that_ends_with_something_to_send(name: str) -> None:
    """So little is left that the server never had to stop writing."""

    async def run() -> None:
        async with served(head_seconds=0.2) as (port, connections):
            caller = socket.socket()
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(caller, ("127.0.0.1", port))
            for number in itertools.count(1):
                await loop.sock_sendall(caller, head(path="/some"))
                while connections.state.total_requests < number:  # noqa: ASYNC110  # as above
                    await asyncio.sleep(0)
                if unsent(connections):
                    break
            await loop.sock_sendall(caller, LAST[name])
            if not LAST[name]:
                caller.shutdown(socket.SHUT_WR)
            until = loop.time() + 5
            while unsent(connections) and loop.time() < until:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
            assert not unsent(connections)
            caller.close()

    asyncio.run(run())


def unsent(connections: Known) -> int:
    """Bytes that wait for callers to read."""
    return sum(each.transport.get_write_buffer_size() for each in connections.state.connections)


def test_settings_bound_the_limits() -> None:
    for wrong in ({"max_header_bytes": 100}, {"max_headers": 1}, {"max_header_bytes": 10**9}):
        with pytest.raises(ValueError, match="max_header"):
            GatewaySettings(**wrong)
    one = GatewaySettings()
    assert (one.max_header_bytes, one.max_headers) == (32_768, 100)
