"""The settings of the sandbox gateway, from environment variables with the prefix `MUSTER_`."""

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from muster.common.contracts.task_spec import NetworkMode
from muster.common.faults import InvalidMessage
from muster.common.git_hosts import GIT_FILE
from muster.common.host_rules import parse_rule, rules_of, split_entries
from muster.common.model_entries import FILE
from muster.common.model_keys import added_providers
from muster.common.network_presets import DEFAULT
from muster.common.settings import IsolationSettings, ProcessSettings, ServiceSettings
from muster.sandbox_gateway.provider_settings import DaytonaSettings, LimitSettings, parse_prices

_KEY = re.compile(r"[A-Za-z0-9_-]+:([0-9a-fA-F]{2}){32,}")


class ModelFileSettings(ProcessSettings):
    """The settings with which a process finds the models of this deployment."""

    section: ClassVar[str] = "sandbox_gateway"
    whole: ClassVar[bool] = False

    data_dir: Path
    """Data directory, which contains `sandboxes/<id>` and `host-id`."""
    model_providers: str = ""
    """Model providers that may be called in addition to the built-in ones, separated by commas."""
    models_file: Path | None = None
    """File with the models of this deployment. Without this setting, `models.toml` in the data directory."""

    @property
    def models_toml(self) -> Path:
        """The file with the models of this deployment."""
        return (self.models_file or self.data_dir / FILE).expanduser()

    @property
    def added_providers(self) -> tuple[str, ...]:
        """The model providers that sandboxes may call in addition to the built-in model providers."""
        return added_providers(self.model_providers)


