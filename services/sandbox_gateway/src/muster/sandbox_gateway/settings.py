"""What the gateway is told by its environment (prefix `MUSTER_`)."""

import os
import re
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from muster.common.model_keys import added_providers
from muster.common.settings import ServiceSettings

_KEY = re.compile(r"[A-Za-z0-9_-]+:([0-9a-fA-F]{2}){32,}")


class GatewaySettings(ServiceSettings):
    """Each is `MUSTER_<NAME>`."""

    section: ClassVar[str] = "sandbox_gateway"

    http_fd: int | None = None
    """A listening socket inherited from whoever started us."""
    http_host: str = "127.0.0.1"
    """Where the doors listen, if no socket is inherited."""
    http_port: int = Field(default=8710, ge=0, le=65_535)
    """Its port."""
    gateway_url: str = ""
    """What a sandbox with a network is told. Empty: from host and port."""
    gateway_socket: Path
    """For sandboxes without a network; they can read all of its directory, so it must hold nothing else."""
    shim_socket: Path
    """The shim that keeps this host's workers."""
    data_dir: Path
    """`sandboxes/<id>` and `host-id` are below it."""
    token_keys: SecretStr
    """`kid:hexsecret[,kid:hexsecret]`, 32 bytes or more each; the first signs, all verify."""
    token_ttl_s: float = Field(default=86_400.0, gt=0)
    """Of a sandbox's token; never less than twice the task's timeout."""
    scripts_dirs: str = ""
    """Folders of `scripted/<name>` models, separated as in PATH."""
    repo_roots: str = ""
    """Folders below which `file://` may be cloned, separated as in PATH."""
    packages_dirs: str = ""
    """Folders with packages of one's own, beside the installed ones; separated as in PATH."""
    models_allowed: str = ""
    """Models that any sandbox may use beside its own, separated by commas."""
    model_providers: str = ""
    """Providers that may be called beside the known ones, separated by commas."""
    model_calls_parallel: int = Field(default=8, ge=1)
    """Model calls of one sandbox at the same time."""
    model_calls_per_minute: int = Field(default=300, ge=1)
    """Model calls of one sandbox in a minute."""
    model_max_tokens: int = Field(default=65_536, ge=1)
    """The most output tokens that one call may ask for."""
    model_remote_images: bool = False
    """Whether a request may name images by an address, which the provider then fetches."""
    model_deadline_s: float = Field(default=600.0, gt=0)
    """For one model call."""
    model_timeouts: int = Field(default=3, ge=1)
    """Model calls of one attempt that may run into that deadline in a row before all later ones are refused."""
    sandbox_network: Literal["none", "host"] = "none"
    """`host` lets sandboxes use the host's network, and so clone over https or ssh."""
    log_max_bytes: int = -1
    """Of each stream of logs; at 90 % of it ordinary frames are refused. -1: no limit."""
    beat_running_s: float = Field(default=5.0, gt=0)
    """How often a working agent is told to beat."""
    beat_idle_s: float = Field(default=10.0, gt=0)
    """How often an idle agent is told to beat."""
    lease_s: float = Field(default=60.0, gt=0)
    """How long workers outlive their gateways."""

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
