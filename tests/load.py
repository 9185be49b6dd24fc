"""Load with an open loop: what clients of gateways have in common."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Load(Generic[T]):
    """Sends requests from a thread of its own while the block lasts, on the clock, whatever becomes of them.

    Args:
        rate: Requests a second.
        prefix: Of the request ids.
        runner: Runs the coroutine.
    """

    def __init__(
        self, rate: float, prefix: str, runner: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    ) -> None:
        self._rate, self.prefix, self._runner = rate, prefix, runner
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._sent: list[T] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def run_for(self, seconds: float) -> Sequence[T]:
        """Load for so long, and what came of it."""
        with self:
            self._stop.wait(seconds)
        return self._sent

    async def _run(self) -> None:
        """Send what `_ticks` gives, and wait for the answers."""
        raise NotImplementedError

    async def _ticks(self) -> AsyncIterator[tuple[int, float]]:
        """Number of each request, and when it was to leave, once that is."""
        began = time.monotonic()
        for number in itertools.count():
            if self._stop.is_set():
                return
            due = began + number / self._rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            yield number, due

    def _main(self) -> None:
        try:
            self._runner(self._run())
        except BaseException as error:
            self._error = error
