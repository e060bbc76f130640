"""Decides whether a sandbox may get a copy of a git repository.

A local repository must lie below an allowed root. The rules for remote repositories are in `git_host_rules`.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules
from muster.sandbox_gateway.repositories.adapters.local_copies import git_directory
from muster.sandbox_gateway.repositories.domain.addresses import (
    REF_FIELD,
    URL_FIELD,
    RemoteAddress,
    parsed,
    remote_address,
)

_REFS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}")


class Resolved(msgspec.Struct, frozen=True):
    """A git repository that sandboxes may get: the path of a local one without links, or a remote one's address."""

    path: Path | None = None
    remote: RemoteAddress | None = None


class AllowedRepositories:
    """The rule of this deployment for the git repositories that sandboxes may get."""

    def __init__(self, roots: Sequence[Path], hosts: GitHostRules, *, private: Sequence[Path] = ()) -> None:
        """Set the directories of allowed local repositories (`roots`), and the rules for remote ones (`hosts`).

        A repository is refused if it contains a path in `private` (keys, sockets, data) or lies inside of such a path.
        """
        self._roots = [root.resolve() for root in roots]
        self._private = [path.resolve() for path in private]
        self._hosts = hosts

    def resolve(self, repo: Repo) -> Resolved:
        """Return the repository if sandboxes may get it. Raises `InvalidMessage` if they may not.

        Reads the disk, but sends nothing to the host of a remote repository.
        """
        if repo.ref is not None and not _REFS.fullmatch(repo.ref):
            raise InvalidMessage(f"{repo.ref[:80]!r} is not a valid name of a branch, tag or commit", field=REF_FIELD)
        url = parsed(repo.url)
        if url.scheme == "file":
            return Resolved(path=self._local(url.netloc, unquote(url.path)))
        address = remote_address(url)
        self._hosts.access(address)
        return Resolved(remote=address)

    def _local(self, host: str, text: str) -> Path:
        if host not in ("", "localhost") or "\0" in text:
            raise InvalidMessage("a file URL must name a path on this host: file:///path", field=URL_FIELD)
        try:
            path = Path(text).resolve()
            there = path.is_dir()
        except (OSError, RuntimeError) as error:  # `resolve` fails, for example, if a name in the path is too long
            raise InvalidMessage(
                f"the repository's path is not valid: {getattr(error, 'strerror', error)}", field=URL_FIELD
            ) from None
        if not any(path.is_relative_to(root) for root in self._roots):
            roots = ", ".join(map(str, self._roots)) or "none"
            raise InvalidMessage(
                f"sandboxes may clone local repositories only below {roots}; to allow this one, start the stack with "
                f"muster up --repo-root {shlex.quote(str(path))}, or set MUSTER_REPO_ROOTS where the stack is started",
                field=URL_FIELD,
            )
        if any(path.is_relative_to(private) or private.is_relative_to(path) for private in self._private):
            raise InvalidMessage(
                f"{path} contains the data of Muster or lies inside of it; choose a repository outside of that data",
                field=URL_FIELD,
            )
        if not there:
            raise InvalidMessage(f"the repository's directory {path} does not exist", field=URL_FIELD)
        with git_directory(path):
            return path
