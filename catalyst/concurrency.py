"""Helpers for tasks: gathers that wait for all, the errors inside a group, and a dict without ended tasks."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def gather_all(coroutines: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Await all coroutines and return their results in order; raise the first error once all have ended."""
    results: list[T] = []
    for result in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


async def gather_both(
    first: Coroutine[object, object, T], second: Coroutine[object, object, U]
) -> tuple[T, U]:
    """Await two coroutines and return both results; raise the first error once both have ended."""
    first_result, second_result = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(first_result, BaseException):
        raise first_result
    if isinstance(second_result, BaseException):
        raise second_result
    return first_result, second_result


def leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside nested exception groups; an error that is not a group is yielded itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaf_errors(inner)
    else:
        yield error


def drop_done(tasks: dict[int, "asyncio.Task[T]"]) -> None:
    """Remove the tasks that have ended, so that the dict does not grow with each that ever ran."""
    for key in [key for key, task in tasks.items() if task.done()]:
        del tasks[key]
