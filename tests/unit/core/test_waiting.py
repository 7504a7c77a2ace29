"""Errors of several tasks, and cancellations among them."""

import asyncio

import pytest

from paramserver.errors import Unreachable
from paramserver.waiting import all_of, end


async def fail() -> None:
    raise Unreachable("it failed")


async def test_the_first_error_is_raised_as_it_is_and_ends_the_others() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    with pytest.raises(Unreachable, match="it failed"):
        await all_of([other(), fail()])
    assert ended.is_set()

    async def give(value: int) -> int:
        return value

    assert await all_of(give(number) for number in range(3)) == [0, 1, 2]


async def test_a_failure_leaves_no_cancellation_behind() -> None:
    async def late() -> None:
        async with asyncio.timeout(0.01):
            with pytest.raises(Unreachable):
                await all_of([asyncio.sleep(3600), fail()])
            await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        await late()


async def test_a_cancellation_ends_all() -> None:
    begun, ended = asyncio.Event(), []

    async def one(number: int) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(number)

    task = asyncio.create_task(all_of(one(number) for number in range(2)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [0, 1]


async def test_a_task_is_ended_though_its_group_swallows_a_cancellation() -> None:
    ending = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ending.set()
            await asyncio.sleep(0.01)

    async def again() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(slow())
                    await asyncio.sleep(0)
                    raise Unreachable("it failed")
            except* Unreachable:
                await asyncio.sleep(0.01)

    task = asyncio.create_task(again())
    await ending.wait()
    await end(task)
    assert task.cancelled()
