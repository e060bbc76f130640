"""Where the code of a worker lies: the directories that an isolated one must be able to read."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

_PARTS = ("common", "agent", "agents")


def _namespace() -> ModuleType:
    return sys.modules["muster"]  # it has no file, which is why a checker cannot import it by itself


@cache
def readable_sources() -> tuple[str, ...]:
    """The source directories of the namespace that a worker imports from, unless the interpreter's own hold them."""
    found = [Path(entry).resolve() for entry in _namespace().__path__]
    return tuple(
        str(path)
        for path in found
        if any((path / part).is_dir() for part in _PARTS) and not path.is_relative_to(sys.prefix)
    )
