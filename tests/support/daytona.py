"""Starts a double of Daytona, and connects the real SDK to it.

The double and the SDK are imported inside the functions. Every worker of pytest-xdist imports the modules of all tests, and
the SDK alone takes more than a second of CPU.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.sandbox_gateway.providers.interface import ProcessSpec, SandboxLayout, SandboxSpec

if TYPE_CHECKING:
    from daytona import AsyncDaytona

    from muster.daytona_double import DaytonaDouble
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes

    StartDouble = Callable[..., DaytonaDouble]
    """Starts a double with the options of `serving`."""

ONE = SandboxSpec(sandbox_id="sbx_1", labels={"task": "tsk_1"}, lifetime_s=3600.0)


def sleeping(layout: SandboxLayout) -> ProcessSpec:
    """Return a worker that sleeps for ten minutes."""
    return ProcessSpec(key="worker", argv=["sleep", "600"], cwd=layout.workspace, timeout_s=600.0)


@asynccontextmanager
async def connected(double: DaytonaDouble, *, key: str | None = None) -> AsyncGenerator[AsyncDaytona]:
    """Yield the SDK's asynchronous client of a double, with the double's key or with another."""
    from daytona import AsyncDaytona, DaytonaConfig

    config = DaytonaConfig(api_key=key or double.key, api_url=double.url, target="us")
    async with AsyncDaytona(config) as client:
        yield client


def gateway_settings(double: DaytonaDouble) -> dict[str, str]:
    """Return the settings of a gateway that has the providers `local` and `daytona`, with the double as the server."""
    with socket.socket() as probe:  # Daytona's sandboxes need the port before the gateway has it.
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {
        "MUSTER_PROVIDERS": "local,daytona",
        "MUSTER_DEPLOYMENT": "tests",
        "MUSTER_DAYTONA_API_KEY": double.key,
        "MUSTER_DAYTONA_API_URL": double.url,
        "MUSTER_DAYTONA_GATEWAY_URL": f"http://127.0.0.1:{port}",
        "MUSTER_HTTP_PORT": port,
    }


def runs(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@asynccontextmanager
async def daytona_sandboxes(
    double: DaytonaDouble, staging: Path, *, deployment: str = "tests", **settings: Any
) -> AsyncGenerator[DaytonaSandboxes]:
    """Yield the gateway's provider `daytona` at a double. `settings` are fields of `DaytonaSettings`."""
    from pydantic import SecretStr

    from muster.sandbox_gateway.provider_settings import DaytonaSettings
    from muster.sandbox_gateway.providers.daytona.calls import DaytonaCalls
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes

    chosen = DaytonaSettings(daytona_api_key=SecretStr(double.key), daytona_api_url=double.url, **settings)
    async with connected(double) as client:
        calls = DaytonaCalls(
            client, chosen, deployment=deployment, gateway_url="http://gateway", monotonic=time.monotonic
        )
        yield DaytonaSandboxes(
            calls,
            chosen,
            host="daytona:us",
            gateway_url="http://gateway",
            staging=staging,
            monotonic=time.monotonic,
        )
