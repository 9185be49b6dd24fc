"""Below the application: bodies that come slowly, and what goes over the wire."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import uvicorn

from model_rollouts.gateway.bodies import Bodies
from model_rollouts.gateway.connections import Connections
from model_rollouts.gateway.errors import BadRequestError, TooLargeError
from model_rollouts.gateway.one_write import OneWriteProtocol, answer


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def coming(*messages: dict[str, Any], seconds: float = 0.0) -> Callable[[], Awaitable[dict[str, Any]]]:
    """ASGI's receive; after the last message nothing comes any more."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(seconds)
        return left.pop(0)

    return receive


def test_a_body_is_put_together() -> None:
    async def run() -> None:
        bodies = Bodies(100)
        assert (
            await bodies.read({}, coming(part(b"ab", more=True), part(b"", more=True), part(b"c", more=False)))
            == b"abc"
        )
        assert await bodies.read({}, coming(part(b"", more=False))) == b""

    asyncio.run(run())


def test_one_that_is_too_large_or_breaks_off_is_refused() -> None:
    async def run() -> None:
        bodies = Bodies(3)
        with pytest.raises(TooLargeError, match="more than 3 bytes"):
            await bodies.read({}, coming(part(b"ab", more=True), part(b"cd", more=True)))
        with pytest.raises(BadRequestError, match="left before"):
            await bodies.read({}, coming(part(b"ab", more=True), {"type": "http.disconnect"}))

    asyncio.run(run())


def test_those_that_do_not_come_are_given_up_and_nobody_else() -> None:
    async def run() -> None:
        bodies = Bodies(100, seconds=0.2)

        async def call(receive: Callable[[], Awaitable[Any]]) -> bytes:
            body = await bodies.read({}, receive)
            await asyncio.sleep(0.5)  # the task lives on: what is given up is the body
            return body

        slow = [asyncio.create_task(call(coming(part(b"a", more=True)))) for _ in range(3)]
        quick = asyncio.create_task(call(coming(part(b"a", more=True), part(b"b", more=False), seconds=0.01)))
        found = await asyncio.gather(*slow, quick, return_exceptions=True)
        assert [str(e) for e in found[:3]] == ["the body took more than 0.2 s to arrive; send it again"] * 3
        assert found[3] == b"ab"
        assert (bodies._reading, bodies._late) == ({}, set())
        again = asyncio.create_task(call(coming(part(b"a", more=True))))
        with pytest.raises(BadRequestError):
            await again

    asyncio.run(run())


