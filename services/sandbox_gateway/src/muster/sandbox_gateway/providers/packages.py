"""Finds the code of an agent package, first among the installed packages, then in the configured folders."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from muster.common.contracts.packages import Resources, granted
from muster.common.faults import InvalidMessage
from muster.common.manifests import import_root, package_folders, read_manifest

_PACKAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class PackageCode:
    """The code of an agent package, and the resource limits that the package sets.

    The worker is started with `python -m <module>`. For a package in a folder, the sandbox must be able to read
    `folder`, and the worker's PYTHONPATH is `imports`.
    """

    module: str
    limits: Resources
    folder: Path | None = None
    imports: Path | None = None
    provider: str | None = None
    """The provider of sandboxes that the package asks for."""
    preload: tuple[str, ...] = ()
    """Modules that a provider imports before it starts workers of the package."""


class Packages:
    """Finds agent packages in the same order as the agent manager, installed ones first. Each call reads the disk."""

    def __init__(self, roots: Sequence[Path], most: Resources | None = None) -> None:
        self._roots, self._most = roots, most or Resources()

    @property
    def default_limits(self) -> Resources:
        """The resource limits of a package that sets none."""
        return granted(Resources(), self._most)

    def find(self, name: str) -> PackageCode:
        """Return the code of an agent package, with the resource limits that hold for it.

        Raises `InvalidMessage` if the package is not installed, does not run in a sandbox, or wants more resources than
        the operator grants.
        """
        code = self._found(name)
        return replace(code, limits=granted(code.limits, self._most))

    def _found(self, name: str) -> PackageCode:
        if not _PACKAGE.fullmatch(name):
            raise InvalidMessage(f"{name[:80]!r} is not a valid name of an agent package", field="$.package")
        if (spec := importlib.util.find_spec(f"muster.agents.{name}")) is not None and spec.origin:
            manifest = read_manifest(Path(spec.origin).parent)
            return PackageCode(
                f"muster.agents.{name}", manifest.resources, provider=manifest.provider, preload=manifest.preload
            )
        for folder in (folder for root in self._roots for folder in package_folders([root])):
            if (code := _code(name, folder)) is not None:
                return code
        raise InvalidMessage(f"the agent package {name} is not installed on the gateway's host", field="$.package")


def _code(name: str, folder: Path) -> PackageCode | None:
    try:
        manifest = read_manifest(folder)
    except InvalidMessage:  # the agent manager, not the gateway, reports invalid packages
        return None
    if manifest.name != name:
        return None
    if "sandbox" not in manifest.modes:
        text = f"the agent package {name} does not run in a sandbox; choose one with the mode `sandbox`"
        raise InvalidMessage(text, field="$.package")
    imports = import_root(folder, manifest)
    return PackageCode(manifest.module, manifest.resources, folder, imports, manifest.provider, manifest.preload)
