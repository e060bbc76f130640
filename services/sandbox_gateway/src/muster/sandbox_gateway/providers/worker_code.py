"""Collects the code that a worker imports, for sandboxes that cannot read the packages of the gateway's host."""

import hashlib
import importlib.util
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.providers.packages import PackageCode

_SHARED = ("muster.common", "muster.agent")
"""The packages of Muster that every worker imports. Libraries of others belong to the sandbox's image."""
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


class WorkerCode:
    """Directories below `root` with the code of one agent package each, named by the digest of this code."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def bundle(self, code: PackageCode) -> Path:
        """Return a directory that contains all code of Muster which the package's worker imports. Reads the disk."""
        sources = {name.replace(".", "/"): _directory(name) for name in _SHARED}
        if code.folder and code.imports:
            sources[str(code.folder.relative_to(code.imports))] = code.folder
        else:
            sources[code.module.replace(".", "/")] = _directory(code.module)
        target = self._root / _digest(sources)
        if not target.is_dir():
            self._copy(sources, target)
        with suppress(OSError):
            os.utime(target)  # Code that no worker uses for weeks is removed (`leftovers.py`).
        return target

    def _copy(self, sources: dict[str, Path], target: Path) -> None:
        fresh = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        try:
            for name, source in sources.items():
                shutil.copytree(source, fresh / name, ignore=_LEFT_OUT)
            with suppress(OSError):  # `rename` fails if another gateway has made the directory first
                fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _directory(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InvalidMessage(f"the module {module} is not installed on the gateway's host", field="$.package")
    return Path(spec.origin).parent


def _digest(sources: dict[str, Path]) -> str:
    summed = hashlib.sha256()
    for name, source in sorted(sources.items()):
        for folder, folders, files in os.walk(source):
            folders[:] = sorted(entry for entry in folders if entry != "__pycache__" and not entry.startswith("."))
            for file in sorted(entry for entry in files if not entry.endswith(".pyc") and not entry.startswith(".")):
                path = Path(folder) / file
                content = path.read_bytes()
                summed.update(f"{name}/{path.relative_to(source)} {len(content)} ".encode())
                summed.update(content)
    return summed.hexdigest()
