"""Opens the provider `local` of a gateway."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from muster.common.supervision import supervise
from muster.sandbox_gateway.providers.local.disk_watch import DiskWatch
from muster.sandbox_gateway.providers.local.host_id import host_id
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.sandbox_gateway.providers.registry import ProviderSetting
from muster.shim.client import ShimClient


@asynccontextmanager
async def open_local(setting: ProviderSetting) -> AsyncGenerator[LocalSandboxes]:
    """Yield the provider `local`, which is connected to the shim of this host."""
    root = setting.data_dir / "sandboxes"
    async with ShimClient(setting.shim_socket) as shim, asyncio.TaskGroup() as tasks:
        watch = DiskWatch(shim, root, floor_bytes=setting.disk_floor_bytes)
        watching = tasks.create_task(supervise("disk of the sandboxes", watch.run))
        yield LocalSandboxes(
            shim,
            root=root,
            network=setting.network,
            gateway_url=setting.gateway_url,
            gateway_socket=setting.gateway_socket,
            egress_socket=setting.egress_socket,
            lease_s=setting.lease_s,
            host=host_id(setting.data_dir),
            at_least=setting.isolation_at_least,
            problem=watch.problem,
        )
        watching.cancel()
