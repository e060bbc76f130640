"""Decides how the gateway reaches a remote repository: with which credential, and whether at all.

A host in `git.toml` is reached as its entry says. Any other host is reached only over https, without a credential, and
only at public addresses. The address that was checked is the one that git connects to, so that a second answer of a
name server cannot change it.
"""

import asyncio
import base64
import os
import shlex
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from muster.common.faults import InvalidMessage, Unavailable
from muster.common.git_hosts import ListedHost, listed_host, read_hosts, token_of
from muster.common.secret_files import check_private
from muster.sandbox_gateway.repositories.adapters.git_process import GitProcess
from muster.sandbox_gateway.repositories.domain.addresses import URL_FIELD, RemoteAddress, private_among

Unlisted = Literal["public", "none"]
Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Returns the IP addresses of a host."""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_CONNECT_S = 20


class HostAccess(msgspec.Struct, frozen=True):
    """How a repository is reached: its entry in `git.toml`, None for a host without entry, and the entry's token."""

    listed: ListedHost | None
    token: str = ""

    @property
    def has_credential(self) -> bool:
        """Whether git sends a token or uses a deploy key."""
        return bool(self.token) or bool(self.listed and self.listed.entry.key_file)

    @property
    def name(self) -> str:
        """The name of the entry, or an empty string. Copies that were made with a credential are kept under it."""
        return self.listed.name if self.listed and self.has_credential else ""


async def resolved(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host. Raises `Unavailable` if the name servers do not know the host."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the host {host} of the repository cannot be found: {error.strerror or error}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GitHostRules:
    """The git hosts of this deployment: the entries of `git.toml`, read for each use, and the rule for other hosts."""

    def __init__(
        self, path: Path, env: Mapping[str, str], *, unlisted: Unlisted = "public", resolve: Resolver = resolved
    ) -> None:
        self._path, self._env, self._unlisted, self._resolve = path, env, unlisted, resolve

    def access(self, address: RemoteAddress) -> HostAccess:
        """Return how a repository is reached. Raises `InvalidMessage` if it may not be, or lacks its credential."""
        listed = listed_host(read_hosts(self._path), address.host_and_port, address.path)
        if listed is None:
            self._check_unlisted(address)
            return HostAccess(None)
        if address.scheme == "http" and not listed.entry.allow_http:
            raise InvalidMessage(
                f"{address.host} is reached only over https; send an https:// URL, or set allow_http in git.toml",
                field=URL_FIELD,
            )
        if address.scheme == "ssh":
            self._key(listed)
            return HostAccess(listed)
        return HostAccess(listed, token_of(listed, self._path, self._env, field=URL_FIELD))

    async def git(self, address: RemoteAddress, access: HostAccess, *, deadline_s: float) -> GitProcess:
        """Return git with the credential and the limits for this repository."""
        config = {f"protocol.{address.scheme}.allow": "always"}
        env = {"GIT_ALLOW_PROTOCOL": address.scheme}
        if "SSL_CERT_FILE" in self._env:
            env["GIT_SSL_CAINFO"] = self._env["SSL_CERT_FILE"]
        if access.listed is None:
            found = await self._public(address)
            if address.host not in found:  # The host is a name, which git must not resolve a second time.
                config["http.curloptResolve"] = f"{address.host}:{address.port}:{','.join(found)}"
        else:
            env |= {name: self._env[name] for name in _PROXIES if name in self._env}
        if address.scheme == "ssh" and access.listed is not None:
            env["GIT_SSH_COMMAND"] = self._ssh(access.listed)
        secrets = list[str]()
        if access.token and access.listed is not None:
            pair = base64.b64encode(f"{access.listed.user}:{access.token}".encode()).decode()
            origin = f"{address.scheme}://{address.host_and_port}/"
            config[f"http.{origin}.extraHeader"] = f"Authorization: Basic {pair}"
            secrets = [access.token, pair]
        return GitProcess(config=config, env=env, secrets=secrets, deadline_s=deadline_s)

    def _check_unlisted(self, address: RemoteAddress) -> None:
        add = f"an operator can add {address.host_and_port} to git.toml"
        if self._unlisted == "none":
            raise InvalidMessage(f"repositories of {address.host} are not allowed; {add}", field=URL_FIELD)
        if address.scheme == "ssh":
            raise InvalidMessage(
                f"{address.host} needs a deploy key for ssh; {add}, or send an https:// URL", field=URL_FIELD
            )
        if address.scheme == "http":
            raise InvalidMessage(f"http:// is not encrypted; send an https:// URL, or {add}", field=URL_FIELD)

    async def _public(self, address: RemoteAddress) -> list[str]:
        found = await self._resolve(address.host, address.port)
        private = private_among(found)
        if private is not None:
            raise InvalidMessage(
                f"{address.host} has the address {private}, which is not public; an operator can add "
                f"{address.host_and_port} to git.toml",
                field=URL_FIELD,
            )
        return found

    def _key(self, listed: ListedHost) -> Path:
        if not listed.entry.key_file:
            raise InvalidMessage(
                f"{listed.name} in git.toml has no key_file, which ssh needs; add one, or send an https:// URL",
                field=URL_FIELD,
            )
        key = (self._path.parent / listed.entry.key_file).absolute()
        check_private(key, field=URL_FIELD)
        return key

    def _ssh(self, listed: ListedHost) -> str:
        options = {
            "BatchMode": "yes",
            "CheckHostIP": "no",
            "ConnectTimeout": str(_CONNECT_S),
            "ForwardAgent": "no",
            "GlobalKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str((self._path.parent / listed.entry.known_hosts_file).absolute()),
        }
        words = ["ssh", "-F", os.devnull, "-i", str(self._key(listed))]
        for name, value in options.items():
            words += ["-o", f'{name}="{value}"' if " " in value else f"{name}={value}"]
        return shlex.join(words)
