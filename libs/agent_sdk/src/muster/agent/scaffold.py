"""Writes a new agent package, which runs as it is and passes its own tests (`muster agent new`)."""

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
    """The folder of a new package `name` below `into`.

    Raises `InvalidMessage` for a name that no package can have, and `Conflict` where there is something already.
    """
    _check(name, into)
    folder = into / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(f"{folder} exists already; choose another name or place", field="$.name") from None
    for relative, text in rendered(name, module=name):
        file = folder / relative
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    read_manifest(folder)
    return folder


def rendered(name: str, *, module: str) -> Iterator[tuple[str, str]]:
    """Every file of the package: its path, and its text."""
    words = {"name": name, "module": module, "title": "".join(part.capitalize() for part in name.split("_")) + "Agent"}
    for path, source in _sources(resources.files("muster.agent") / "template", ""):
        yield path.removesuffix(_SUFFIX), Template(source.read_text()).substitute(words)


def _sources(folder: Traversable, below: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry, f"{below}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{below}{entry.name}", entry


def _check(name: str, into: Path) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in SKIPPED:
        raise InvalidMessage("a package's name is 1 to 64 of a-z 0-9 _, beginning with a letter", field="$.name")
    # It is started with `into` on the import path, so it must not hide a module that Python or Muster needs.
    if name in sys.stdlib_module_names or (not (into / name).exists() and importlib.util.find_spec(name) is not None):
        raise InvalidMessage(f"{name} is a Python module already; choose another name", field="$.name")
