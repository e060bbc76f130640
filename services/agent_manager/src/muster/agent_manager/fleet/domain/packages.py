"""The packages there are: what was found on disk, and which of it can be used."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from muster.common.contracts.packages import Manifest, PackageView
from muster.common.faults import InvalidMessage


class DiscoveredPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package folder as it was read: its manifest, or why there is none."""

    folder: Path
    digest: str
    manifest: Manifest | None = None
    reason: str | None = None


def listed(found: Iterable[DiscoveredPackage], *, allowed: Sequence[str] = ()) -> list[PackageView]:
    """All of them, by name. Of two that call themselves the same, the one found first counts.

    `allowed`: only these may be used; none means all.
    """
    views: list[PackageView] = []
    first: dict[str, Path] = {}
    for one in found:
        name = one.manifest.name if one.manifest else one.folder.name
        reason = one.reason
        if one.manifest is not None and reason is None:
            if (taken := first.setdefault(name, one.folder)) != one.folder:
                reason = f"{taken} is called {name} too, and was found first; give one of them another name"
            elif allowed and name not in allowed:
                reason = f"{name} is not in MUSTER_PACKAGES; add it there, or leave that empty for all"
        views.append(
            PackageView(
                name=spoken(name),
                folder=spoken(str(one.folder)),
                usable=one.manifest is not None and reason is None,
                manifest=one.manifest,
                reason=reason and spoken(reason),
                digest=one.digest,
            )
        )
    return sorted(views, key=lambda view: (view.name, not view.usable, view.folder))


def spoken(text: str) -> str:
    """As JSON can say it: a file's name may be bytes that are no text."""
    return text.encode(errors="replace").decode()


class Catalogue:
    """The packages as this process last saw them."""

    def __init__(self) -> None:
        self.packages: tuple[PackageView, ...] = ()
        self._usable: dict[str, PackageView] = {}

    def show(self, packages: Iterable[PackageView]) -> None:
        """From now on it is these."""
        self.packages = tuple(packages)
        self._usable = {view.name: view for view in self.packages if view.usable}

    @property
    def manifests(self) -> list[Manifest]:
        """Of all that can be used, by name."""
        return [view.manifest for view in self._usable.values() if view.manifest is not None]

    def manifest(self, name: str) -> Manifest | None:
        """What a usable package says of itself."""
        view = self._usable.get(name)
        return None if view is None else view.manifest

    def folder(self, name: str) -> Path | None:
        """Where a usable package is."""
        view = self._usable.get(name)
        return None if view is None else Path(view.folder)

    def why_not(self, name: str) -> str:
        """A sentence for whoever wanted a package that cannot be used."""
        for view in self.packages:
            if view.name == name and view.reason:
                return f"package {name} cannot be used: {view.reason}"
        there = ", ".join(sorted(self._usable)) or "none"
        return f"there is no package {name[:80]!r}; there are: {there}"

    def usable(self, name: str, *, field: str = "$.package") -> Manifest:
        """The manifest of a package that can be used. Raises `InvalidMessage` naming `field`."""
        if (manifest := self.manifest(name)) is None:
            raise InvalidMessage(self.why_not(name), field=field)
        return manifest
