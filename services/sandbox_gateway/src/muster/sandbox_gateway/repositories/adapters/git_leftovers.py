"""Removes what a git process that was ended leaves in a bare repository: parts of packs, and locks of references."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

_PARTS: Final = ("tmp_*", ".tmp-*", "*.keep")


def remove_unfinished(repository: Path) -> None:
    """Remove the parts of packs and the locks of references. The caller knows that no git process writes to them."""
    remove_unfinished_packs(repository)
    for lock in (*repository.glob("*.lock"), *(repository / "refs").rglob("*.lock")):
        with suppress(OSError):  # A folder is a part of the name of a branch.
            lock.unlink()


def remove_unfinished_packs(repository: Path) -> None:
    """Remove the parts of packs, which git never removes by itself. They would count for the limit of the size."""
    objects = repository / "objects"
    packs = objects / "pack"
    parts = [part for pattern in _PARTS for part in packs.glob(pattern)]
    parts += [pack for pack in packs.glob("*.pack") if not pack.with_suffix(".idx").exists()]
    for part in (*objects.glob("tmp_*"), *objects.glob("*/tmp_obj_*"), *parts):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
