"""The agent packages that were found in the package folders, and the rules that decide which can be used."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from muster.common.contracts.packages import Manifest, PackageView
from muster.common.faults import InvalidMessage


class DiscoveredPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package folder that was read: its manifest, or the reason why the manifest cannot be read."""

    folder: Path
    digest: str
    manifest: Manifest | None = None
    reason: str | None = None


def listed(found: Iterable[DiscoveredPackage], *, allowed: Sequence[str] = ()) -> list[PackageView]:
    """Return the views of all packages, sorted by name.

    If several packages have the same name, only the first found can be used. If `allowed` is not empty, only packages
    with these names can be used.
    """
    views: list[PackageView] = []
    first: dict[str, Path] = {}
    for one in found:
        name = one.manifest.name if one.manifest else one.folder.name
        reason = one.reason
        if one.manifest is not None and reason is None:
            if (taken := first.setdefault(name, one.folder)) != one.folder:
                reason = f"the package in {taken} has the name {name} too, and was found first; rename one of them"
            elif allowed and name not in allowed:
                reason = f"{name} is not in MUSTER_PACKAGES; add it, or leave MUSTER_PACKAGES empty to allow all"
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
    """Replace the characters that UTF-8 cannot encode; names of files may contain such characters."""
    return text.encode(errors="replace").decode()


class Catalogue:
    """The packages that this process found in its last search."""

    def __init__(self) -> None:
        self.packages: tuple[PackageView, ...] = ()
        self._usable: dict[str, PackageView] = {}

    def show(self, packages: Iterable[PackageView]) -> None:
        """Replace the known packages by the result of a new search."""
        self.packages = tuple(packages)
        self._usable = {view.name: view for view in self.packages if view.usable}

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests of all packages that can be used."""
        return [view.manifest for view in self._usable.values() if view.manifest is not None]

    def manifest(self, name: str) -> Manifest | None:
        """Return the manifest of a package that can be used, or None."""
        view = self._usable.get(name)
        return None if view is None else view.manifest

    def folder(self, name: str) -> Path | None:
        """Return the folder of a package that can be used, or None."""
        view = self._usable.get(name)
        return None if view is None else Path(view.folder)

    def why_not(self, name: str) -> str:
        """Return the reason why a package cannot be used, as a text for the user."""
        for view in self.packages:
            if view.name == name and view.reason:
                return f"package {name} cannot be used: {view.reason}"
        there = ", ".join(sorted(self._usable)) or "none"
        return f"there is no package {name[:80]!r}; there are: {there}"

    def usable(self, name: str, *, field: str = "$.package") -> Manifest:
        """Return the manifest of a package. Raises `InvalidMessage` for `field` if the package cannot be used."""
        if (manifest := self.manifest(name)) is None:
            raise InvalidMessage(self.why_not(name), field=field)
        return manifest
