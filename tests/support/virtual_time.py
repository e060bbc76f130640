"""Run a coroutine on a loop whose clock jumps to the next timer, so that a day of waiting takes a moment.

looptime's pytest plugin is off (`-p no:looptime_plugin` and its kin): it opens an event loop for every synchronous test and leaves it unclosed.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import looptime


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn an async test into one that runs in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run
