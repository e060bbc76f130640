"""`muster up` uses existing servers that a configuration file names: NATS with TLS, and PostgreSQL."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from muster.embedded.nats_server import NatsServer
from tests.fixtures.releases.make import runs
from tests.support.certificates import CertificateAuthority
from tests.support.eventually import eventually
from tests.support.fleet import Fleet
from tests.support.servers import running
from tests.support.stack import running_stack
from tests.support.tls_nats import TlsNats


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca")


@pytest.fixture
def tls_nats(tmp_path: Path, authority: CertificateAuthority) -> Iterator[NatsServer]:
    with running(TlsNats(tmp_path, authority, authority.signed("nats"), asks_for_one=False)) as server:
        yield server


@pytest.mark.stress
@pytest.mark.timeout(240)
async def test_tasks_and_agents_run_over_tls_on_servers_of_a_configuration_file(
    tmp_path: Path, database_url: str, authority: CertificateAuthority, tls_nats: NatsServer
) -> None:
    (tmp_path / "database").write_text(database_url)
    config = tmp_path / "m.yaml"
    config.touch(mode=0o600)
    config.write_text(
        f"nats_url: {tls_nats.url}\nnats_tls_ca_file: {authority.file}\ndatabase_url_file: {tmp_path / 'database'}\n"
        f"agent_manager:\n  max_running: 2\n"
    )
    async with running_stack(tmp_path, env={"MUSTER_CONFIG": str(config)}) as stack:
        assert not stack.pids.keys() & {"nats", "postgres"}
        fleet = Fleet(stack)
        task = await fleet.ended((await fleet.submit()).task_id)
        assert task.state == "completed"
        told = {"name": "ada", "package": "echo", "mode": "process"}
        status, body = await fleet.call("POST", "/api/v1/agents", told)
        assert status == 201, body
        agent_id = msgspec.json.decode(body)["agent_id"]
        status, body = await fleet.call("POST", f"/api/v1/agents/{agent_id}/start", {})
        assert status == 202, body
        await eventually(partial(runs, fleet, agent_id))
