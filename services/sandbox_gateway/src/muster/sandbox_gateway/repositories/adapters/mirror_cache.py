"""Keeps a bare copy of each remote repository, so that the second task on a repository transfers nothing.

The copy of a repository is `<root>/<sha256>/repo.git`. The digest is made of the URL and the name of the credential, so
that a copy that needed a credential is not used without it. Beside the copy are the files `lock`, `used` and `checked`,
of which only the times of the last change of the latter two matter.

`lock` is locked for writing by the one gateway process that asks the host, and for reading by those that copy. A first
copy is made in `new.<random>` and then renamed. A killed gateway leaves such a folder, which the next writer removes;
the git process of the killed gateway keeps the lock until it ends.
"""

import asyncio
import errno
import fcntl
import hashlib
import secrets
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from muster.common.faults import InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.adapters.cache_locks import CacheLocks
from muster.sandbox_gateway.repositories.adapters.cache_space import CacheSpace, remove_copy, size_of
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules, HostAccess
from muster.sandbox_gateway.repositories.adapters.git_leftovers import remove_unfinished, remove_unfinished_packs
from muster.sandbox_gateway.repositories.adapters.git_process import GitAnswer, GitProcess
from muster.sandbox_gateway.repositories.adapters.revisions import PLAIN_GIT, commit_of
from muster.sandbox_gateway.repositories.domain.addresses import URL_FIELD, RemoteAddress
from muster.sandbox_gateway.repositories.domain.git_errors import clone_error
from muster.sandbox_gateway.repositories.domain.remote_refs import RemoteRefs, no_such_ref

_REFSPECS: Final = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_MOST_PACKS = 20
_LONGEST_WORK = 4
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class CacheLimits(msgspec.Struct, frozen=True):
    """The limits of the cache: of one repository, of all together, of the transfer, and of the age of a copy."""

    repository_bytes: int
    total_bytes: int
    deadline_s: float
    fresh_s: float


class _Failure(msgspec.Struct, frozen=True):
    """A host that did not answer, and the time until which it is not asked again."""

    error: str
    pause_s: float
    until_s: float


class _OverTheLimit(InvalidMessage):
    """A repository is larger than the limit."""


