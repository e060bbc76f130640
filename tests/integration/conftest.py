"""A fixture of several features: one management API for each worker of pytest-xdist."""

from collections.abc import Iterator

import pytest

from muster.embedded.nats_server import NatsServer
from tests.support.api import ADMIN_KEY, ApiProcess, api_process


@pytest.fixture(scope="session")
def api(
    shared_nats: NatsServer, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    """A real API that other tests share; no test may cause a bug in it or log its key."""
    with api_process(shared_nats.url, tmp_path_factory.mktemp("api"), shared_database_url) as process:
        yield process
        assert "Traceback" not in process.log()
        assert ADMIN_KEY not in process.log()
