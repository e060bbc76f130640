"""Commits an accepted result and pushes it to a branch of its repository.

The commit depends only on the task's stored result: its base, its diff, its texts and the time of its acceptance. So a
repeated push makes the same commit, and finds it on the branch. The new objects are in a folder of their own, because
the cached copy of the repository is copied for other sandboxes.
"""

import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from muster.common.contracts.gateway import DeliverResult
from muster.common.faults import InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.adapters.git_process import GitAnswer, GitProcess
from muster.sandbox_gateway.repositories.adapters.mirror_cache import MirrorCache
from muster.sandbox_gateway.repositories.adapters.revisions import PLAIN_GIT, commit_of
from muster.sandbox_gateway.repositories.domain.addresses import RemoteAddress
from muster.sandbox_gateway.repositories.domain.deliveries import (
    BRANCH_FIELD,
    branch_taken,
    commit_message,
    push_error,
)
from muster.sandbox_gateway.repositories.domain.git_errors import told

_AUTHOR: Final = {"NAME": "Muster agent", "EMAIL": "agent@muster.invalid"}
_SHA256_CHARS = 64
_HOST_FAULT = re.compile(
    r"No space left|unable to (write|create)|out of memory|cannot allocate|Disk quota exceeded", re.IGNORECASE
)


class ResultCommit(msgspec.Struct, frozen=True):
    """A commit with an accepted result, in a repository that exists only during the delivery."""

    commit: str
    folder: Path
    target: str
    """The branch that a pull request merges into."""


class ResultCommits:
    """Makes commits of accepted results, and pushes them."""

    def __init__(self, cache: MirrorCache) -> None:
        self._cache = cache

    @asynccontextmanager
    async def committed(self, result: DeliverResult, address: RemoteAddress) -> AsyncGenerator[ResultCommit]:
        """Yield the commit of a result, in a folder that is removed when the context ends.

        Raises `InvalidMessage` if the repository no longer contains the base, or the diff does not apply to it.
        """
        async with (
            self._cache.reading(address, result.base) as copy,
            # A leftover beside the copy is removed with those of clones.
            result_commit(result, copy / "objects", beside=copy) as (commit, folder),
        ):
            yield ResultCommit(commit, folder, await _target(copy, result.repo.ref))

    async def push(self, made: ResultCommit, branch: str, address: RemoteAddress, git: GitProcess) -> None:
        """Push a commit to a new branch. A branch that contains the commit already is not changed.

        Raises `Forbidden` without the right to push, `InvalidMessage` if the branch has other commits, and
        `Unavailable` if the host does not answer now.
        """
        ref = f"refs/heads/{branch}"
        asked = await git.run("ls-remote", "--", address.url, ref)
        if asked.code:
            raise push_error(asked.said, address, branch)
        now = asked.text.partition("\t")[0]
        if now and now != made.commit:
            await _check_contains(made, ref, address, git)
            return
        if not now:
            lease = f"--force-with-lease={ref}:"  # The branch must not exist, also not since it was looked up.
            push = ("push", "-q", "--no-verify", lease, "--", address.url, f"{made.commit}:{ref}")
            answer = await git.run(*push, folder=made.folder)
            if answer.code:
                raise push_error(answer.said, address, branch, field=BRANCH_FIELD)


@asynccontextmanager
async def result_commit(
    result: DeliverResult, objects: Path, *, beside: Path | None = None
) -> AsyncGenerator[tuple[str, Path]]:
    """Yield the commit of a result, and the new bare repository with its objects, which is removed at the end.

    `objects` is the directory with the objects of the repository that the result belongs to. It is only read.
    """
    folder = Path(tempfile.mkdtemp(prefix="new.", dir=beside.parent if beside else None))
    try:
        await _prepare(folder, objects, result)
        yield await _commit(folder, result), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _prepare(folder: Path, objects: Path, result: DeliverResult) -> None:
    form = "sha256" if len(result.base) == _SHA256_CHARS else "sha1"
    _done(await PLAIN_GIT.run("init", "-q", "--bare", "--template=", f"--object-format={form}", "--", str(folder)))
    (folder / "objects" / "info").mkdir(exist_ok=True)
    (folder / "objects" / "info" / "alternates").write_text(f"{objects}\n")
    known = await PLAIN_GIT.run("cat-file", "-e", f"{result.base}^{{commit}}", folder=folder)
    if known.code and not _is_fault_of_host(known):
        raise InvalidMessage(f"the repository no longer contains the commit {result.base}")
    checked = await PLAIN_GIT.run("check-ref-format", "--branch", result.branch)
    if checked.code:
        raise InvalidMessage(f"{result.branch} is not a valid name of a branch", field=BRANCH_FIELD)


async def _commit(folder: Path, result: DeliverResult) -> str:
    index = folder / "delivery.index"
    _done(await PLAIN_GIT.run("read-tree", result.base, folder=folder, index=index))
    diff = result.diff if result.diff.endswith("\n") else f"{result.diff}\n"
    apply = ("apply", "--cached", "--binary", "--whitespace=nowarn", "-")
    applied = await PLAIN_GIT.run(*apply, folder=folder, index=index, sent=diff.encode())
    if applied.code and not _is_fault_of_host(applied):
        raise InvalidMessage(f"the diff does not apply to the commit {result.base}: {applied.said.strip()[-300:]}")
    _done(applied)
    tree = _done(await PLAIN_GIT.run("write-tree", folder=folder, index=index)).text
    said = commit_message(result).encode()
    make = ("commit-tree", tree, "-p", result.base)
    made = await PLAIN_GIT.run(*make, folder=folder, sent=said, env=_identity(result))
    if made.code and not _is_fault_of_host(made):
        raise InvalidMessage(f"the result cannot be committed: {made.said.strip()[-300:]}")
    return _done(made).text


def _is_fault_of_host(answer: GitAnswer) -> bool:
    """Return whether git was killed, or could not write to the disk."""
    return answer.code < 0 or _HOST_FAULT.search(answer.said) is not None


def _done(answer: GitAnswer) -> GitAnswer:
    """Return the answer of a command that succeeds with every result. Raises `Unavailable` if it failed."""
    if answer.code:
        raise Unavailable(f"the gateway could not commit the result; it is tried again: {told(answer.said)}")
    return answer


def _identity(result: DeliverResult) -> Mapping[str, str]:
    at = f"{int(result.accepted_at.timestamp())} +0000"
    names = {f"GIT_{role}_{name}": text for role in ("AUTHOR", "COMMITTER") for name, text in _AUTHOR.items()}
    return {**names, "GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}


async def _check_contains(made: ResultCommit, ref: str, address: RemoteAddress, git: GitProcess) -> None:
    """Raise `InvalidMessage` unless the remote branch has only commits of others after the commit of this task."""
    branch = ref.removeprefix("refs/heads/")
    fetched = await git.run("fetch", "-q", "--no-tags", "--", address.url, f"+{ref}:refs/found", folder=made.folder)
    if fetched.code:
        raise push_error(fetched.said, address, branch)
    ancestor = await PLAIN_GIT.run("merge-base", "--is-ancestor", made.commit, "refs/found", folder=made.folder)
    if ancestor.code:
        raise branch_taken(address.name, branch)


async def _target(copy: Path, ref: str | None) -> str:
    """Return the branch that the work began from; the default branch if it began from a tag or a commit."""
    if ref is not None:
        name = ref.removeprefix("refs/heads/").removeprefix("origin/")
        if await commit_of(copy, f"refs/heads/{name}"):
            return name
    return (await PLAIN_GIT.run("symbolic-ref", "-q", "--short", "HEAD", folder=copy)).text
