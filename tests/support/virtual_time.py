"""Run a coroutine on a loop whose clock jumps to the next timer, so that a day of waiting takes milliseconds.

looptime's pytest plugins are off (`-p no:looptime_plugin` and others), because they open an event loop for every
synchronous test and do not close it.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import looptime


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make an async test run in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run
