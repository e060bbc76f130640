"""Makes the bare repository that a sandbox clones, from a local or a remote repository."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.local_copies import mirror
from muster.sandbox_gateway.repositories.adapters.mirror_cache import MirrorCache
from muster.sandbox_gateway.repositories.adapters.revisions import missing_parts

_COPIES_AT_ONCE = 4


class RepositoryCopies:
    """Copies repositories for sandboxes. A copy contains no credential, no configuration and no hooks."""

    def __init__(self, allowed: AllowedRepositories, cache: MirrorCache | None = None) -> None:
        """Set the rule for repositories, and the cache of remote ones. Without a cache, remote ones are refused."""
        self.allowed, self._cache = allowed, cache
        self._threads = ThreadPoolExecutor(_COPIES_AT_ONCE, "repository-copy")

    def check(self, repo: Repo) -> None:
        """Raise `InvalidMessage` if a sandbox can never get this repository. Reads the disk, but asks no host."""
        self.allowed.resolve(repo)

    async def copy_for(self, repo: Repo, target: Path) -> None:
        """Make a bare repository at `target`, completely or not at all. An existing one is not changed.

        Raises `InvalidMessage` if the repository cannot be copied, `Unavailable` if its host does not answer now, and
        `OSError` if the disk is full or the copy takes too long.
        """
        if not await asyncio.to_thread(target.is_dir):
            await asyncio.to_thread(target.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            await self._make(repo, target)

    async def missing_parts(self, copy: Path, repo: Repo) -> Sequence[str]:
        """Return sentences about the parts that a copy lacks: submodules, and files of Git LFS."""
        return await missing_parts(copy, repo.ref)

    async def _make(self, repo: Repo, target: Path) -> None:
        found = await asyncio.to_thread(self.allowed.resolve, repo)
        if found.path is not None:
            await self._copy(found.path, target)
        elif found.remote is not None and self._cache is not None:
            async with self._cache.reading(found.remote, repo.ref) as copy:
                await self._copy(copy, target)
        else:
            raise InvalidMessage("this gateway copies only local repositories", field="$.repo.url")

    async def _copy(self, source: Path, target: Path) -> None:
        ended = threading.Event()
        work = partial(mirror, source, target, cancelled=ended.is_set)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            ended.set()