class GatewaySettings(ModelFileSettings, DaytonaSettings, LimitSettings, IsolationSettings, ServiceSettings):
    """The settings of one gateway process. The setting `name` is read from the environment variable `MUSTER_NAME`."""

    whole: ClassVar[bool] = True

    http_fd: int | None = None
    """File descriptor of an inherited listening socket. Without this setting, the gateway opens a socket itself."""
    http_host: str = "127.0.0.1"
    """Address on which the HTTP server listens, unless a socket is inherited."""
    http_port: int = Field(default=8710, ge=0, le=65_535)
    """Port on which the HTTP server listens, unless a socket is inherited."""
    gateway_url: str = ""
    """URL at which sandboxes with a network reach the gateway. If empty, `http_host` and `http_port` are used."""
    gateway_socket: Path
    """Unix socket for sandboxes without a network. Sandboxes can read all other files in the socket's directory."""
    shim_socket: Path
    """Unix socket of the shim, which starts and supervises the workers of this host."""
    token_keys: SecretStr
    """Keys of 32 bytes or more for sandbox tokens, `kid:hexsecret[,…]`. The first key signs, and every key verifies."""
    token_ttl_s: float = Field(default=86_400.0, gt=0)
    """Seconds for which a sandbox token is valid. A token is always valid for at least twice the task's timeout."""
    scripts_dirs: str = ""
    """Folders with the scripts of `scripted/<name>` models, separated as in PATH."""
    repo_roots: str = ""
    """Folders below which sandboxes may clone `file://` repositories, separated as in PATH."""
    repo_push: bool = True
    """Whether results may be delivered to `file://` repositories, as new branches that are not checked out."""
    git_file: Path | None = None
    """File with the git hosts and their credentials. Without this setting, `git.toml` in the data directory."""
    git_unlisted_hosts: Literal["public", "none"] = "public"
    """Git hosts that `git.toml` does not list: `public` allows https without credentials, `none` refuses them."""
    git_max_bytes: int = Field(default=2 << 30, ge=1 << 10)
    """Maximum bytes of one remote repository. The transfer of a larger one is ended."""
    git_cache_max_bytes: int = Field(default=20 << 30, ge=1 << 10)
    """Maximum bytes of all copies of remote repositories. Those that were not used for longest are removed first."""
    git_deadline_s: float = Field(default=600.0, gt=0, le=3_600)
    """Seconds that one transfer from or to a git host may take."""
    git_fresh_s: float = Field(default=10.0, ge=0)
    """Seconds for which a copy of a repository is used without asking its host whether a branch has moved."""
    packages_dirs: str = ""
    """Folders with agent packages, in addition to the installed ones, separated as in PATH."""
    models_allowed: str = ""
    """Models that every sandbox may use in addition to the model of its task, separated by commas."""
    model_calls_parallel: int = Field(default=8, ge=1)
    """Maximum number of simultaneous model calls of one sandbox."""
    model_calls_per_minute: int = Field(default=300, ge=1)
    """Maximum number of model calls of one sandbox in a minute."""
    model_max_tokens: int = Field(default=65_536, ge=1)
    """Maximum number of output tokens that a model call may request."""
    model_remote_images: bool = False
    """Whether a model call may contain images as http(s) URLs, which the provider then fetches."""
    model_deadline_s: float = Field(default=600.0, gt=0)
    """Seconds after which the gateway ends a model call that has no answer yet."""
    model_timeouts: int = Field(default=3, ge=1)
    """Number of model calls in a row that may time out before all further calls of the attempt are refused."""
    model_failures: int = Field(default=10, ge=1)
    """Number of model calls in a row that may fail before all further calls of the attempt are refused."""
    model_breaker: bool = True
    """Whether the calls of an attempt are refused after `model_timeouts` or `model_failures` failures in a row."""
    preload: str = ""
    """Agent packages whose modules are imported when the gateway starts, so that the first worker starts fast too."""
    providers: str = "local"
    """Providers that make sandboxes, separated by commas. The first one is used for tasks that name none."""
    deployment: str = ""
    """Name of this deployment at its providers. Gateways on several hosts set the same. Without it, the host's id."""
    sandbox_ttl_s: float = Field(default=8 * 86_400.0, gt=0)
    """Seconds after which the worker of a sandbox is stopped, its attempt is ended, and the sandbox is deleted."""
    sandbox_idle_stop_s: float = Field(default=1_800.0, gt=0)
    """Seconds without work after which a worker is stopped, and without use after which a sandbox at rest is."""
    sandbox_keep_s: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds for which a sandbox is kept after its worker has ended, if the manager does not delete it."""
    sandbox_prices: str = ""
    """Prices of sandboxes in US dollars for an hour, `provider=price`, separated by commas. `local` costs nothing."""
    sandbox_network: NetworkMode = "allow-list"
    """The most that sandboxes may reach: `none`, the hosts of `egress_allowed` (`allow-list`), or all (`host`)."""
    egress_allowed: str = DEFAULT
    """Hosts and presets of hosts that sandboxes may reach, separated by commas. Tasks and packages choose from them."""
    egress_private: str = ""
    """Allowed hosts that may have a private address, such as an own package index: `host:port`, separated by commas."""
    log_max_bytes: int = -1
    """Maximum bytes of each log stream. Ordinary frames are refused when a stream is 90 % full. -1 means no limit."""
    payloads_max_bytes: int = Field(default=10 << 30, ge=0)
    """Maximum bytes of the whole bodies of large events, of all sandboxes together. 0 keeps only heads and tails."""
    payloads_sandbox_max_bytes: int = Field(default=1 << 30, ge=0)
    """Maximum bytes of the kept whole bodies of the large events of one sandbox."""
    beat_running_s: float = Field(default=5.0, gt=0)
    """Seconds between two heartbeats of a worker whose agent works."""
    beat_idle_s: float = Field(default=10.0, gt=0)
    """Seconds between two heartbeats of a worker whose agent is idle."""
    lease_s: float = Field(default=60.0, gt=0)
    """Seconds for which workers continue to run if no gateway renews their lease."""

    @field_validator("token_keys")
    @classmethod
    def _keys_can_be_read(cls, keys: SecretStr) -> SecretStr:
        if not all(_KEY.fullmatch(key.strip()) for key in keys.get_secret_value().split(",")):
            raise ValueError("a token key is not valid; write kid:hexsecret[,kid:hexsecret] with 32 bytes or more each")
        return keys

    @field_validator("sandbox_prices")
    @classmethod
    def _prices_can_be_read(cls, entries: str) -> str:
        parse_prices(entries)
        return entries

    @field_validator("egress_allowed")
    @classmethod
    def _allowed_hosts_can_be_read(cls, entries: str) -> str:
        try:
            rules_of(split_entries(entries))
        except InvalidMessage as error:
            raise ValueError(str(error)) from None
        return entries

    @field_validator("egress_private")
    @classmethod
    def _private_hosts_can_be_read(cls, entries: str) -> str:
        try:
            for entry in split_entries(entries):
                parse_rule(entry)
        except InvalidMessage as error:
            raise ValueError(str(error)) from None
        return entries

    @model_validator(mode="after")
    def _sockets_lie_apart(self) -> Self:
        """Refuse settings with which the directory of the gateway's socket contains the shim's socket or the data.

        Every sandbox can reach the directory of the gateway's socket. Through the shim's socket a sandbox could start
        processes outside of a sandbox.
        """
        beside = self.gateway_socket.resolve().parent
        for path in (self.shim_socket, self.data_dir):
            if path.resolve().is_relative_to(beside):
                raise ValueError(
                    "sandboxes can read the directory of MUSTER_GATEWAY_SOCKET; choose a directory without other files"
                )
        return self

    @property
    def egress_socket(self) -> Path:
        """The unix socket of the proxy through which sandboxes reach the hosts of their allow-list."""
        return self.gateway_socket.with_name("egress.sock")

    @property
    def url(self) -> str:
        """The URL at which sandboxes with a network reach the gateway."""
        return self.gateway_url or f"http://{self.http_host}:{self.http_port}"

    @property
    def provider_names(self) -> list[str]:
        """The names of the providers that make sandboxes."""
        return [name for entry in self.providers.split(",") if (name := entry.strip())] or ["local"]

    @property
    def prices(self) -> dict[str, Decimal]:
        """The prices of sandboxes by provider, in US dollars for an hour."""
        return {"local": Decimal(0)} | parse_prices(self.sandbox_prices)

    @property
    def preloaded(self) -> list[str]:
        """The agent packages whose modules are imported at the start."""
        return [name for entry in self.preload.split(",") if (name := entry.strip())]

    @property
    def scripts(self) -> list[Path]:
        """The folders with the scripts of the models `scripted/<name>`."""
        return _paths(self.scripts_dirs)

    @property
    def repos(self) -> list[Path]:
        """The directories below which sandboxes may clone `file://` repositories."""
        return _paths(self.repo_roots)

    @property
    def git_toml(self) -> Path:
        """The file with the git hosts of this deployment."""
        return (self.git_file or self.data_dir / GIT_FILE).expanduser()

    @property
    def private(self) -> list[Path]:
        """The private paths of this deployment.

        Sandboxes must not clone a repository that contains a private path or is inside of one.
        """
        paths = [self.data_dir, self.gateway_socket.parent, self.shim_socket]
        return [*paths, self.nats_credentials] if self.nats_credentials else paths

    @property
    def packages(self) -> list[Path]:
        """The folders with agent packages in addition to installed packages. The agent manager has the same setting."""
        return [path.expanduser() for path in _paths(self.packages_dirs)]

    @property
    def models(self) -> frozenset[str]:
        """The models that every sandbox may use in addition to the model of its task."""
        return frozenset(filter(None, (name.strip() for name in self.models_allowed.split(","))))


def _paths(text: str) -> list[Path]:
    return [Path(entry) for entry in text.split(os.pathsep) if entry]
