"""Reads `git.toml`, the file with the git hosts that a deployment has credentials for.

An entry names a host, or a host and the beginning of a path. Of several entries, the one with the longest path applies:

    [hosts."github.com"]
    token_env = "GITHUB_TOKEN"

    [hosts."git.example.com:8443/team"]
    forge = "gitlab"
    token_file = "team.token"

The file contains no secrets. A token or a deploy key is in a variable or in a file that only the operator can read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from muster.common.configuration_file import configured_as
from muster.common.contract import Message
from muster.common.contracts.fields import storable, unspaced
from muster.common.entry_files import checked_entry, named_secret, read_entry_file
from muster.common.faults import InvalidMessage

GIT_FILE, GIT_VARIABLE = "git.toml", "MUSTER_GIT_FILE"
_ENTRY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,4})?(?:/[A-Za-z0-9_.~-]+)*")
Forge = Literal["github", "gitlab"]
_FORGES: Final[Mapping[str, Forge]] = {"github.com": "github", "gitlab.com": "gitlab"}
_File = Annotated[str, storable(1_000)]


class GitHost(Message, forbid_unknown_fields=True):
    """One entry of `git.toml`: how the gateway reaches the repositories of a host."""

    token_env: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)")] | None = None
    """The environment variable that contains the token, where the stack is started."""
    token_file: _File | None = None
    """The file that contains the token, relative to the folder of `git.toml`."""
    user: Annotated[str, unspaced(255)] | None = None
    """The user name that is sent with the token. Without it, the name that the forge expects."""
    key_file: _File | None = None
    """The private SSH key (a deploy key), relative to the folder of `git.toml`."""
    known_hosts_file: _File = "known_hosts"
    """The SSH host keys, relative to the folder of `git.toml`."""
    forge: Forge | None = None
    """The software of the host, whose API opens pull requests. Known for github.com and gitlab.com."""
    api_url: Annotated[str, unspaced(1_000)] | None = None
    """The address of the forge's API. Without it, the usual address on the host."""
    allow_http: bool = False
    """Whether repositories may be cloned, and the token sent, over http:// without encryption."""
    push: bool = True
    """Whether results of tasks may be pushed."""


class ListedHost(msgspec.Struct, frozen=True):
    """An entry of `git.toml` with its name: a host, perhaps a port, and perhaps the beginning of a path."""

    name: str
    entry: GitHost

    @property
    def host(self) -> str:
        """The host of the entry, with the port if the entry has one."""
        return self.name.partition("/")[0]

    @property
    def forge(self) -> Forge | None:
        """The software of the host; None if it is not known."""
        return self.entry.forge or _FORGES.get(self.host)

    @property
    def api_url(self) -> str:
        """The address of the API of the host's forge."""
        if self.entry.api_url:
            return self.entry.api_url.rstrip("/")
        if self.host == "github.com":
            return "https://api.github.com"
        return f"https://{self.host}/api/{'v4' if self.forge == 'gitlab' else 'v3'}"

    @property
    def user(self) -> str:
        """The user name that is sent with the token."""
        return self.entry.user or ("oauth2" if self.forge == "gitlab" else "x-access-token")


class _Hosts(Message, forbid_unknown_fields=True):
    hosts: dict[str, dict[str, Any]] = {}


def git_file(env: Mapping[str, str], data_dir: Path) -> Path:
    """Return the path of `git.toml`: `MUSTER_GIT_FILE`, or the configuration file's, or in the data directory.

    Raises `ConfigurationError` if the configuration file cannot be read.
    """
    path = env.get(GIT_VARIABLE) or configured_as("sandbox_gateway", "git_file", env)
    return Path(path).expanduser() if path else data_dir / GIT_FILE


def read_hosts(path: Path) -> list[ListedHost]:
    """Return the entries of a `git.toml`; none if the file does not exist.

    Raises `InvalidMessage` with a sentence about the wrong entry.
    """
    found = read_entry_file(path, _Hosts)
    tables = found.hosts if found else {}
    listed = [_listed(path, name, table) for name, table in tables.items()]
    names = dict[str, str]()
    for each in listed:
        other = names.setdefault(_compared(each.name), each.name)
        if other is not each.name:
            raise InvalidMessage(f"{path}: the entries {other} and {each.name} mean the same; remove one")
    return listed


def listed_host(hosts: list[ListedHost], host: str, path: str) -> ListedHost | None:
    """Return the entry with the longest path for a repository; `host` has a port unless it is the usual one.

    Upper case and the ending `.git` make no difference, because they make none for the forges.
    """
    address = f"{_compared(f'{host}/{path.strip("/")}')}/"
    found = [listed for listed in hosts if address.startswith(f"{_compared(listed.name)}/")]
    return max(found, key=lambda listed: len(listed.name), default=None)


def _compared(name: str) -> str:
    return name.casefold().removesuffix(".git")


def token_of(listed: ListedHost, path: Path, env: Mapping[str, str], *, field: str) -> str:
    """Return the token of an entry of the file `path`; an empty string if the entry has none.

    Raises `InvalidMessage` with `field` if the variable is not set or the file cannot be used. The error never contains
    the token.
    """
    token = named_secret(
        path,
        env,
        variable=listed.entry.token_env,
        file=listed.entry.token_file,
        what=f"the token for {listed.name}",
        if_empty=f"the token file of {listed.name} is empty; write the token",
        field=field,
    )
    if not token.isascii() or not token.isprintable():
        raise InvalidMessage(f"the token for {listed.name} must be printable ASCII", field=field)
    return token


def _listed(path: Path, name: str, table: dict[str, Any]) -> ListedHost:
    entry = checked_entry(path, f'[hosts."{name[:80]}"]', table, GitHost, lambda entry: _check(name, entry))
    host, slash, rest = name.partition("/")
    return ListedHost(f"{host.lower()}{slash}{rest}", entry)


def _check(name: str, entry: GitHost) -> None:
    if not _ENTRY.fullmatch(name):
        raise InvalidMessage("the name must be a host, such as github.com, host:port or github.com/organisation")
    if entry.token_env and entry.token_file:
        raise InvalidMessage("an entry has token_env or token_file, not both; remove one", field="$.token_env")
    if entry.token_env and entry.token_env.startswith("MUSTER_"):
        raise InvalidMessage(
            "token_env must not begin with MUSTER_, because every service gets these variables", field="$.token_env"
        )
    url = urlsplit(entry.api_url or "https://host")
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise InvalidMessage("api_url must be an address such as https://git.example.com/api/v4", field="$.api_url")
    if url.scheme == "http" and not entry.allow_http:
        raise InvalidMessage("an api_url with http:// needs allow_http = true", field="$.api_url")
