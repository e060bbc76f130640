"""Writes a new agent package (`muster agent new`). The package runs without changes, and its tests pass."""

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from muster.common.faults import Conflict, InvalidMessage
from muster.common.manifests import SKIPPED, read_manifest

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SUFFIX = ".txt"


def write(name: str, into: Path) -> Path:
    """Write a new package `name` below the folder `into`, and return the folder of the package.

    Raises `InvalidMessage` if `name` is no valid package name, and `Conflict` if the folder exists.
    """
    _check(name, into)
    folder = into / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(f"{folder} exists already; choose another name or folder", field="$.name") from None
    for relative, text in rendered(name, module=name):
        file = folder / relative
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    read_manifest(folder)
    return folder


def rendered(name: str, *, module: str) -> Iterator[tuple[str, str]]:
    """Yield the relative path and the text of every file of the package."""
    variables = {
        "name": name,
        "module": module,
        "title": "".join(part.capitalize() for part in name.split("_")) + "Agent",
    }
    for path, source in _sources(resources.files("muster.agent") / "template", ""):
        yield path.removesuffix(_SUFFIX), Template(source.read_text()).substitute(variables)


def _sources(folder: Traversable, below: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry, f"{below}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{below}{entry.name}", entry


def _check(name: str, into: Path) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in SKIPPED:
        raise InvalidMessage(
            f"{name!r} is no package name; use 1 to 64 of a-z, 0-9 and _, with a letter first", field="$.name"
        )
    # The package is started with `into` on the import path, so it must not hide a module that Python or Muster needs.
    if name in sys.stdlib_module_names or (not (into / name).exists() and importlib.util.find_spec(name) is not None):
        raise InvalidMessage(f"{name} is the name of a Python module; choose another name", field="$.name")
