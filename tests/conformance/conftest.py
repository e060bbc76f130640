"""The providers that the conformance suite tests, each by its name. The servers behind them are shared by the tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.faults import Fault
from muster.common.isolation_levels import LEVELS, IsolationLevel
from muster.sandbox_gateway.providers.interface import Provider
from muster.shim.client import ShimClient
from tests.support.eventually import eventually
from tests.support.local_sandboxes import local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.shim import running_shim

if TYPE_CHECKING:  # Every worker of pytest-xdist imports this module, and the SDK takes a second.
    from muster.daytona_double import DaytonaDouble

_numbers = itertools.count()


@dataclass(frozen=True)
class Subject:
    """A provider and the id of a sandbox that no other test uses."""

    provider: Provider
    sandbox_id: str


@pytest.fixture(scope="module")
def shim_sockets() -> Iterator[Callable[[IsolationLevel], Path]]:
    """Return the socket of the shim with an isolation level. Each level has one shim for all tests of the module."""
    with ExitStack() as stack:

        @cache
        def socket_of(level: IsolationLevel) -> Path:
            return stack.enter_context(running_shim(level)).socket

        yield socket_of


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaytonaDouble]:
    """One double of Daytona for all tests of the module."""
    from muster.daytona_double import serving

    with serving(tmp_path_factory.mktemp("daytona") / "double") as double:
        yield double


@asynccontextmanager
async def local(
    request: pytest.FixtureRequest, tmp_path: Path, level: IsolationLevel = "bubblewrap"
) -> AsyncGenerator[Provider]:
    """Open the provider `local` with a real shim."""
    shim_socket: Path = request.getfixturevalue("shim_sockets")(level)
    (tmp_path / "gate").mkdir()
    async with ShimClient(shim_socket) as shim:
        await shim.probe(deadline_s=PATIENCE_S)
        yield local_sandboxes(shim, tmp_path / "sandboxes", gateway_socket=tmp_path / "gate" / "gateway.sock")


@asynccontextmanager
async def daytona(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Provider]:
    """Open the provider `daytona`: the real SDK over HTTP, with the double in place of Daytona's server."""
    from tests.support.daytona import daytona_sandboxes

    double: DaytonaDouble = request.getfixturevalue("double")
    async with daytona_sandboxes(double, tmp_path / "staging", deployment=f"tests-{next(_numbers)}") as provider:
        yield provider


PROVIDERS = {
    "local": local,
    **{f"local-{level}": partial(local, level=level) for level in LEVELS[1:]},
    "daytona": daytona,
}
WEAKER = [pytest.param(f"local-{level}", marks=(pytest.mark.isolation, pytest.mark.stress)) for level in LEVELS[1:]]


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.isolation), *WEAKER, "daytona"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Each provider in turn. Its sandbox is removed afterwards."""
    async with PROVIDERS[request.param](request, tmp_path) as provider:
        yield Subject(provider, sandbox_id := f"sbx_{next(_numbers)}")

        async def deleted() -> bool:
            with suppress(Fault):
                await provider.delete(sandbox_id)
                return True
            return False

        await eventually(deleted)


@pytest.fixture
def provider(subject: Subject) -> Provider:
    """The provider of the subject."""
    return subject.provider


@pytest.fixture
def sandbox_id(subject: Subject) -> str:
    """The id of the subject's sandbox."""
    return subject.sandbox_id


SHORT = (
    "test_a_sandbox_is_made_once_for_its_key",
    "test_a_key_starts_one_process",
    "test_an_ended_process_keeps_its_exit_code_and_its_key",
    "test_output_is_read_by_offset_and_from_the_end",
    "test_an_upload_that_is_cut_in_half_changes_nothing",
)
"""The tests that `make test` runs with Daytona too. `make stress` runs all of them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long tests to `make stress`."""
    for item in items:
        name, _, provider = item.name.partition("[")
        if item.path.parent == Path(__file__).parent and provider == "daytona]" and name not in SHORT:
            item.add_marker(pytest.mark.stress)
