"""Removes directories on the gateway's host that no sandbox needs any more: staged files, and the code of old packages.

A killed gateway leaves such directories. Each of them is only a copy, so that its removal loses nothing.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

UNUSED_S: Final = 3_600.0
"""Seconds without a change after which a copy is not being made any more."""
CODE_KEPT_S: Final = 30 * 86_400.0
"""Seconds without use after which the code of a package is removed. The next worker that needs it copies it again."""
_SANDBOX = re.compile(r"sbx_[0-9a-z]{26}")
_CODE = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8})?")


def remove_staged(staging: Path, *, exists: Callable[[str], bool], now_s: float) -> Sequence[str]:
    """Remove the staged files of sandboxes that do not exist any more. Return the ids of these sandboxes."""
    gone = [
        folder
        for folder in _folders(staging)
        if _SANDBOX.fullmatch(folder.name) and _unused_s(folder, now_s) > UNUSED_S and not exists(folder.name)
    ]
    return [folder.name for folder in gone if _removed(folder)]


def remove_old_code(code: Path, *, now_s: float) -> Sequence[str]:
    """Remove unfinished copies of packages' code, and copies that no worker has used for 30 days."""
    gone = [
        folder
        for folder in _folders(code)
        if _CODE.fullmatch(folder.name) and _unused_s(folder, now_s) > (UNUSED_S if "." in folder.name else CODE_KEPT_S)
    ]
    return [folder.name for folder in gone if _removed(folder)]


def _folders(above: Path) -> list[Path]:
    with suppress(OSError):
        return [entry for entry in sorted(above.iterdir()) if entry.is_dir() and not entry.is_symlink()]
    return []


def _unused_s(folder: Path, now_s: float) -> float:
    with suppress(OSError):
        return now_s - folder.lstat().st_mtime
    return 0.0


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
