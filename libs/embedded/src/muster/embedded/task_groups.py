"""Runs coroutines concurrently, and raises the first error itself instead of an ExceptionGroup."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from typing import Any, Self


async def run_all(*steps: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines concurrently. The first error cancels the other coroutines and is raised."""
    with raise_first_error():
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                tasks.create_task(step)


@contextlib.contextmanager
def raise_first_error() -> Generator[None]:
    """Raise the first error of an ExceptionGroup instead of the group."""
    failure = None
    try:
        yield
    except BaseExceptionGroup as group:
        failure = group.exceptions[0]
    if failure:
        raise failure  # If `except` raised the error, the group would become its `__context__`.


class CancelledOnExit(list[asyncio.Task[None]]):
    """A list of asyncio tasks that are cancelled when the `with` block ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self:
            task.cancel()
