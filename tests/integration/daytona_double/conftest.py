"""A double of Daytona and the real SDK's asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daytona import connected

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from muster.daytona_double import DaytonaDouble
    from tests.support.daytona import StartDouble


@pytest.fixture
def start_double(tmp_path: Path) -> Iterator[StartDouble]:
    """Return a function that starts a double; all end with the test."""
    from muster.daytona_double import serving

    with ExitStack() as running:

        def start(**options: Any) -> DaytonaDouble:
            return running.enter_context(serving(tmp_path / "double", **options))

        yield start


@pytest.fixture
def double(start_double: StartDouble) -> DaytonaDouble:
    """A double with its defaults."""
    return start_double()


@pytest.fixture
async def client(double: DaytonaDouble) -> AsyncIterator[AsyncDaytona]:
    """The SDK's asynchronous client of `double`."""
    async with connected(double) as client:
        yield client


@pytest.fixture
async def sandbox(client: AsyncDaytona) -> AsyncSandbox:
    """A started sandbox in `double`."""
    from daytona import CreateSandboxFromSnapshotParams

    params = CreateSandboxFromSnapshotParams(name="one", labels={"team": "a"}, env_vars={"COLOUR": "blue"})
    return await client.create(params)
