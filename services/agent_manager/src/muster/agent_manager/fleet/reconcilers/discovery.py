"""Searches for agent packages when the service starts, when a file in a package folder changes, and at intervals."""

import asyncio
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType] - one of its parameters

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.domain.config_check import unsound
from muster.agent_manager.fleet.domain.packages import Catalogue, DiscoveredPackage, listed, spoken
from muster.agent_manager.fleet.store import agents
from muster.common.contracts.packages import Manifest, PackageView
from muster.common.faults import Fault, InvalidMessage
from muster.common.manifests import digest, package_folders, read_manifest

log = structlog.get_logger()

NAMESPACE = "muster.agents"
RETRY_S: Final = 1.0
LONGEST_REASON: Final = 500

Seen = frozenset[tuple[Path, int]]
"""Folders by path and inode: a folder that was deleted and created again counts as another folder."""


def installed_roots() -> list[Path]:
    """Return the folders that contain installed agent packages: all folders of the namespace `muster.agents`."""
    spec = find_spec(NAMESPACE)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def read_packages(roots: Sequence[Path]) -> list[DiscoveredPackage]:
    """Read every package below the root folders, in the order of the folders. Blocks: call this in a thread."""
    folders = {folder: None for root in roots for folder in package_folders([root])}
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> DiscoveredPackage:
    """Read one agent package. Any error becomes the reason why it cannot be used, and affects no other package."""
    content, manifest = "", None
    if spoken(str(folder)) != str(folder):
        return DiscoveredPackage(
            folder=folder, digest=content, reason="the folder's path contains bytes that are not text; rename it"
        )
    try:
        content, manifest = digest(folder), read_manifest(folder)
        reason = unsound(manifest)
    except InvalidMessage as refusal:
        reason = str(refusal)
    except Exception as error:  # noqa: BLE001 - the files may contain anything, as any author may write them
        reason = f"cannot be read: {type(error).__name__}: {error}"[:LONGEST_REASON]
    return DiscoveredPackage(folder=folder, digest=content, manifest=manifest, reason=reason)


class Discovery:
    """Updates the catalogue of packages from their folders, and the stored agents from the manifests of packages."""

    def __init__(
        self,
        database: ManagerDatabase,
        catalogue: Catalogue,
        *,
        roots: Sequence[Path],
        allowed: Sequence[str],
        every_s: float,
    ) -> None:
        self._database, self._catalogue = database, catalogue
        self._roots, self._allowed, self._every_s = roots, allowed, every_s
        self._told: dict[str, Manifest] = {}
        """The manifest of each package for which the agents in the database are up to date."""

    async def look(self) -> None:
        """Search for packages once. If changes cannot be stored, raises `Unavailable` and keeps the old catalogue."""
        found = await asyncio.to_thread(read_packages, self._roots)
        packages = listed(found, allowed=self._allowed)
        for view in packages:
            if view.usable and view.manifest is not None and self._told.get(view.name) != view.manifest:
                await self._tell(view.manifest)
        _log_changes(self._catalogue.packages, packages)
        # The catalogue is updated last: as soon as it lists a package, a task may need the package's default agent.
        self._catalogue.show(packages)

    async def run(self) -> None:
        """Search for packages at start, after each change of a file, and at intervals, until cancelled."""
        while True:
            there = await asyncio.to_thread(_there, self._roots)
            changed = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(_watch(there, changed))
                await asyncio.sleep(0)  # The task `watching` starts now, so no later change of a file is missed.
                await self._while_there(there, changed)
                watching.cancel()

    async def _while_there(self, there: Seen, changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            wait_s = self._every_s
            try:
                await self.look()
            except Fault as error:
                log.warning("discovered packages not stored", error=str(error))
                wait_s = min(RETRY_S, wait_s)
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                pass
            if await asyncio.to_thread(_there, self._roots) != there:
                return

    async def _tell(self, manifest: Manifest) -> None:
        async with self._database.begin() as tx:
            await agents.ensure_default(tx, manifest)
        told = True
        while told:  # Each transaction updates at most 200 agents; a package may have thousands.
            async with self._database.begin() as tx:
                told = await agents.follow_package(tx, manifest)
        self._told[manifest.name] = manifest


def _there(roots: Iterable[Path]) -> Seen:
    return frozenset((root, root.stat().st_ino) for root in roots if root.is_dir())


async def _watch(folders: Seen, changed: asyncio.Event) -> None:
    paths = [path for path, _ in folders]
    if not paths:
        return
    try:
        async for _ in awatch(*paths):
            changed.set()
    except (OSError, RuntimeError) as error:
        # The folders cannot be watched: the limit of inotify watches is reached, or a folder was deleted.
        log.warning("package folders not watched", error=str(error))


def _log_changes(before: Iterable[PackageView], after: Iterable[PackageView]) -> None:
    known = {view.folder: view for view in before}
    for view in after:
        if known.pop(view.folder, None) != view:
            log.info(
                "package discovered", package=view.name, folder=view.folder, usable=view.usable, reason=view.reason
            )
    for gone in known.values():
        log.info("package removed", package=gone.name, folder=gone.folder)
