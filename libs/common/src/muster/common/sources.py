"""Finds the directories with the code of a worker, which an isolated worker must be able to read."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

_PARTS = ("common", "agent", "agents")


def _namespace() -> ModuleType:
    return sys.modules["muster"]  # it has no file, which is why a checker cannot import it by itself


@cache
def readable_sources() -> tuple[str, ...]:
    """Return the source directories that a worker imports from, unless they are inside the interpreter's own."""
    found = [Path(entry).resolve() for entry in _namespace().__path__]
    return tuple(
        str(path)
        for path in found
        if any((path / part).is_dir() for part in _PARTS) and not path.is_relative_to(sys.prefix)
    )
