"""Fixtures of all tests. Each worker of pytest-xdist has separate servers, which start at their first use."""

import gc
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings
from structlog.dev import plain_traceback

from muster.agent_manager.database.schema import migrate
from muster.embedded.nats_server import NatsServer
from muster.embedded.postgres import Postgres
from tests.support.cases import cases
from tests.support.fleet import Fleet
from tests.support.identity import IdentityServer, fresh_identity
from tests.support.reaping import leave_nothing_running
from tests.support.scheduling import WHOLE, OnOneWorker, one_worker
from tests.support.servers import (
    Restartable,
    create_database,
    fresh_nats,
    fresh_postgres,
    run_now,
    running,
    temporary_database,
)
from tests.support.whole_stack import WholeStack, whole_stack

WITHOUT_RERUN = ("tests/unit/", "tests/contract/")
"""Kinds of tests that start no server: one that fails there once is wrong."""
RERUNS = 2
FLAKES = Path(__file__).with_name("FLAKES.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rerun a failed test that starts processes, at most twice."""
    for item in items:
        if "whole" in getattr(item, "fixturenames", ()) and one_worker(item.nodeid) != WHOLE:
            raise pytest.UsageError(
                f"{item.nodeid} uses the shared stack: name its module in tests/support/scheduling.py"
            )
        if not item.nodeid.startswith(WITHOUT_RERUN):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OnOneWorker:
    """Run tests that share an expensive fixture on one worker, in the order of their collection."""
    return OnOneWorker(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection, because the collector would scan all modules and tests for seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every test that was rerun. Repair such a test, or describe the problem in `FLAKES.md`."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("rerun", [])
    if not reports:
        return
    listed = FLAKES.read_text()
    terminalreporter.section("rerun: each is a defect, to be mended or listed in tests/FLAKES.md")
    for report in reports:
        name = report.nodeid.partition("::")[2].partition("[")[0]
        known = "listed" if name in listed else "NOT LISTED"
        # The last line of an exception group is only a frame.
        lines = [text for line in str(report.longrepr).splitlines() if (text := line.strip(" |+-"))]
        terminalreporter.write_line(f"{known}: {report.nodeid}: {lines[-1][:200] if lines else ''}")


settings.register_profile("cases", cases())
settings.load_profile("cases")


def pytest_configure(config: pytest.Config) -> None:
    """Start the test run below a reaper, so that the run leaves no process.

    A script's background job ignores SIGINT and SIGQUIT, and child processes would inherit this, so both signals are
    reset.
    """
    # The default renderer formats the local variables of a traceback, which blocks the event loop for seconds.
    structlog.configure(
        [structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(exception_formatter=plain_traceback)]
    )
    if not hasattr(config, "workerinput"):  # The workers of pytest-xdist are then below the reaper too.
        leave_nothing_running()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running(fresh_nats(tmp_path_factory.mktemp("nats"))) as server:
        yield server


@pytest.fixture
def nats_url(shared_nats: NatsServer) -> str:
    """Return the URL of a NATS server that other tests share: use unique ids, and expect any streams."""
    return shared_nats.url


@pytest.fixture
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restartable]:
    """A separate NATS server for one test, which the test may kill and restart."""
    with running(fresh_nats(tmp_path_factory.mktemp("nats"))) as server:
        yield Restartable(server)


@pytest.fixture(scope="session")
def shared_identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityServer]:
    fresh = fresh_identity(tmp_path_factory.mktemp("identity"))
    with running(fresh.server):
        yield fresh


@pytest.fixture
def identity_server(shared_identity: IdentityServer) -> IdentityServer:
    """A NATS server that requires credentials; other tests share it."""
    return shared_identity


@pytest.fixture
def own_identity_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityServer]:
    """A separate NATS server with credentials for one test, which the test may kill and restart."""
    fresh = fresh_identity(tmp_path_factory.mktemp("identity"))
    with running(fresh.server):
        yield fresh


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with running(fresh_postgres(tmp_path_factory.mktemp("postgres"))) as server:
        yield server


@pytest.fixture
def database_url(shared_postgres: Postgres) -> Iterator[str]:
    """A fresh, empty database in this worker's real PostgreSQL."""
    with temporary_database(shared_postgres) as url:
        yield url


@pytest.fixture(scope="session")
def manager_template(shared_postgres: Postgres) -> str:
    """Name of a database with the manager's newest schema; a copy of it is faster than a migration."""
    run_now(migrate(run_now(create_database(shared_postgres, "manager_template"))))
    return "manager_template"


@pytest.fixture
def manager_database_url(shared_postgres: Postgres, manager_template: str) -> Iterator[str]:
    """A fresh database of the manager's newest schema in this worker's real PostgreSQL."""
    with temporary_database(shared_postgres, like=manager_template) as url:
        yield url


@pytest.fixture(scope="session")
def shared_database_url(shared_postgres: Postgres) -> str:
    """URL of a database that other tests share; a fixture that needs a schema migrates it."""
    return shared_postgres.url_of("muster")


@pytest.fixture
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restartable]:
    """A separate PostgreSQL server for one test, which the test may kill and restart."""
    with running(fresh_postgres(tmp_path_factory.mktemp("postgres"))) as server:
        yield Restartable(server)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    """A real `muster up` that several tests share: use unique names, and do not damage the stack.

    These tests run on one worker, one after the other, so that a run starts only one such stack.
    """
    with whole_stack(tmp_path_factory.mktemp("whole")) as stack:
        yield stack


@pytest.fixture
def fleet(whole: WholeStack) -> Fleet:
    """A client of the shared stack's API."""
    return Fleet(whole.stack)
