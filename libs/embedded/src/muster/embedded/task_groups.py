"""Steps side by side, whose first failure is told as itself and not as a group of one."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from typing import Any


async def run_all(*steps: Coroutine[Any, Any, None]) -> None:
    """Run all; the first failure cancels the others."""
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
        raise failure  # outside of the handler: its own cause and context stay what they are
