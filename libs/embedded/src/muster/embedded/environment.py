"""Builds the environment variables for each part of the stack, with only the settings and secrets that the part needs.

Secrets are never passed as command-line arguments, because other users of the machine can read arguments.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.common.configuration_file import configured_as, configured_in
from muster.common.described_model import described_model
from muster.common.git_hosts import git_file, read_hosts
from muster.common.model_entries import models_file, read_entries
from muster.common.model_keys import added_providers, variable_prefixes
from muster.common.nats_identity.roles import NatsRole
from muster.embedded.aliases import with_aliases
from muster.embedded.config import StackConfig
from muster.embedded.isolation_floor import isolation_floor
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.programs import ListenerName, Need, Program
from muster.embedded.stack_directory import Secrets, StackDirectory

_COMMON = ("PATH", "HOME", "LANG", "TMPDIR")
_AUTHORITY = ("NATS_ACCOUNT", "NATS_AGENT_SEED", "NATS_OPERATOR_SEED", "NATS_SYSTEM_CREDENTIALS")
_SCOPED = frozenset(
    {
        "NATS_URL",
        "NATS_CREDENTIALS",
        "DATABASE_URL",
        "ADMIN_KEY",
        "API_KEY",
        "TOKEN_KEYS",
        "HTTP_FD",
        "DAYTONA_API_KEY",
        *_AUTHORITY,
    }
)
"""`MUSTER_*` variables of the user that only some parts of the stack get."""
_GATEWAY_PREFIXES = ("DAYTONA_", "LITELLM_")
"""Prefixes of variables that the gateway and LiteLLM read, in addition to the variables of model providers."""
_GATEWAY = "sandbox_gateway"
PROXY_AND_TLS = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""Names of the user's variables for proxies and certificates, in capitals. The gateway gets these variables too."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The addresses of the stack's servers, which the programs of the stack get in their environment."""

    nats_url: str
    database_url: str
    gateway_url: str
    authority: NatsAuthority | None = None
    """Issues credentials for the NATS server that the stack runs; None if an existing NATS server is used."""


