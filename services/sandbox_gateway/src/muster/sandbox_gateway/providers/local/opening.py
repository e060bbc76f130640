"""Opens the provider `local` of a gateway."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from muster.sandbox_gateway.providers.local.host_id import host_id
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.sandbox_gateway.providers.registry import ProviderSetting
from muster.shim.client import ShimClient


@asynccontextmanager
async def open_local(setting: ProviderSetting) -> AsyncGenerator[LocalSandboxes]:
    """Yield the provider `local`, which is connected to the shim of this host."""
    async with ShimClient(setting.shim_socket) as shim:
        yield LocalSandboxes(
            shim,
            root=setting.data_dir / "sandboxes",
            network=setting.network,
            gateway_url=setting.gateway_url,
            gateway_socket=setting.gateway_socket,
            egress_socket=setting.egress_socket,
            lease_s=setting.lease_s,
            host=host_id(setting.data_dir),
        )