def test_a_call_that_is_cancelled_stays_so() -> None:
    async def run() -> None:
        bodies = Bodies(100)
        task = asyncio.create_task(bodies.read({}, coming()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bodies._reading == {}

    asyncio.run(run())


arrived: list[bool] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers by its path: on the short way, or by ASGI's messages."""
    path = scope["path"]
    if path in ("/", "/echo", "/empty", "/hung-up"):
        body = await Bodies(2_000_000).read(scope, receive)
        if path == "/hung-up":
            while (await receive())["type"] != "http.disconnect":
                pass
        said = {"/empty": b"", "/echo": body}.get(path, b"body")
        arrived.append(await answer(scope, send, 200, [(b"content-length", b"%d" % len(said))], said))
        return
    while (await receive()).get("more_body") and path == "/upload":
        pass
    headers = [] if path == "/chunks" else [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/late":
        await asyncio.sleep(0.1)
    if path == "/chunks":
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"HTTP/1.1 \r\n\r\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"" if path == "/chunks" else b"body"})


@asynccontextmanager
async def served(connections: Connections) -> AsyncIterator[int]:
    """The application on a port of its own."""
    http: Any = partial(OneWriteProtocol, all_of_them=connections)
    config = uvicorn.Config(app, port=0, loop="uvloop", http=http, log_level="warning", server_header=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def exchange(*requests: bytes) -> list[bytes]:
    """What comes back, read by read, until the server hangs up."""
    async with served(Connections(10)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reads = []
        for request in requests:
            writer.write(request)
            if request.endswith(b"expect\r\n\r\n"):
                reads.append(await reader.read(65_536))
                writer.write(b"body")
        while data := await reader.read(65_536):
            reads.append(data)
        writer.close()
    return reads


def asked(path: str, method: str = "GET", last: str = "Connection: close") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{last}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("request_bytes", "ends"),
    [
        (asked("/"), b"\r\nconnection: close\r\n\r\nbody"),
        (asked("/empty"), b"\r\n\r\n"),
        (asked("/", "HEAD"), b"\r\n\r\n"),
        (asked("/").replace(b"1.1", b"1.0"), b"\r\nconnection: close\r\n\r\nbody"),
        (asked("/echo", "POST", "Connection: close\r\nContent-Length: 3") + b"abc", b"\r\n\r\nabc"),
    ],
)
def test_head_and_body_come_in_one_piece(request_bytes: bytes, ends: bytes) -> None:
    (answered,) = asyncio.run(exchange(request_bytes))
    assert answered.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert answered.endswith(ends)
    assert answered.count(b"HTTP/1.1") == 1


def test_a_body_that_comes_in_parts_is_read_to_its_end() -> None:
    head = asked("/echo", "POST", "Connection: close\r\nContent-Length: 6")
    assert asyncio.run(exchange(head + b"ab", b"cd", b"ef"))[-1].endswith(b"\r\n\r\nabcdef")


def test_whether_the_caller_was_still_there_is_told() -> None:
    async def run() -> None:
        arrived.clear()
        async with served(Connections(10)) as port:
            for path, there in (("/", True), ("/hung-up", False)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(asked(path, last="X: y"))
                if there:
                    assert (await reader.read(65_536)).endswith(b"body")
                writer.close()
                while len(arrived) < 1 + (not there):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert arrived == [True, False]

    asyncio.run(run())


def test_a_caller_that_does_not_read_is_answered_once_it_does() -> None:
    async def run() -> None:
        size, count = 1_000_000, 20
        async with served(Connections(10)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
            for number in range(count):
                last = "X: y" if number < count - 1 else "Connection: close"
                writer.write(asked("/echo", "POST", f"{last}\r\nContent-Length: {size}") + b"b" * size)
            got = await asyncio.wait_for(reader.read(-1), 30)
            assert got.count(b"HTTP/1.1 200") == count
            assert got.count(b"b" * size) == count
            writer.close()

    asyncio.run(run())


def test_a_head_does_not_wait_for_a_body_that_takes_its_time() -> None:
    head, body = asyncio.run(exchange(asked("/late")))
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"body"


def test_a_body_that_looks_like_a_head_is_not_held_back() -> None:
    answered = b"".join(asyncio.run(exchange(asked("/chunks"))))
    assert answered.endswith(b"2\r\nab\r\nd\r\nHTTP/1.1 \r\n\r\n\r\n0\r\n\r\n")


def test_several_on_one_connection_stay_in_order() -> None:
    answered = b"".join(asyncio.run(exchange(asked("/", last="X: y"), asked("/empty", last="X: y"), asked("/"))))
    assert answered.count(b"HTTP/1.1 200") == 3
    assert answered.endswith(b"body")


def test_a_client_that_asks_whether_to_continue_is_told_at_once() -> None:
    lines = ("Content-Length: 4", "Connection: close", "Expect: 100-continue", "X: expect")
    first, answered = asyncio.run(exchange(asked("/", "POST", "\r\n".join(lines))))
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answered.endswith(b"\r\n\r\nbody")


async def lives(port: int, *sent: bytes, every: float = 0.05, most: float = 1.5) -> float:
    """Seconds until the server hangs up on a client that sends these, and then blanks; `most`: it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, left = time.monotonic(), list(sent)
    closed = asyncio.create_task(_to_the_end(reader))
    while not closed.done() and time.monotonic() - began < most:
        if left:
            writer.write(left.pop(0))
        await asyncio.wait([closed], timeout=every)
    closed.cancel()
    writer.close()
    return time.monotonic() - began


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


HEAD = asked("/", last="X: y")
DRIP = [HEAD[i : i + 1] for i in range(len(HEAD) - 1)]
LATE = {
    "nothing": [],
    "half a head": [HEAD[:20]],
    "a head in drops": DRIP,
    "half of the next head": [HEAD, HEAD[:20]],
    "the next head in drops": [HEAD, *DRIP],
    "blank lines after an answer": [HEAD, *[b"\r\n"] * 100],
}
FINE = {
    "a whole head in pieces": [HEAD[:10], HEAD[10:20], HEAD[20:]],
    "nothing after an answer": [HEAD],
    "one after the other": [HEAD] * 20,
    "a body that takes its time": [asked("/upload", "POST", "Content-Length: 20"), *[b"b"] * 20],
}


def test_a_connection_that_sends_no_whole_head_is_closed_and_no_other() -> None:
    async def run() -> None:
        async with served(Connections(100, head_seconds=0.3)) as port:
            late = asyncio.gather(*(lives(port, *sent) for sent in LATE.values()))
            fine = asyncio.gather(*(lives(port, *sent) for sent in FINE.values()))
            for name, seconds in zip(LATE, await late, strict=True):
                assert 0.25 <= seconds < 1.2, name
            for name, seconds in zip(FINE, await fine, strict=True):
                assert seconds >= 1.5, name

    asyncio.run(run())


def test_more_connections_than_there_is_room_for_are_closed_at_once() -> None:
    async def run() -> None:
        async with served(Connections(2)) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            assert await lives(port, HEAD) < 1.0
            assert await lives(port) < 1.0
            reader, writer = held[0]
            writer.write(HEAD)
            assert (await reader.read(65_536)).startswith(b"HTTP/1.1 200"), "those that are there are served"
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD)
            assert (await reader.read(65_536)).startswith(b"HTTP/1.1 200"), "there is room again"
            writer.close()
            held[1][1].close()

    asyncio.run(run())


def test_open_files_bound_the_connections_and_the_process_takes_what_it_can_get() -> None:
    code = (
        "import resource; from model_rollouts.gateway.connections import within_open_files as within; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000)); "
        "print([within(4096), within(700), resource.getrlimit(resource.RLIMIT_NOFILE)[0]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[744, 700, 1000]"
