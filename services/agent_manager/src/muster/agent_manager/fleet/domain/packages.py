"""The packages that discovery found, and which of them can be used."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from muster.common.contracts.packages import Manifest, PackageView
from muster.common.faults import InvalidMessage


class DiscoveredPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package folder as it was read: its manifest, or the reason why it has none."""

    folder: Path
    digest: str
    manifest: Manifest | None = None
    reason: str | None = None


def listed(found: Iterable[DiscoveredPackage], *, allowed: Sequence[str] = ()) -> list[PackageView]:
    """Return all packages by name. Of two with the same name the one that was found first can be used.

    `allowed`: only these may be used; empty means all.
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
    """Return a text that JSON can hold: the name of a file may hold bytes that are not text."""
    return text.encode(errors="replace").decode()


class Catalogue:
    """The packages that this process found last."""

    def __init__(self) -> None:
        self.packages: tuple[PackageView, ...] = ()
        self._usable: dict[str, PackageView] = {}

    def show(self, packages: Iterable[PackageView]) -> None:
        """Replace the packages."""
        self.packages = tuple(packages)
        self._usable = {view.name: view for view in self.packages if view.usable}

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests of all usable packages, by name."""
        return [view.manifest for view in self._usable.values() if view.manifest is not None]

    def manifest(self, name: str) -> Manifest | None:
        """Return the manifest of a usable package, or None."""
        view = self._usable.get(name)
        return None if view is None else view.manifest

    def folder(self, name: str) -> Path | None:
        """Return the folder of a usable package, or None."""
        view = self._usable.get(name)
        return None if view is None else Path(view.folder)

    def why_not(self, name: str) -> str:
        """Return why a package cannot be used, for the person who asked for it."""
        for view in self.packages:
            if view.name == name and view.reason:
                return f"package {name} cannot be used: {view.reason}"
        there = ", ".join(sorted(self._usable)) or "none"
        return f"there is no package {name[:80]!r}; there are: {there}"

    def usable(self, name: str, *, field: str = "$.package") -> Manifest:
        """Return the manifest of a usable package. Raises `InvalidMessage` naming `field`."""
        if (manifest := self.manifest(name)) is None:
            raise InvalidMessage(self.why_not(name), field=field)
        return manifest
