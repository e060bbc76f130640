"""Daytona's server, which is the double with a clock of its own, and the provider that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daytona import daytona_sandboxes

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.daytona_double.clock import ManualClock
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes


@pytest.fixture
def clock() -> ManualClock:
    from muster.daytona_double.clock import ManualClock

    return ManualClock()


@pytest.fixture
def double(tmp_path: Path, clock: ManualClock) -> Iterator[DaytonaDouble]:
    from muster.daytona_double import serving

    with serving(tmp_path / "double", clock=clock) as double:
        yield double


@pytest.fixture
async def daytona(double: DaytonaDouble, tmp_path: Path) -> AsyncIterator[DaytonaSandboxes]:
    async with daytona_sandboxes(double, tmp_path / "staging") as provider:
        yield provider
