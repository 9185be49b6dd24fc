"""Gathers what can wait a moment, so that the cost of a call and of a write is shared by what came meanwhile."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_MOMENT_SECONDS = 0.01


class Gatherer(Generic[T]):
    """Hands things on in parcels, one after the other, on the event loop.

    Args:
        handle: Takes a parcel; must not raise.
        weight: Of a thing.
        most: Weight after which a parcel is full; one thing may weigh more.
    """

    def __init__(self, handle: Callable[[list[T]], Awaitable[None]], weight: Callable[[T], int], most: int) -> None:
        self._handle = handle
        self._weight = weight
        self._most = most
        self._waiting: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, thing: T) -> None:
        """Hand it on in a moment."""
        self._waiting.append(thing)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    def take_back(self) -> list[T]:
        """What waits, which is not handed on any more."""
        left = list(self._waiting)
        self._waiting.clear()
        return left

    async def settled(self) -> None:
        """Wait until nothing waits, and nothing is being handled."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """End at once, whatever waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._waiting:
                # While there is more than a parcel, others have their turn between two of them, and no more.
                await asyncio.sleep(0 if len(self._waiting) >= self._most else _MOMENT_SECONDS)
                if parcel := self._parcel():
                    await self._handle(parcel)
        finally:
            self._task = None

    def _parcel(self) -> list[T]:
        parcel: list[T] = []
        weight = 0
        while self._waiting and (not parcel or weight + self._weight(self._waiting[0]) <= self._most):
            weight += self._weight(self._waiting[0])
            parcel.append(self._waiting.popleft())
        return parcel