def base_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that every part of the stack gets. The variables contain no credentials.

    Raises `InvalidMessage` if an alias of a setting has a wrong value.
    """
    kept = {name: user[name] for name in _COMMON if name in user}
    for name, value in with_aliases(user).items():
        prefix, _, rest = name.partition("_")
        if (prefix == "MUSTER" and rest.removesuffix("_FILE") not in _SCOPED) or prefix == "COVERAGE":
            kept[name] = value
    return {**kept, "TZ": "UTC", "PYTHONUNBUFFERED": "1"}


def environment(
    program: Program,
    config: StackConfig,
    *,
    data_directory: StackDirectory,
    secrets: Secrets,
    addresses: Addresses,
    listeners: Mapping[ListenerName, int],
) -> dict[str, str]:
    """Return the environment variables of one program of the stack."""
    env = base_environment(config.user_env)
    env["MUSTER_DATA_DIR"] = str(data_directory.root)
    env["MUSTER_ISOLATION_AT_LEAST"] = isolation_floor(config.user_env, config.isolation)
    if program.listener:
        env["MUSTER_HTTP_FD"] = str(listeners[program.listener])
    for need in sorted(program.needs):
        match need:
            case "nats":
                env.update(_nats(program, config, addresses))
            case "authority":
                env.update(_authority(config, addresses))
            case "gateway":
                env.update(_gateway(program, config, data_directory, addresses))
                env.update(_git_tokens(config.user_env, data_directory.root))
            case "providers":
                env.update(providers(config.user_env, data_directory.root))
            case _:
                env.update(_plain(data_directory, secrets, addresses)[need])
    return {**env, **config.env.get(program.name, {})}


def _plain(data_directory: StackDirectory, secrets: Secrets, addresses: Addresses) -> dict[Need, dict[str, str]]:
    return {
        "database": {"MUSTER_DATABASE_URL": addresses.database_url},
        "admin_key": {"MUSTER_ADMIN_KEY": secrets.admin_key},
        "token_keys": {"MUSTER_TOKEN_KEYS": secrets.token_keys},
        "shim": {"MUSTER_SHIM_SOCKET": str(data_directory.shim_socket)},
    }


def _nats(program: Program, config: StackConfig, addresses: Addresses) -> Iterator[tuple[str, str]]:
    yield "MUSTER_NATS_URL", addresses.nats_url
    if addresses.authority and program.role:
        yield "MUSTER_NATS_CREDENTIALS", str(addresses.authority.credentials_file(program.role))
    elif not addresses.authority and "MUSTER_NATS_CREDENTIALS" in config.user_env:
        yield "MUSTER_NATS_CREDENTIALS", config.user_env["MUSTER_NATS_CREDENTIALS"]


def _authority(config: StackConfig, addresses: Addresses) -> Iterator[tuple[str, str]]:
    if addresses.authority:
        yield "MUSTER_NATS_ACCOUNT", addresses.authority.account
        yield "MUSTER_NATS_AGENT_SEED", addresses.authority.signing(NatsRole.AGENT).seed
        yield "MUSTER_NATS_OPERATOR_SEED", addresses.authority.operator_signing.seed
        yield "MUSTER_NATS_SYSTEM_CREDENTIALS", str(addresses.authority.revoker_file())
    else:
        for name in (f"MUSTER_{rest}{by}" for rest in _AUTHORITY for by in ("", "_FILE")):
            if name in config.user_env:
                yield name, config.user_env[name]


def _gateway(
    program: Program, config: StackConfig, data_directory: StackDirectory, addresses: Addresses
) -> Iterator[tuple[str, str]]:
    yield "MUSTER_GATEWAY_URL", addresses.gateway_url
    yield from _daytona_key(config.user_env)
    yield "MUSTER_GATEWAY_SOCKET", str(data_directory.gateway_socket)
    if config.scripts_dirs:
        yield "MUSTER_SCRIPTS_DIRS", os.pathsep.join(str(path.absolute()) for path in config.scripts_dirs)
    if config.repo_roots:
        yield "MUSTER_REPO_ROOTS", os.pathsep.join(str(path.absolute()) for path in config.repo_roots)
    elif not (config.user_env.get("MUSTER_REPO_ROOTS") or configured_in(program.name, "repo_roots", config.user_env)):
        yield "MUSTER_REPO_ROOTS", config.user_env.get("HOME", "")


def _git_tokens(user: Mapping[str, str], data_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables with tokens of git hosts that `git.toml` names."""
    for listed in read_hosts(git_file(user, data_dir)):
        if (name := listed.entry.token_env) and name in user:
            yield name, user[name]


def providers(user: Mapping[str, str], data_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the user's variables for the gateway's access to models: keys, proxies and certificates.

    Among them are the variables that `models.toml` names, and those that describe the model `llm`. Raises
    `InvalidMessage` if `models.toml` cannot be read, or if a variable has a wrong value.
    """
    configured = user.get("MUSTER_MODEL_PROVIDERS") or configured_as(_GATEWAY, "model_providers", user)
    added = added_providers(configured)
    prefixes = (*variable_prefixes(added), *_GATEWAY_PREFIXES)
    named = {entry.key_env for entry in read_entries(models_file(user, data_dir)).values()}
    if described := described_model(user):
        named.update(described.variables)
    for name, value in user.items():
        if name.startswith(prefixes) or name.upper() in PROXY_AND_TLS or name in named:
            yield name, value


def model_test_environment(user: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """Return the environment of a process that tests a model: the gateway's variables about models, and no secrets.

    Raises `InvalidMessage` as `providers`.
    """
    return {**base_environment(user), "MUSTER_DATA_DIR": str(data_dir), **dict(providers(user, data_dir))}


def daytona_test_environment(user: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """Return the environment of a process that tries Daytona: the gateway's variables about Daytona and proxies."""
    proxies = {name: value for name, value in user.items() if name.upper() in PROXY_AND_TLS}
    return {**base_environment(user), "MUSTER_DATA_DIR": str(data_dir), **proxies, **dict(_daytona_key(user))}


def _daytona_key(user: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in ("MUSTER_DAYTONA_API_KEY", "MUSTER_DAYTONA_API_KEY_FILE"):
        if name in user:
            yield name, user[name]


def set_variables(user: Mapping[str, str], data_dir: Path) -> list[str]:
    """Return the sorted names of the variables of `providers` that have a value. Raises `InvalidMessage` as they do."""
    return sorted(name for name, value in providers(user, data_dir) if value.strip())
