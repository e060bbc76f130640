"""Which code a sandbox's worker is started from: an installed package, or one of the user's own folders."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.common.contracts.packages import Resources
from muster.common.faults import InvalidMessage
from muster.common.manifests import import_root, package_folders, read_manifest

_PACKAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class PackageCode:
    """What `python -m` is given, and for a folder what the worker must be able to read and import from."""

    module: str
    limits: Resources
    folder: Path | None = None
    imports: Path | None = None


class Packages:
    """The same order as the manager's discovery: what is installed comes first. Nothing is kept: folders change."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots

    def find(self, name: str) -> PackageCode:
        """Raises `InvalidMessage` for a package that is not here, or not for sandboxes."""
        if not _PACKAGE.fullmatch(name):
            raise InvalidMessage(f"{name[:80]!r} is not the name of a package", field="$.package")
        if (spec := importlib.util.find_spec(f"muster.agents.{name}")) is not None and spec.origin:
            return PackageCode(f"muster.agents.{name}", read_manifest(Path(spec.origin).parent).resources)
        for folder in (folder for root in self._roots for folder in package_folders([root])):
            if (code := _code(name, folder)) is not None:
                return code
        raise InvalidMessage(f"the agent package {name} is not installed here", field="$.package")


def _code(name: str, folder: Path) -> PackageCode | None:
    try:
        manifest = read_manifest(folder)
    except InvalidMessage:  # the manager lists it with the reason
        return None
    if manifest.name != name:
        return None
    if "sandbox" not in manifest.modes:
        raise InvalidMessage(f"the agent package {name} does not run in a sandbox (its modes)", field="$.package")
    return PackageCode(manifest.module, manifest.resources, folder, import_root(folder, manifest))
