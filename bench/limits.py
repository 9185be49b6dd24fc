"""The bare limits that the gateway is measured against: ASGI apps that do nothing but what can't be left out.

`uvicorn bench.limits:parse` reads the JSON and gives a constant answer; `uvicorn bench.limits:batch` scores everything
that is pending in one call of the bare scikit-learn model, on the event loop, with no checks, no routing and no log.
The model is the folder in BENCH_MODEL, as `mlflow.sklearn.save_model` wrote it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_HEADERS = [(b"content-type", b"application/json")]


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def parse(scope: Scope, receive: Receive, send: Send) -> None:
    """A constant answer to whatever can be parsed."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    orjson.loads(await _body(receive))
    await _answer(send, b'{"predictions": [1]}')


class _Batch:
    def __init__(self) -> None:
        import mlflow

        self.model = mlflow.sklearn.load_model(os.environ["BENCH_MODEL"])
        self.pending: list[tuple[list[float], asyncio.Future[Any]]] = []

    def score(self, row: list[float]) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.pending.append((row, future))
        if len(self.pending) == 1:
            loop.call_soon(self.run)
        return future

    def run(self) -> None:
        pending, self.pending = self.pending, []
        answers = self.model.predict(np.array([row for row, _ in pending])).tolist()
        for (_, future), answer in zip(pending, answers, strict=True):
            if not future.done():
                future.set_result(answer)


_batch: _Batch | None = None


async def batch(scope: Scope, receive: Receive, send: Send) -> None:
    """The bare model, on everything that is pending."""
    global _batch  # noqa: PLW0603  # one a process, made before the first request
    if scope["type"] == "lifespan":
        _batch = _Batch()
        await _lifespan(receive, send)
        return
    assert _batch is not None  # noqa: S101  # for the type checker
    row = orjson.loads(await _body(receive))["dataframe_split"]["data"][0]
    await _answer(send, orjson.dumps({"predictions": [await _batch.score(row)]}))
