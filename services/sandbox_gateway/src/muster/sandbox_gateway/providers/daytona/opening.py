"""Opens the provider `daytona` of a gateway."""

import ipaddress
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from daytona import AsyncDaytona, DaytonaConfig

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.provider_settings import DaytonaSettings
from muster.sandbox_gateway.providers.daytona.calls import DaytonaCalls
from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes
from muster.sandbox_gateway.providers.registry import ProviderSetting


@asynccontextmanager
async def open_daytona(setting: ProviderSetting) -> AsyncGenerator[DaytonaSandboxes]:
    """Yield the provider `daytona` with the key and URL of the settings. Makes no call yet."""
    settings = DaytonaSettings()
    if settings.daytona_api_key is None:
        raise InvalidMessage("the provider daytona needs a key; set MUSTER_DAYTONA_API_KEY", field="$.daytona_api_key")
    gateway_url = settings.daytona_gateway_url or setting.gateway_url
    if _is_here(gateway_url) and not _is_here(settings.daytona_api_url):
        raise InvalidMessage(
            f"sandboxes at {settings.daytona_api_url} cannot reach this gateway at {gateway_url}; "
            "set MUSTER_DAYTONA_GATEWAY_URL to a URL that they reach",
            field="$.daytona_gateway_url",
        )
    # All three are passed, because the SDK reads each missing one from `.env` in the working directory.
    config = DaytonaConfig(
        api_key=settings.daytona_api_key.get_secret_value(),
        api_url=settings.daytona_api_url,
        target=settings.daytona_target,
        otel_enabled=False,
    )
    async with AsyncDaytona(config) as client:
        yield DaytonaSandboxes(
            DaytonaCalls(
                client,
                settings,
                deployment=setting.deployment,
                gateway_url=gateway_url,
                monotonic=time.monotonic,
            ),
            settings,
            host=settings.daytona_host,
            gateway_url=gateway_url,
            staging=setting.data_dir / "daytona",
            monotonic=time.monotonic,
        )


def _is_here(url: str) -> bool:
    """Whether a URL names this host, so that no other host can reach it."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
