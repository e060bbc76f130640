"""The settings of the gateway, from environment variables with the prefix `MUSTER_`."""

import os
import re
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from muster.common.model_keys import added_providers
from muster.common.settings import ServiceSettings

_KEY = re.compile(r"[A-Za-z0-9_-]+:([0-9a-fA-F]{2}){32,}")


class GatewaySettings(ServiceSettings):
    """The settings of one gateway process. The field `name` is read from `MUSTER_NAME`."""

    section: ClassVar[str] = "sandbox_gateway"

    http_fd: int | None = None
    """File descriptor of a listening socket that the parent process opened. None: listen on `http_host`."""
    http_host: str = "127.0.0.1"
    """Address on which the HTTP server listens, unless a socket is inherited."""
    http_port: int = Field(default=8710, ge=0, le=65_535)
    """Port on which the HTTP server listens, unless a socket is inherited."""
    gateway_url: str = ""
    """URL at which sandboxes with a network reach the gateway. Empty: made from host and port."""
    gateway_socket: Path
    """Unix socket for sandboxes without a network. They can read its directory, so it must hold nothing else."""
    shim_socket: Path
    """Unix socket of the shim, which starts and supervises the workers of this host."""
    data_dir: Path
    """Directory that holds `sandboxes/<id>` and `host-id`."""
    token_keys: SecretStr
    """Keys for sandbox tokens, as `kid:hexsecret[,kid:hexsecret]` of 32 bytes or more. The first signs, all verify."""
    token_ttl_s: float = Field(default=86_400.0, gt=0)
    """Seconds for which a sandbox's token is valid; at least twice the task's timeout in any case."""
    scripts_dirs: str = ""
    """Folders with the scripts of `scripted/<name>` models, separated as in PATH."""
    repo_roots: str = ""
    """Folders below which sandboxes may clone `file://` repositories, separated as in PATH."""
    packages_dirs: str = ""
    """Folders with agent packages, in addition to the installed ones, separated as in PATH."""
    models_allowed: str = ""
    """Models that any sandbox may use in addition to its own, separated by commas."""
    model_providers: str = ""
    """Model providers that may be called in addition to the built-in ones, separated by commas."""
    model_calls_parallel: int = Field(default=8, ge=1)
    """Most model calls of one sandbox at the same time."""
    model_calls_per_minute: int = Field(default=300, ge=1)
    """Most model calls of one sandbox in a minute."""
    model_max_tokens: int = Field(default=65_536, ge=1)
    """Most output tokens that a model call may request."""
    model_remote_images: bool = False
    """Whether a model call may contain images as http(s) URLs, which the provider then fetches."""
    model_deadline_s: float = Field(default=600.0, gt=0)
    """Seconds after which a model call without an answer is given up."""
    model_timeouts: int = Field(default=3, ge=1)
    """Model calls of one attempt that may exceed the deadline in a row; after that, all calls are refused."""
    sandbox_network: Literal["none", "host"] = "none"
    """Network of sandboxes. `host`: they use the host's network and can clone over https or ssh."""
    log_max_bytes: int = -1
    """Most bytes of each log stream; at 90 % of it ordinary frames are refused. -1: no limit."""
    beat_running_s: float = Field(default=5.0, gt=0)
    """Seconds between two beats of a worker whose agent works."""
    beat_idle_s: float = Field(default=10.0, gt=0)
    """Seconds between two beats of a worker whose agent is idle."""
    lease_s: float = Field(default=60.0, gt=0)
    """Seconds for which workers go on running when no gateway renews their lease."""

    @field_validator("token_keys")
    @classmethod
    def _keys_can_be_read(cls, keys: SecretStr) -> SecretStr:
        if not all(_KEY.fullmatch(key.strip()) for key in keys.get_secret_value().split(",")):
            raise ValueError("write kid:hexsecret[,kid:hexsecret], with 32 bytes of secret or more each")
        return keys

    @model_validator(mode="after")
    def _sockets_lie_apart(self) -> Self:
        """Refuse a socket directory that holds other files.

        Every sandbox can reach that directory. Through the shim's socket it could start processes outside of a sandbox.
        """
        beside = self.gateway_socket.resolve().parent
        for path in (self.shim_socket, self.data_dir):
            if path.resolve().is_relative_to(beside):
                raise ValueError("MUSTER_GATEWAY_SOCKET needs a directory of its own: sandboxes can read all of it")
        return self

    @property
    def url(self) -> str:
        """The URL at which sandboxes with a network reach the gateway."""
        return self.gateway_url or f"http://{self.http_host}:{self.http_port}"

    @property
    def scripts(self) -> list[Path]:
        """The directories with scripts of `scripted/<name>` models."""
        return _paths(self.scripts_dirs)

    @property
    def repos(self) -> list[Path]:
        """The directories below which sandboxes may clone `file://` repositories."""
        return _paths(self.repo_roots)

    @property
    def private(self) -> list[Path]:
        """The paths that a cloned repository must neither contain nor lie in."""
        paths = [self.data_dir, self.gateway_socket.parent, self.shim_socket]
        return [*paths, self.nats_credentials] if self.nats_credentials else paths

    @property
    def packages(self) -> list[Path]:
        """The folders with agent packages, in addition to the installed ones. The manager has the same setting."""
        return [path.expanduser() for path in _paths(self.packages_dirs)]

    @property
    def added_providers(self) -> tuple[str, ...]:
        """The model providers that may be called in addition to those of `muster.common.model_keys`."""
        return added_providers(self.model_providers)

    @property
    def models(self) -> frozenset[str]:
        """The models that any sandbox may use in addition to its own."""
        return frozenset(filter(None, (name.strip() for name in self.models_allowed.split(","))))


def _paths(text: str) -> list[Path]:
    return [Path(entry) for entry in text.split(os.pathsep) if entry]
