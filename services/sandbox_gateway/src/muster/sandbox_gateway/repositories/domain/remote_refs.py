"""The branches and tags of a remote repository, as `git ls-remote` reports them, and the names of commits in it."""

import re
from typing import Final, Self

import msgspec

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.repositories.domain.addresses import REF_FIELD, URL_FIELD, RemoteAddress

_KEPT: Final = ("refs/heads/", "refs/tags/")
_COMMIT_ID = re.compile(r"[0-9a-f]{7,64}")
_SHA256_CHARS = 64


class RemoteRefs(msgspec.Struct, frozen=True):
    """The object ids of all branches and tags by name, and the branch that HEAD stands for."""

    commits: dict[str, str]
    head: str | None

    @classmethod
    def parsed(cls, output: bytes) -> Self:
        """Parse the output of `git ls-remote --symref`. A hundred thousand references take about a second."""
        head: str | None = None
        commits = dict[str, str]()
        detached = ""
        for line in output.decode(errors="replace").splitlines():
            value, _, name = line.partition("\t")
            if name == "HEAD" and value.startswith("ref: refs/heads/"):
                head = value.removeprefix("ref: ")
            elif name == "HEAD":
                detached = value
            elif name.startswith(_KEPT) and not name.endswith("^{}"):
                commits[name] = value
        if head is None:  # An old server does not name the branch, or HEAD is detached.
            head = next((name for name, value in commits.items() if value == detached and _is_branch(name)), None)
        return cls(commits, head)

    def are_listed_in(self, output: bytes) -> bool:
        """Return whether the output of `git for-each-ref`, with object ids and names, has exactly these references."""
        pairs = (line.partition(" ") for line in output.decode(errors="replace").splitlines())
        return {name: value for value, _, name in pairs} == self.commits

    @property
    def object_format(self) -> str:
        """The hash function of the repository's object ids."""
        lengths = {len(value) for value in self.commits.values()}
        return "sha256" if lengths == {_SHA256_CHARS} else "sha1"


def commit_candidates(ref: str | None) -> list[tuple[str, bool]]:
    """Return the revisions that a task's `ref` may stand for, best first.

    The second value says whether the commit must be on a branch or tag, because only such commits reach a sandbox.
    """
    if ref is None:
        return [("HEAD", False)]
    found = [(f"refs/heads/{ref}", False), (f"refs/tags/{ref}", False)]
    if ref.startswith("origin/"):
        found.append((f"refs/heads/{ref.removeprefix('origin/')}", False))
    if ref.startswith(_KEPT):
        found.append((ref, False))
    if _COMMIT_ID.fullmatch(ref):
        found.append((ref, True))
    return found


def no_such_ref(address: RemoteAddress, ref: str | None) -> InvalidMessage:
    """Return the refusal of a task whose `ref` does not exist, or of a repository whose HEAD has no commit."""
    if ref is None:
        return InvalidMessage(
            f"the default branch of {address.name} has no commit; name a branch, tag or commit with ref",
            field=URL_FIELD,
        )
    return InvalidMessage(
        f"the repository {address.name} has no branch, tag or commit {ref}; correct the ref of the task",
        field=REF_FIELD,
    )


def _is_branch(name: str) -> bool:
    return name.startswith("refs/heads/")
