"""What can wait a moment is handed on in parcels."""

import asyncio

from model_rollouts.gateway.gathering import Gatherer


def test_what_comes_in_a_moment_is_one_parcel_and_parcels_have_a_limit() -> None:
    async def run() -> None:
        parcels: list[list[int]] = []

        async def handle(parcel: list[int]) -> None:
            parcels.append(parcel)

        gatherer = Gatherer(handle, lambda weight: weight, 4)
        for weight in (1, 2, 1, 3, 9, 1):
            gatherer.add(weight)
        assert len(gatherer) == 6
        await gatherer.settled()
        assert parcels == [[1, 2, 1], [3], [9], [1]]
        gatherer.add(2)
        await gatherer.settled()
        assert parcels[-1] == [2]
        await gatherer.settled()

    asyncio.run(run())


def test_what_comes_while_a_parcel_is_handled_is_in_the_next_one() -> None:
    async def run() -> None:
        parcels: list[list[str]] = []

        async def handle(parcel: list[str]) -> None:
            parcels.append(parcel)
            if len(parcels) == 1:
                gatherer.add("b")
                gatherer.add("c")

        gatherer = Gatherer(handle, lambda _: 1, 10)
        gatherer.add("a")
        await gatherer.settled()
        assert parcels == [["a"], ["b", "c"]]

    asyncio.run(run())


def test_what_is_taken_back_is_not_handed_on() -> None:
    async def run() -> None:
        parcels: list[list[str]] = []

        async def handle(parcel: list[str]) -> None:
            parcels.append(parcel)

        gatherer = Gatherer(handle, lambda _: 1, 10)
        gatherer.add("a")
        assert gatherer.take_back() == ["a"]
        await gatherer.settled()
        assert parcels == []
        gatherer.add("b")
        await gatherer.close()
        assert parcels == []

    asyncio.run(run())
