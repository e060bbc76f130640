"""Measures the disk space of a sandbox's directories.

The worker controls these directories: a tree may have millions of files. So each measurement is a process `du`, which
follows no link and stays on the file system, and which is ended after a deadline.

A worker can also remove the permission to list a directory. If the gateway is not root, `du` cannot count the files
below such a directory. Then the gateway, whose user owns the directory, gives itself the permission and starts again.
"""

import asyncio
import os
import re
import stat
from pathlib import Path

DIRECTORIES = ("workspace", "state", "run", "home")
"""The directories of a sandbox that its processes can write."""
_MOST_COMPLAINTS = 1 << 20
_MOST_STARTS = 8
_CHUNK = 1 << 16
_DENIED = b"Permission denied"
_CLOSED = re.compile(rb"^du: cannot (?:read directory|access) '([^'\n]+)': Permission denied$", re.MULTILINE)
"""A complaint of `du` about a directory. A name with unusual characters is quoted in other ways and not recognised."""
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def used_bytes(home: Path, *, within_s: float) -> int | None:
    """Return the disk space of a sandbox's files, or None if it cannot be measured in `within_s` seconds."""
    names = [name for name in DIRECTORIES if (home / name).is_dir()]
    if not names:
        return 0
    try:
        async with asyncio.timeout(within_s):
            for _ in range(_MOST_STARTS):
                used, complaints = await _counted(home, names)
                if _DENIED not in complaints:
                    return used
                closed = [os.fsdecode(path) for path in _CLOSED.findall(complaints)]
                if not closed or not await asyncio.to_thread(_open_all, home, closed):
                    return None
    except TimeoutError:
        pass
    return None


async def _counted(home: Path, names: list[str]) -> tuple[int, bytes]:
    """Return the sum that `du` has counted, and its complaints."""
    pipe = asyncio.subprocess.PIPE
    du = await asyncio.create_subprocess_exec(
        *("du", "-s", "-x", "--block-size=1", "--", *names),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        cwd=home,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert du.stdout
    assert du.stderr
    try:
        printed, complaints = await asyncio.gather(du.stdout.read(), _first(du.stderr))
        await du.wait()
    finally:
        if du.returncode is None:
            du.kill()
            await du.wait()
    # `du` also fails if a file vanishes meanwhile, but still counts the others.
    return sum(int(line.split(b"\t")[0]) for line in printed.splitlines()), complaints


async def _first(stream: asyncio.StreamReader) -> bytes:
    """Read a stream to its end, and return its first MiB."""
    kept = bytearray()
    while chunk := await stream.read(_CHUNK):
        kept += chunk[: _MOST_COMPLAINTS - len(kept)]
    return bytes(kept)


def _open_all(home: Path, paths: list[str]) -> bool:
    """Let the gateway list these directories. Returns False if none of them could be changed."""
    return sum(_open(home, path) for path in paths) > 0


def _open(home: Path, path: str) -> bool:
    folder = -1
    try:
        folder = os.open(home, _PLACE)
        for part in path.split("/"):
            # The worker may replace any directory by a link at any time. So each one is opened without following links.
            below = os.open(part, _PLACE, dir_fd=folder)
            os.close(folder)
            folder = below
        mode = stat.S_IMODE(os.fstat(folder).st_mode)
        os.chmod(f"/proc/self/fd/{folder}", mode | stat.S_IRUSR | stat.S_IXUSR)  # noqa: PTH101 - the open directory
    except OSError:
        return False
    else:
        return True
    finally:
        if folder >= 0:
            os.close(folder)
