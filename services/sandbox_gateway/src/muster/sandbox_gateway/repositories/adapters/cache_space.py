"""Keeps the cache of repositories below its limit, and some of the disk free, by removing what was not used longest."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from muster.sandbox_gateway.repositories.adapters.local_copies import FREE_BYTES


class CacheSpace:
    """Removes copies of repositories, those first that were not used for the longest time."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self._root, self._most_bytes = root, most_bytes

    def short(self, folder: Path) -> bool:
        """Whether less than `FREE_BYTES` of the disk are free."""
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize < FREE_BYTES

    def make_room(self, keep: Path) -> None:
        """Remove copies until the cache and the disk have room. Copies that are in use, and `keep`, are not removed."""
        sizes = {entry: size_of(entry) for entry in self._root.iterdir() if entry.is_dir()}
        total = sum(sizes.values())
        for entry in sorted(sizes.keys() - {keep}, key=_used_s):
            if total <= self._most_bytes and not self.short(self._root):
                return
            if _remove(entry):
                total -= sizes[entry]


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, also while another process changes them."""
    return sum(_sizes(folder))


def remove_copy(entry: Path) -> None:
    """Remove the copy in an entry of the cache. The caller holds the lock for writing."""
    gone = entry / f"new.{secrets.token_hex(4)}"
    (entry / "repo.git").rename(gone)  # A crash during the removal never leaves half a copy under the copy's name.
    (entry / "checked").unlink(missing_ok=True)
    shutil.rmtree(gone, ignore_errors=True)


def _sizes(folder: Path) -> Iterator[int]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False).st_size


def _used_s(entry: Path) -> float:
    with suppress(FileNotFoundError):
        return (entry / "used").stat().st_mtime
    return 0.0


def _remove(entry: Path) -> bool:
    """Remove the copy in an entry of the cache. Returns False if the entry has no copy or is in use."""
    copy = entry / "repo.git"
    if not copy.is_dir():
        return False
    lock = os.open(entry / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_copy(entry)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
