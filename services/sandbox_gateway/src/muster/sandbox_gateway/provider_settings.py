"""The settings of the provider `daytona`, the limits of sandboxes, and the prices of all providers."""

import hashlib
import re
from decimal import Decimal
from typing import ClassVar

from pydantic import Field, SecretStr

from muster.common.contracts.packages import Resources
from muster.common.settings import ProcessSettings

_PRICE = re.compile(r"\d{1,6}(\.\d{1,9})?")


class DaytonaSettings(ProcessSettings):
    """The settings of the provider `daytona`."""

    section: ClassVar[str] = "sandbox_gateway"
    whole: ClassVar[bool] = False

    daytona_api_key: SecretStr | None = None
    """Key of Daytona's API. The provider `daytona` needs it; no sandbox gets it."""
    daytona_api_url: str = "https://app.daytona.io/api"
    """URL of Daytona's API, of the hosted service or of an own server."""
    daytona_target: str = "us"
    """Region in which Daytona makes sandboxes."""
    daytona_snapshot: str = ""
    """Snapshot with Python 3.12 and the libraries of the agent packages. If empty, Daytona's default snapshot."""
    daytona_python: str = "python3"
    """Program that runs Python 3.12 in Daytona's sandboxes."""
    daytona_gateway_url: str = ""
    """URL at which Daytona's sandboxes reach this gateway. If empty, `gateway_url` is used."""
    daytona_auto_stop_minutes: int = Field(default=15, ge=1, le=1_440)
    """Minutes without a sign of a gateway after which Daytona stops a sandbox."""
    daytona_auto_delete_minutes: int = Field(default=120, ge=1, le=43_200)
    """Minutes after which Daytona removes a stopped sandbox."""
    daytona_usd_per_cpu_hour: Decimal | None = Field(default=None, ge=0)
    """Price of one CPU of a sandbox at Daytona for an hour in US dollars, to show the cost of a sandbox so far."""
    daytona_usd_per_memory_gib_hour: Decimal | None = Field(default=None, ge=0)
    """Price of one GiB of memory for an hour in US dollars."""
    daytona_usd_per_disk_gib_hour: Decimal | None = Field(default=None, ge=0)
    """Price of one GiB of disk for an hour in US dollars."""
    daytona_creates_per_minute: int = Field(default=300, ge=1, le=100_000)
    """Maximum number of sandboxes that one gateway makes at Daytona in a minute."""

    @property
    def daytona_host(self) -> str:
        """The host of new sandboxes' records: the target, and a digest of the API URL and the target.

        A gateway with another URL or target does not act on these records. The key is no part of it, so it may be
        renewed.
        """
        place = f"{self.daytona_api_url.rstrip('/')}\n{self.daytona_target}"
        return f"daytona:{self.daytona_target}:{hashlib.sha256(place.encode()).hexdigest()[:12]}"


class LimitSettings(ProcessSettings):
    """The most resources that sandboxes may use, and the free disk space that the host keeps."""

    section: ClassVar[str] = "sandbox_gateway"
    whole: ClassVar[bool] = False

    sandbox_max_memory_bytes: int = Field(default=16 << 30, ge=1 << 20)
    """Maximum memory of a sandbox. An agent package that wants more (`resources` in `agent.toml`) is refused."""
    sandbox_max_cpus: float = Field(default=8.0, gt=0)
    """Maximum processor cores of a sandbox. An agent package that wants more is refused."""
    sandbox_max_processes: int = Field(default=4096, ge=1)
    """Maximum processes and threads of a sandbox. An agent package that wants more is refused."""
    sandbox_max_file_bytes: int = Field(default=16 << 30, ge=1 << 10)
    """Maximum bytes of one file in a sandbox. An agent package that wants more is refused."""
    sandbox_max_disk_bytes: int = Field(default=50 << 30, ge=1 << 10)
    """Maximum bytes of all files that a sandbox writes. An agent package that wants more is refused."""
    disk_floor_bytes: int = Field(default=2 << 30, ge=0)
    """Free disk space of the host, below which no sandbox is made and one that grows is stopped."""

    @property
    def most_resources(self) -> Resources:
        """The most resources that a sandbox may use."""
        return Resources(
            memory_bytes=self.sandbox_max_memory_bytes,
            cpus=self.sandbox_max_cpus,
            processes=self.sandbox_max_processes,
            file_bytes=self.sandbox_max_file_bytes,
            disk_bytes=self.sandbox_max_disk_bytes,
        )


def parse_prices(entries: str) -> dict[str, Decimal]:
    """Parse `provider=price,…`. Raises `ValueError` if an entry is not a provider with a price of 0 or more."""
    prices = dict[str, Decimal]()
    for entry in filter(None, (entry.strip() for entry in entries.split(","))):
        name, _, price = entry.partition("=")
        if not name.strip() or not _PRICE.fullmatch(price.strip()):
            raise ValueError("a price of a sandbox is not valid; write provider=price[,provider=price] in US dollars")
        prices[name.strip()] = Decimal(price.strip())
    return prices
