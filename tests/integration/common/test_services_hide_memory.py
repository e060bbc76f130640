"""Another process of the same user cannot read the environment of a service, which contains secrets."""

import subprocess
import sys

import pytest

from muster.embedded.postgres_user import PostgresUser
from tests.support.patience import PATIENCE_S

# The test uses an ordinary user, because root may read everything. The service ends itself: port 1 has no NATS.
LOOK = """
import os, pathlib, subprocess, sys
with subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, **SECRETS}, stderr=subprocess.DEVNULL) as service:
    try:
        while service.poll() is None:
            try:
                pathlib.Path(f"/proc/{service.pid}/environ").read_bytes()
            except PermissionError:
                print("refused")
                break
    finally:
        service.kill()
"""
ENVIRONMENT = {
    "MUSTER_NATS_URL": "nats://127.0.0.1:1",
    "MUSTER_SHIM_SOCKET": "/nowhere/shim.sock",
    "MUSTER_GATEWAY_URL": "http://127.0.0.1:1",
    "MUSTER_GATEWAY_SOCKET": "/nowhere/gateway.sock",
    "MUSTER_TOKEN_KEYS": "k1:" + "00" * 32,
    "MUSTER_HTTP_PORT": "0",
}


@pytest.mark.parametrize("name", ["sandbox_gateway", pytest.param("guardian", marks=pytest.mark.stress)])
def test_the_environment_of_a_service_is_closed_to_other_processes_of_its_user(name: str) -> None:
    looking = subprocess.run(
        [sys.executable, "-c", LOOK.replace("SECRETS", repr(ENVIRONMENT)), "-m", f"muster.{name}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        preexec_fn=PostgresUser.NAMESPACE.become,
    )
    assert looking.stdout == "refused\n", looking.stderr
