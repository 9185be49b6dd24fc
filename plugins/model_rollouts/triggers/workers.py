"""Threads of a triggerer that look at rollouts: few, the same for all of them, and served in turn.

A look is work of tenths of a second for the processor. As many threads as there are rollouts would only take turns at
it, each with a query in memory; so there are a few, and who is due first is looked at first.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_ASKING = 2  # threads for questions of milliseconds, which must not wait behind looks


class Workers:
    """The threads of one process and event loop.

    Args:
        looking: How many looks are made at once, 2 or more.
    """

    def __init__(self, looking: int) -> None:
        self._looking = ThreadPoolExecutor(looking, thread_name_prefix="rollout-look")
        self._asking = ThreadPoolExecutor(_ASKING, thread_name_prefix="rollout-ask")
        # A triggerer that has just started has all looks to make at once. Those take turns, so that the other threads
        # are free for the looks that come due meanwhile.
        self._first = asyncio.Semaphore(looking - 1)

    async def look(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what takes a while, after what was asked for before."""
        return await self._in(self._looking, work, *args, **kwargs)

    async def first_look(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for a rollout that has just come: one thread at least is left to those that are due."""
        async with self._first:
            return await self._in(self._looking, work, *args, **kwargs)

    async def ask(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what takes milliseconds."""
        return await self._in(self._asking, work, *args, **kwargs)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        context = copy_context()  # by which Airflow knows whose log a line belongs to
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(work, *args, **kwargs))


_made: dict[tuple[int, int], Workers] = {}


def workers() -> Workers:
    """This process's and event loop's; made on first use."""
    place = os.getpid(), id(asyncio.get_running_loop())
    if place not in _made:
        from model_rollouts.wiring import shared

        _made.clear()  # those of a loop that has ended, or of the process that this one was forked from
        _made[place] = Workers(shared().settings.watch_threads)
    return _made[place]
