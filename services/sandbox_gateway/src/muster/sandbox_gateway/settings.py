"""What the gateway is told by its environment (prefix `MUSTER_`)."""

import os
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from muster.common.model_keys import added_providers
from muster.common.settings import ServiceSettings

_KEY = re.compile(r"[A-Za-z0-9_-]+:([0-9a-fA-F]{2}){32,}")


class Settings(ServiceSettings):
    """See the README for each."""

    http_fd: int | None = None
    http_host: str = "127.0.0.1"
    http_port: int = 8710
    gateway_url: str = ""
    gateway_socket: Path
    shim_socket: Path
    data_dir: Path
    token_keys: SecretStr
    token_ttl_s: float = 86_400.0
    scripts_dirs: str = ""
    repo_roots: str = ""
    packages_dirs: str = ""
    models_allowed: str = ""
    model_providers: str = ""
    model_calls_parallel: int = Field(default=8, ge=1)
    model_calls_per_minute: int = Field(default=300, ge=1)
    model_max_tokens: int = Field(default=65_536, ge=1)
    model_remote_images: bool = False
    model_deadline_s: float = 120.0
    sandbox_network: Literal["none", "host"] = "none"
    log_max_bytes: int = -1
    beat_running_s: float = 5.0
    beat_idle_s: float = 10.0
    lease_s: float = 60.0

    @field_validator("token_keys")
    @classmethod
    def _keys_can_be_read(cls, keys: SecretStr) -> SecretStr:
        if not all(_KEY.fullmatch(key.strip()) for key in keys.get_secret_value().split(",")):
            raise ValueError("write kid:hexsecret[,kid:hexsecret], with 32 bytes of secret or more each")
        return keys

    @model_validator(mode="after")
    def _sockets_lie_apart(self) -> Self:
        """Every sandbox can reach what lies beside the gateway's socket: the shim's would let it out."""
        beside = self.gateway_socket.resolve().parent
        for path in (self.shim_socket, self.data_dir):
            if path.resolve().is_relative_to(beside):
                raise ValueError("MUSTER_GATEWAY_SOCKET needs a directory of its own: sandboxes can read all of it")
        return self

    @property
    def url(self) -> str:
        """Where the doors are, for those with a network."""
        return self.gateway_url or f"http://{self.http_host}:{self.http_port}"

    @property
    def scripts(self) -> list[Path]:
        """Directories of scripted models."""
        return _paths(self.scripts_dirs)

    @property
    def repos(self) -> list[Path]:
        """Roots below which `file://` may be cloned."""
        return _paths(self.repo_roots)

    @property
    def private(self) -> list[Path]:
        """What no repository may contain or lie in."""
        paths = [self.data_dir, self.gateway_socket.parent, self.shim_socket]
        return [*paths, self.nats_credentials] if self.nats_credentials else paths

    @property
    def packages(self) -> list[Path]:
        """Folders of agent packages beside the installed ones; the manager is told the same."""
        return [path.expanduser() for path in _paths(self.packages_dirs)]

    @property
    def added_providers(self) -> tuple[str, ...]:
        """Model providers that may be called beside those of `muster.common.model_keys`."""
        return added_providers(self.model_providers)

    @property
    def models(self) -> frozenset[str]:
        """Models that any sandbox may use beside its own."""
        return frozenset(filter(None, (name.strip() for name in self.models_allowed.split(","))))


def _paths(text: str) -> list[Path]:
    return [Path(entry) for entry in text.split(os.pathsep) if entry]
