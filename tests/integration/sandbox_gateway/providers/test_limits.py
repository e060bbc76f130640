"""Limits of a sandbox on its host: those of its package, and a fixed size of shared memory."""

import shlex
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.packages import DEFAULT_RESOURCES
from muster.common.contracts.worker_api import Handoff
from muster.shim.client import ShimClient
from tests.support.eventually import eventually
from tests.support.local_sandboxes import LocalWorkers, local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.shim import running_shim

pytestmark = pytest.mark.isolation

MANIFEST = """
name = "bounded"
type = "custom"
version = "0.1.0"
module = "bounded"
[resources]
open_files = 77
cpu_s = 1234
memory_bytes = 1073741824
"""
SAYS_LIMITS = """
import resource
names = ("NOFILE", "CPU", "DATA", "FSIZE", "NPROC")
print([resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in names])
"""
LIMITS = str([77, 1234, 2 << 30, DEFAULT_RESOURCES.file_bytes, DEFAULT_RESOURCES.processes])
SHM = "import os; at = os.statvfs('/dev/shm'); print(at.f_blocks * at.f_frsize)"
ASKED = CreateSandbox(
    sandbox_id="sbx_1",
    task_id="tsk_1",
    agent_id="agt_1",
    epoch=1,
    conversation_id="cnv_1",
    package="bounded",
    model="none",
    objective="-",
)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncGenerator[LocalWorkers]:
    package = tmp_path / "packages" / "bounded"
    package.mkdir(parents=True)
    (package / "agent.toml").write_text(MANIFEST)
    (package / "__main__.py").write_text(SAYS_LIMITS)
    (tmp_path / "gate").mkdir()
    with running_shim("bubblewrap") as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=PATIENCE_S)
            provider = local_sandboxes(shim, tmp_path / "sandboxes", gateway_socket=tmp_path / "gate" / "gateway.sock")
            yield LocalWorkers(provider, tmp_path, packages=[package.parent])


async def said(local: LocalWorkers, command: str) -> str:
    await local.prepare(ASKED)
    return (await local.run(ASKED, command, command, PATIENCE_S)).output.strip()


async def test_a_worker_gets_the_limits_of_its_package(local: LocalWorkers) -> None:
    place, _ = await local.prepare(ASKED)
    told = Handoff(
        gateway_url="http://gateway",
        token="-",
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="cnv_1",
        package="bounded",
        model="none",
        objective="-",
        workspace=place.workspace,
        state_dir=place.state_dir,
        timeout_s=60,
    )
    await local.start(ASKED, told)

    async def output() -> bytes:
        return (await local.provider.logs("sbx_1", limit=1000)).body

    assert (await eventually(output)).decode().strip() == LIMITS


async def test_a_command_in_a_sandbox_gets_the_limits_of_its_package(local: LocalWorkers) -> None:
    assert await said(local, f"{sys.executable} -c {shlex.quote(SAYS_LIMITS)}") == LIMITS


async def test_shared_memory_is_bounded_and_devices_hold_no_files(local: LocalWorkers) -> None:
    assert int(await said(local, f"{sys.executable} -c {shlex.quote(SHM)}")) == 64 << 20
    assert await said(local, "touch /dev/a-file 2>&1; echo > /dev/null && touch /dev/shm/a-file && echo fine") == (
        "touch: cannot touch '/dev/a-file': Read-only file system\nfine"
    )


async def test_of_the_hosts_tls_files_only_certificates_and_settings_are_there(local: LocalWorkers) -> None:
    there = (await said(local, "ls /etc/ssl /etc/pki/tls 2>/dev/null")).split()
    assert "private" not in there
    assert ("certs" in there) == Path("/etc/ssl/certs").exists()
