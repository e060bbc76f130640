"""A separate NATS server, started with the shipped configuration files and a generated identity."""

import os
import subprocess
import sys
from pathlib import Path

from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.bus.connection import open_bus
from muster.common.settings import AuthoritySettings
from muster.embedded.nats_server import nats_binary
from muster.embedded.parts import free_port
from tests.support.house import ROOT
from tests.support.identity import is_let_in
from tests.support.patience import PATIENCE_S

PROVISION = [sys.executable, "-m", "muster.embedded.provision"]


async def test_server_with_the_shipped_configuration_and_a_new_identity_keeps_revocations(
    tmp_path: Path,
) -> None:
    identity, port = tmp_path / "identity", free_port()
    for _ in range(2):  # the second time changes nothing
        subprocess.run([*PROVISION, str(identity)], check=True, timeout=60)
    shipped = (ROOT / "deploy" / "nats" / "nats.conf").read_text()
    assert {path.stat().st_mode & 0o777 for path in identity.rglob("*") if path.is_file()} == {0o600}
    ours = shipped.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("/var/lib/muster", str(tmp_path))
    (identity / "nats.conf").write_text(ours)

    env = dict(line.split("=", 1) for line in (identity / "authority.env").read_text().splitlines())
    named = {name.removeprefix("MUSTER_").lower(): value for name, value in env.items()}
    url = f"nats://127.0.0.1:{port}"
    settings = AuthoritySettings(nats_url=url, **named)  # pyright: ignore[reportArgumentType] - as the environment is
    guardian = identity / "creds" / "guardian.creds"
    command = [nats_binary(), "-c", str(identity / "nats.conf")]

    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}) as server:
        try:
            async with (
                open_bus(url, "guardian", credentials=guardian, wait_s=PATIENCE_S),
                AgentAuthority(settings) as authority,
            ):
                revoked = authority.mint("agt_gone", 1, 600)
                assert await is_let_in(url, revoked)
                await authority.revoke("agt_gone", 1)
        finally:
            server.kill()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}) as server:
        try:
            async with open_bus(url, "guardian", credentials=guardian, wait_s=PATIENCE_S):
                assert not await is_let_in(url, revoked)
        finally:
            server.kill()


def test_wrong_arguments_are_reported() -> None:
    said = subprocess.run(PROVISION, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stderr) == (2, "usage: python -m muster.embedded.provision FOLDER\n")
