"""Reads commits of a copy of a repository, with git processes that reach no other host."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from muster.sandbox_gateway.repositories.adapters.git_process import GitProcess
from muster.sandbox_gateway.repositories.domain.remote_refs import commit_candidates

PLAIN_GIT: Final = GitProcess()
"""git without any transport, for repositories of the gateway itself."""
_NO_SUBMODULES = (
    "The repository has submodules. Their files are not in the workspace, because submodules are not fetched."
)
_NO_LFS = (
    "The repository has files in Git LFS. The workspace contains their pointer files, because Git LFS is not supported."
)


async def commit_of(copy: Path, ref: str | None) -> str | None:
    """Return the commit that a name stands for in a copy; None if no branch or tag contains such a commit."""
    for name, must_be_reachable in commit_candidates(ref):
        found = await PLAIN_GIT.run("rev-parse", "-q", "--verify", f"{name}^{{commit}}", folder=copy)
        if not found.code and (not must_be_reachable or await is_reachable(copy, found.text)):
            return found.text
    return None


async def is_reachable(copy: Path, commit: str) -> bool:
    """Return whether a branch or tag of a copy contains this commit."""
    contains = ("for-each-ref", "--count=1", f"--contains={commit}", "refs/heads", "refs/tags")
    return bool((await PLAIN_GIT.run(*contains, folder=copy)).text)


async def missing_parts(copy: Path, ref: str | None) -> Sequence[str]:
    """Return sentences about the parts of a commit that a clone of the copy does not contain."""
    commit = await commit_of(copy, ref)
    if commit is None:
        return ()
    names = (await PLAIN_GIT.run("ls-tree", "--name-only", commit, folder=copy)).text.splitlines()
    missing = [_NO_SUBMODULES] if ".gitmodules" in names else []
    if ".gitattributes" in names:
        found = await PLAIN_GIT.run("cat-file", "blob", f"{commit}:.gitattributes", folder=copy)
        missing += [_NO_LFS] if b"filter=lfs" in found.output else []
    return missing