class MirrorCache:
    """The bare copies of remote repositories on this host, which several gateway processes may share."""

    def __init__(self, root: Path, hosts: GitHostRules, limits: CacheLimits) -> None:
        self._root, self._hosts, self._limits = root, hosts, limits
        self._space = CacheSpace(root, limits.total_bytes)
        self._failures: dict[str, _Failure] = {}
        # The process that holds a lock may list the references, transfer, and repack, each with its own deadline.
        self._locks = CacheLocks(wait_s=_LONGEST_WORK * limits.deadline_s)

    @asynccontextmanager
    async def reading(self, address: RemoteAddress, ref: str | None) -> AsyncGenerator[Path]:
        """Yield the path of a copy that contains `ref`, which does not change until the context ends.

        The host is asked if the copy does not contain `ref`, or if it was last asked longer than `fresh_s` seconds ago
        and `ref` may have moved. Raises `InvalidMessage` if the repository or `ref` cannot be copied, `Unavailable` if
        that may succeed later, and `OSError` if the disk is full.
        """
        access = await asyncio.to_thread(self._hosts.access, address)
        entry = self._entry(address, access)
        if not await self._usable(entry, ref):
            await self._renew(entry, address, access, ref)
        async with self._locks.locked(entry, fcntl.LOCK_SH):
            copy = entry / "repo.git"
            if not copy.is_dir():
                raise Unavailable(f"the copy of {address.name} was removed to free space; it is made again")
            (entry / "used").touch()
            yield copy

    def _entry(self, address: RemoteAddress, access: HostAccess) -> Path:
        digest = hashlib.sha256(f"{address.url}\0{access.name}".encode()).hexdigest()
        entry = self._root / digest
        entry.mkdir(mode=0o700, parents=True, exist_ok=True)
        return entry

    async def _usable(self, entry: Path, ref: str | None) -> bool:
        async with self._locks.locked(entry, fcntl.LOCK_SH):
            copy = entry / "repo.git"
            if not copy.is_dir() or await commit_of(copy, ref) is None:
                return False
            # A full commit id never moves, so the host need not be asked again.
            return _is_commit_id(ref) or _age_s(entry / "checked") < self._limits.fresh_s

    async def _renew(self, entry: Path, address: RemoteAddress, access: HostAccess, ref: str | None) -> None:
        self._refuse_too_soon(entry.name)
        try:
            async with self._locks.locked(entry, fcntl.LOCK_EX) as lock:
                copy = entry / "repo.git"
                if _age_s(entry / "checked") >= self._limits.fresh_s or await _commit_in(copy, ref) is None:
                    await self._fetch(entry, address, access, lock)
                if await _commit_in(copy, ref) is None:
                    raise no_such_ref(address, ref)
        except Unavailable as error:
            self._remember(entry.name, error)
            raise
        self._failures.pop(entry.name, None)

    async def _fetch(self, entry: Path, address: RemoteAddress, access: HostAccess, lock: int) -> None:
        """Bring the copy up to date with the host. The caller holds the lock for writing."""
        await asyncio.to_thread(self._space.make_room, entry)
        git = await self._hosts.git(address, access, deadline_s=self._limits.deadline_s)
        asked = ("ls-remote", "--symref", "--", address.url, "HEAD", "refs/heads/*", "refs/tags/*")
        answer = _checked(await git.run(*asked, keep_open=[lock]), address, access)
        # A repository may have 100,000 references. The threads keep the gateway's event loop free meanwhile.
        refs = await asyncio.to_thread(RemoteRefs.parsed, answer.output)
        if not refs.commits:
            raise InvalidMessage(
                f"the repository {address.name} has no commit, or its host speaks no git over this URL", field=URL_FIELD
            )
        await asyncio.to_thread(_remove_leftovers, entry)
        copy = entry / "repo.git"
        if copy.is_dir():
            try:
                await self._transfer(git, copy, address, access, refs, lock)
            except _OverTheLimit:
                # The copy also contains what the host has removed since. The repository itself may be small enough.
                await asyncio.to_thread(remove_copy, entry)
        if not copy.is_dir():
            fresh = entry / f"new.{secrets.token_hex(4)}"
            try:
                form = f"--object-format={refs.object_format}"
                await PLAIN_GIT.run("init", "-q", "--bare", "--template=", form, "--", str(fresh))
                await self._transfer(git, fresh, address, access, refs, lock)
                fresh.rename(copy)
            finally:
                await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        (entry / "checked").touch()

    async def _transfer(
        self, git: GitProcess, copy: Path, address: RemoteAddress, access: HostAccess, refs: RemoteRefs, lock: int
    ) -> None:
        known = await PLAIN_GIT.run("for-each-ref", "--format=%(objectname) %(refname)", folder=copy)
        if not await asyncio.to_thread(refs.are_listed_in, known.output):
            await asyncio.to_thread(remove_unfinished, copy)
            before = await asyncio.to_thread(size_of, copy)

            def look() -> None:
                self._check_space(copy, address, before)

            fetch = ("fetch", "-q", "--prune", "--no-tags", "--no-write-fetch-head", "--", address.url, *_REFSPECS)
            try:
                _checked(await git.run(*fetch, folder=copy, look=look, keep_open=[lock]), address, access)
            finally:
                remove_unfinished_packs(copy)
            await asyncio.to_thread(look)
            if len(list((copy / "objects" / "pack").glob("*.pack"))) > _MOST_PACKS:
                await git.run("repack", "-adq", folder=copy, keep_open=[lock])
        if refs.head is not None:
            await PLAIN_GIT.run("symbolic-ref", "HEAD", refs.head, folder=copy)

    def _check_space(self, copy: Path, address: RemoteAddress, before: int) -> None:
        size, limit = size_of(copy), self._limits.repository_bytes
        if size > limit:
            raise _OverTheLimit(
                f"the repository {address.name} has more than {limit:,} bytes, the limit MUSTER_GIT_MAX_BYTES",
                field=URL_FIELD,
            )
        if size > before and self._space.short(copy):
            raise OSError(errno.ENOSPC, "too little space on the disk of the gateway to copy", address.name)

    def _refuse_too_soon(self, key: str) -> None:
        failure = self._failures.get(key)
        if failure is not None and asyncio.get_running_loop().time() < failure.until_s:
            raise Unavailable(failure.error)

    def _remember(self, key: str, error: Unavailable) -> None:
        before, now = self._failures.get(key), asyncio.get_running_loop().time()
        if before is not None and now < before.until_s:
            return
        pause_s = _FIRST_PAUSE_S if before is None else min(_LONGEST_PAUSE_S, 2 * before.pause_s)
        self._failures[key] = _Failure(str(error), pause_s, now + pause_s)


def _checked(answer: GitAnswer, address: RemoteAddress, access: HostAccess) -> GitAnswer:
    if answer.code:
        raise clone_error(answer.said, address, has_credential=access.has_credential)
    return answer


async def _commit_in(copy: Path, ref: str | None) -> str | None:
    return await commit_of(copy, ref) if await asyncio.to_thread(copy.is_dir) else None


def _remove_leftovers(entry: Path) -> None:
    for left in entry.glob("new.*"):
        shutil.rmtree(left, ignore_errors=True)


def _is_commit_id(ref: str | None) -> bool:
    return ref is not None and len(ref) in (40, 64) and all(letter in "0123456789abcdef" for letter in ref)


def _age_s(file: Path) -> float:
    """Return the seconds since a file was changed; infinity if it does not exist or is from the future."""
    try:
        age_s = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    return age_s if age_s >= 0 else float("inf")
