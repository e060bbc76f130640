"""Decides whether a sandbox may clone a git repository.

A local repository must lie below an allowed root. A remote repository may be cloned only if sandboxes have a network.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.common.git_urls import ssh_url
from muster.sandbox_gateway.providers.local.mirrors import URL, git_directory

_REF = "$.repo.ref"
_REFS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}")
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_REMOTE = ("https", "http", "ssh")


class Resolved(msgspec.Struct, frozen=True):
    """A git repository that sandboxes may clone. `path` is its path without links; None for a remote one."""

    url: str
    path: Path | None


class AllowedRepositories:
    """The rule of this deployment for the git repositories that sandboxes may clone."""

    def __init__(
        self, roots: Sequence[Path], *, network: Literal["none", "host"], private: Sequence[Path] = ()
    ) -> None:
        """Set the directories of allowed repositories (`roots`) and the network of sandboxes.

        A repository is refused if it contains a path in `private` (keys, sockets, data) or lies inside of such a path.
        """
        self._roots = [root.resolve() for root in roots]
        self._private = [path.resolve() for path in private]
        self._network = network

    def resolve(self, repo: Repo) -> Resolved:
        """Return the repository if sandboxes may clone it. Raises `InvalidMessage` if they may not.

        An address in the form `user@host:path` is returned as an `ssh://` URL.
        """
        if repo.ref is not None and not _REFS.fullmatch(repo.ref):
            raise InvalidMessage(f"{repo.ref[:80]!r} is not a valid name of a branch, tag or commit", field=_REF)
        address = ssh_url(repo.url) or repo.url
        url = _parsed(address)
        if url.scheme == "file":
            return self._local(url.netloc, unquote(url.path))
        if url.scheme not in _REMOTE or not url.hostname or url.hostname.startswith("-"):
            raise InvalidMessage(
                "a repository's URL must begin with file, https, http or ssh, or have the form user@host:path",
                field=URL,
            )
        if url.password or (url.username and url.scheme != "ssh"):
            raise InvalidMessage("a repository's URL must not contain credentials; remove them", field=URL)
        if self._network == "none":
            raise InvalidMessage(
                "sandboxes have no network and can clone only file:// URLs; an operator can set "
                "MUSTER_SANDBOX_NETWORK=host",
                field=URL,
            )
        return Resolved(address, None)

    def _local(self, host: str, text: str) -> Resolved:
        if host not in ("", "localhost") or "\0" in text:
            raise InvalidMessage("a file URL must name a path on this host: file:///path", field=URL)
        try:
            path = Path(text).resolve()
            there = path.is_dir()
        except (OSError, RuntimeError) as error:  # `resolve` fails, for example, if a name in the path is too long
            raise InvalidMessage(
                f"the repository's path is not valid: {getattr(error, 'strerror', error)}", field=URL
            ) from None
        if not any(path.is_relative_to(root) for root in self._roots):
            roots = ", ".join(map(str, self._roots)) or "none"
            raise InvalidMessage(
                f"sandboxes may clone local repositories only below {roots}; to allow this one, start the stack with "
                f"muster up --repo-root {shlex.quote(str(path))}, or set MUSTER_REPO_ROOTS where the stack is started",
                field=URL,
            )
        if any(path.is_relative_to(private) or private.is_relative_to(path) for private in self._private):
            raise InvalidMessage(
                f"{path} contains the data of Muster or lies inside of it; choose a repository outside of that data",
                field=URL,
            )
        if not there:
            raise InvalidMessage(f"the repository's directory {path} does not exist", field=URL)
        with git_directory(path):
            return Resolved(path.as_uri(), path)


def _parsed(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port  # `urlsplit` validates the port of a URL only when the port is read
    except ValueError as error:
        raise InvalidMessage(f"the repository's URL is not valid: {error}", field=URL) from None
    if _BLANK_OR_CONTROL.search(text):
        raise InvalidMessage("the repository's URL contains a space or a control character; remove it", field=URL)
    return url
