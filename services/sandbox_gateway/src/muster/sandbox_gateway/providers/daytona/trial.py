"""Tries Daytona for `muster doctor`: makes a sandbox, runs a command in it, and deletes it."""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from muster.common.contract import encode
from muster.common.contracts.provider_tests import ProviderTestResult, ProviderTestStep
from muster.common.faults import Fault, Unavailable
from muster.sandbox_gateway.providers.daytona.opening import open_daytona
from muster.sandbox_gateway.providers.interface import ProcessSpec, Provider, SandboxSpec
from muster.sandbox_gateway.providers.registry import ProviderSetting
from muster.sandbox_gateway.settings import ModelFileSettings

_WAIT_S = 30.0
_DELETE_S = 30.0
_PAUSE_S = 1.0
_LIFETIME_S = 300.0
_HERE = "http://127.0.0.1"


def run_trial(settings: ModelFileSettings) -> None:
    """Try Daytona with the settings of this process, and write the result to stdout as one line of JSON."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Libraries may print, and only the result may reach stdout.
        out.write(encode(asyncio.run(tried(settings.data_dir))) + b"\n")


async def tried(data_dir: Path) -> ProviderTestResult:
    """Make a sandbox at Daytona, run Python in it, and delete it. A failure is a part of the result."""
    began = time.monotonic()
    steps = list[ProviderTestStep](["settings"])
    try:
        async with open_daytona(_setting(data_dir)) as provider:
            await _try_out(provider, f"doctor-{secrets.token_hex(4)}", steps.append)
    except Fault as fault:
        seconds = time.monotonic() - began
        return ProviderTestResult(provider="daytona", seconds=seconds, failed=steps[-1], error=str(fault))
    return ProviderTestResult(provider="daytona", seconds=time.monotonic() - began)


async def _try_out(provider: Provider, sandbox_id: str, begin: Callable[[ProviderTestStep], None]) -> None:
    begin("create")
    try:
        # A sandbox in which the gateway's programs do not run exists at Daytona too, although `ensure` fails.
        layout = await provider.ensure(SandboxSpec(sandbox_id=sandbox_id, lifetime_s=_LIFETIME_S))
        begin("command")
        argv = [layout.python, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"]
        process = ProcessSpec(key="doctor", argv=argv, cwd=layout.workspace, timeout_s=_WAIT_S)
        await provider.launch(sandbox_id, process)
        ended = await provider.wait(sandbox_id, process.key, deadline_s=_WAIT_S)
        if ended.exit_code != 0:
            raise Unavailable(
                f"{layout.python} in the sandbox is older than Python 3.12; set MUSTER_DAYTONA_SNAPSHOT to a "
                "snapshot with Python 3.12, or MUSTER_DAYTONA_PYTHON"
            )
    except Fault:
        with suppress(Fault):
            await provider.delete(sandbox_id)
        raise
    begin("delete")
    deadline = time.monotonic() + _DELETE_S
    while True:
        try:
            await provider.delete(sandbox_id)
        except Fault:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def _setting(data_dir: Path) -> ProviderSetting:
    return ProviderSetting(
        deployment="doctor",
        data_dir=data_dir,
        gateway_url=os.environ.get("MUSTER_GATEWAY_URL", _HERE),
        gateway_socket=data_dir,
        shim_socket=data_dir,
        egress_socket=data_dir,
        lease_s=60.0,
        network="none",
    )
