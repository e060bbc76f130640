"""Finds the directories with the code of a worker, which an isolated worker must be able to read."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

_PARTS = ("common", "agent", "agents")


def _namespace() -> ModuleType:
    return sys.modules["muster"]  # The namespace package has no file, so a type checker cannot import it.


@cache
def readable_sources() -> tuple[str, ...]:
    """Return the source directories that a worker imports from, except those inside the Python installation.

    They are the entries of the module search path, because Python lists an entry before it imports from it.
    """
    found = [Path(entry).resolve() for entry in _namespace().__path__]
    return tuple(
        str(path.parent)
        for path in found
        if any((path / part).is_dir() for part in _PARTS) and not path.is_relative_to(sys.prefix)
    )
