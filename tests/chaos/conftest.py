"""One stack for the whole matrix: what survives being hurt again and again is what is wanted."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.stack import running_stack

QUICK_BEATS = {
    "MUSTER_BEAT_RUNNING_S": "0.5",
    "MUSTER_BEAT_IDLE_S": "0.5",
    "MUSTER_BEAT_TTL_RUNNING_S": "3",
    "MUSTER_BEAT_TTL_IDLE_S": "3",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        opening = running_stack(tmp_path_factory.mktemp("chaos"), env=QUICK_BEATS)
        stack = runner.run(opening.__aenter__())
        try:
            yield Fleet(stack)
        finally:
            runner.run(opening.__aexit__(None, None, None))
