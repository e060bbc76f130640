"""Decides which repositories a sandbox may clone: local ones below the allowed roots, remote ones with a network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.providers.local.mirrors import URL, git_directory

_REF = "$.repo.ref"
_REFS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}")
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_REMOTE = ("https", "http", "ssh")


class Resolved(msgspec.Struct, frozen=True):
    """A repository that may be cloned. `path` is its path on this host, without links; None for a remote one."""

    url: str
    path: Path | None


class AllowedRepositories:
    """The rule of this deployment for repositories."""

    def __init__(
        self, roots: Sequence[Path], *, network: Literal["none", "host"], private: Sequence[Path] = ()
    ) -> None:
        """Set the rule. A repository must neither contain a path of `private` (keys, sockets, data) nor lie in one."""
        self._roots = [root.resolve() for root in roots]
        self._private = [path.resolve() for path in private]
        self._network = network

    def resolve(self, repo: Repo) -> Resolved:
        """Return the repository if it may be cloned. Raises `InvalidMessage` otherwise."""
        if repo.ref is not None and not _REFS.fullmatch(repo.ref):
            raise InvalidMessage(f"{repo.ref[:80]!r} is not a branch, tag or commit", field=_REF)
        url = _parsed(repo.url)
        if url.scheme == "file":
            return self._local(url.netloc, unquote(url.path))
        if url.scheme not in _REMOTE or not url.hostname or url.hostname.startswith("-"):
            raise InvalidMessage("a repository's URL must begin with file, https, http or ssh", field=URL)
        if url.password or (url.username and url.scheme != "ssh"):
            raise InvalidMessage("a repository's URL must not hold credentials", field=URL)
        if self._network == "none":
            raise InvalidMessage(
                "sandboxes here have no network, so only file:// can be cloned; set MUSTER_SANDBOX_NETWORK=host",
                field=URL,
            )
        return Resolved(repo.url, None)

    def _local(self, host: str, text: str) -> Resolved:
        if host not in ("", "localhost") or "\0" in text:
            raise InvalidMessage("a file URL must name a path on this host: file:///path", field=URL)
        try:
            path = Path(text).resolve()
            there = path.is_dir()
        except (OSError, RuntimeError) as error:  # such as a name that is too long, or a link to itself
            raise InvalidMessage(f"the path is not valid: {getattr(error, 'strerror', error)}", field=URL) from None
        if not any(path.is_relative_to(root) for root in self._roots):
            roots = ", ".join(map(str, self._roots)) or "none"
            raise InvalidMessage(
                f"repositories are cloned only from below {roots}; "
                "set MUSTER_REPO_ROOTS where the stack is started, or muster up --repo-root",
                field=URL,
            )
        if any(path.is_relative_to(private) or private.is_relative_to(path) for private in self._private):
            raise InvalidMessage(
                f"{path} contains the data of this stack or lies in it; name a repository that lies apart from it",
                field=URL,
            )
        if not there:
            raise InvalidMessage(f"there is no directory {path}", field=URL)
        with git_directory(path):
            return Resolved(path.as_uri(), path)


def _parsed(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port  # urlsplit validates the port only when it is read
    except ValueError as error:
        raise InvalidMessage(f"this is not a URL: {error}", field=URL) from None
    if _BLANK_OR_CONTROL.search(text):
        raise InvalidMessage("this is not a URL: it contains a space or a control character", field=URL)
    return url
