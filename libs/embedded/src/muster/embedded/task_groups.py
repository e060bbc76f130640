"""Runs coroutines concurrently, and raises the first error itself instead of an ExceptionGroup."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from typing import Any, Self


async def run_all(*steps: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines concurrently. The first error cancels the others and is raised."""
    with raise_first_error():
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                tasks.create_task(step)


@contextlib.contextmanager
def raise_first_error() -> Generator[None]:
    """Raise the first error of a group instead of the group."""
    failure = None
    try:
        yield
    except BaseExceptionGroup as group:
        failure = group.exceptions[0]
    if failure:
        raise failure  # outside of the handler, so that its cause and context stay unchanged


class CancelledOnExit(list[asyncio.Task[None]]):
    """Tasks that are cancelled when the context is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self:
            task.cancel()
