"""Copies a local git repository for a sandbox, which reads this copy and never the repository itself.

The copy holds the files that a clone needs: HEAD, branches, tags and objects. Each directory is opened relative to its
parent and no link is followed, so that a directory that is replaced by a link during the copy is refused. No git
process runs on the repository, so its configuration, its hooks and its references to other directories (`alternates`,
`gitdir:`) have no effect.

Branches are copied before packed references, and loose objects before packs: a git process that repacks at the same
time removes a file only after its replacement exists.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from muster.common.faults import InvalidMessage

COPY_S = 300.0
MOST_BYTES = 32 << 30
MOST_FILES = 1_000_000
FREE_BYTES = 512 << 20
"""Bytes that a copy leaves free on the disk, because NATS may store its streams on the same disk."""
URL = "$.repo.url"
_CHUNK = 1 << 20
_DEEPEST = 32
_PACK_LOOKS = 5
_MOST_CONFIG_BYTES = 256 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHA256 = re.compile(rb'(?im)^\s*objectformat\s*=\s*"?sha256\b')
_REFTABLE = re.compile(rb'(?im)^\s*refstorage\s*=\s*"?reftable\b')
_LOOSE, _PACKS = re.compile(r"[0-9a-f]{2}"), re.compile(r"pack-.+\.(pack|idx|rev|bitmap)")
_PLAIN = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
_LONG_NAMES = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n"


@contextmanager
def git_directory(path: Path) -> Generator[int]:
    """Open the git directory of the repository at `path`, which must be absolute and without links.

    Yields a file descriptor, closed at the end. Raises `InvalidMessage` if there is no git directory, or if a part of
    the path has become a link since it was resolved.
    """
    with ExitStack() as opened:
        try:
            tree = _opened(path)
        except OSError as error:
            raise InvalidMessage(f"{path} cannot be opened: {error.strerror}", field=URL) from None
        opened.callback(os.close, tree)
        try:
            inside = os.open(".git", _FOLDER, dir_fd=tree)
        except FileNotFoundError:
            inside = None
        except NotADirectoryError:
            raise InvalidMessage(
                f"{path}/.git points to another directory; name the repository that it belongs to", field=URL
            ) from None
        except OSError as error:
            raise InvalidMessage(f"{path}/.git cannot be opened: {error.strerror}", field=URL) from None
        if inside is not None:
            opened.callback(os.close, inside)
        elif not (_is(tree, "HEAD", stat.S_ISREG) and _is(tree, "objects", stat.S_ISDIR)):
            raise InvalidMessage(f"{path} is not a git repository; `git init` makes it one", field=URL)
        yield tree if inside is None else inside


def mirror(
    path: Path, target: Path, *, cancelled: Callable[[], bool] = lambda: False, within_s: float = COPY_S
) -> None:
    """Copy the repository at `path` to `target`, completely or not at all. A copy that is there already stays.

    The copy is made under a temporary name and renamed, so that a crash never leaves a partial `target`. Raises
    `InvalidMessage` if the repository cannot be copied, and `OSError` if the disk is full or `within_s` has passed.
    """
    fresh = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o700)
    try:
        with git_directory(path) as source:
            _Copy(path, fresh, cancelled, time.monotonic() + within_s).repository(source)
        with suppress(OSError):  # raised if the target is not empty, because another gateway has made the copy first
            fresh.rename(target)
            return
        if not target.is_dir():
            raise OSError(errno.ENOTDIR, "the name of the copy is used by something else", str(target))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class _Copy:
    """One copy, with its limits of files, bytes and time."""

    def __init__(self, source: Path, target: Path, cancelled: Callable[[], bool], until: float) -> None:
        self._source, self._target, self._cancelled, self._until = source, target, cancelled, until
        self._files = self._bytes = 0

    def repository(self, source: int) -> None:
        """Copy the files that a clone reads. `source` is the descriptor of the git directory."""
        config = self._config(source)
        if _is(source, "objects/info/alternates", lambda _: True):
            raise self._refused(
                "borrows objects of another repository; `git repack -ad` and remove objects/info/alternates"
            )
        if _REFTABLE.search(config):
            raise self._refused(
                "keeps its references in a reftable; `git refs migrate --ref-format=files` changes that"
            )
        if not self._file(source, "HEAD", self._target):
            raise self._refused("has no HEAD")
        (self._target / "config").write_text(_LONG_NAMES if _SHA256.search(config) else _PLAIN)
        (self._target / "refs").mkdir(mode=0o700)
        with self._below(source, "refs") as refs:
            for name in ("heads", "tags"):
                self._tree(refs, name, self._target / "refs")
        for name in ("packed-refs", "shallow"):
            self._file(source, name, self._target)
        with self._below(source, "objects") as objects:
            if objects is None:
                raise self._refused("has no objects")
            self._objects(objects, self._target / "objects")

    def _objects(self, objects: int, target: Path) -> None:
        for name in filter(_LOOSE.fullmatch, _names(objects)):
            self._tree(objects, name, target)
        with self._below(objects, "pack") as packs:
            (target / "pack").mkdir(mode=0o700, parents=True)
            if packs is not None:
                self._packs(packs, target / "pack")

    def _packs(self, packs: int, target: Path) -> None:
        """Copy all packs. Lists them again if a pack disappeared, because a repack has then written a new one."""
        copied = set[str]()
        for _ in range(_PACK_LOOKS):
            found = set(filter(_PACKS.fullmatch, _names(packs))) - copied
            gone = {name for name in sorted(found) if not self._file(packs, name, target)}
            copied |= found - gone
            if not gone:
                return
        raise OSError(errno.EAGAIN, "the repository is being repacked; try again later", str(self._source))

    def _tree(self, above: int | None, name: str, target: Path, depth: int = 0) -> None:
        """Copy a directory tree, without the temporary files and locks of a running git process."""
        with self._below(above, name) as folder:
            if folder is None:
                return
            if depth == _DEEPEST:
                raise self._refused(f"has over {_DEEPEST} levels of directories")
            (target / name).mkdir(mode=0o700, parents=True)
            for inner in _names(folder):
                if inner.startswith("tmp_") or inner.endswith(".lock"):
                    continue
                if _is(folder, inner, stat.S_ISDIR):
                    self._tree(folder, inner, target / name, depth + 1)
                else:
                    self._file(folder, inner, target / name)

    @contextmanager
    def _below(self, above: int | None, name: str) -> Generator[int | None]:
        """Open a directory inside of another one; yield None if it does not exist."""
        try:
            folder = None if above is None else os.open(name, _FOLDER, dir_fd=above)
        except FileNotFoundError:
            folder = None
        except NotADirectoryError:
            raise self._refused(f"cannot be copied: {name} in its git directory is a link or a file") from None
        try:
            yield folder
        finally:
            if folder is not None:
                os.close(folder)

    def _file(self, above: int, name: str, target: Path) -> bool:
        """Copy one file. Returns False if it does not exist."""
        self._files += 1
        if self._files > MOST_FILES:
            raise self._refused(f"has over {MOST_FILES} files; `git gc` packs them")
        self._check_time()
        source = self._source_file(above, name)
        if source is None:
            return False
        try:
            fresh = os.open(target / name, _NEW, 0o600)
            try:
                while chunk := os.read(source, _CHUNK):
                    self._check_room(fresh, len(chunk))
                    while chunk := chunk[os.write(fresh, chunk) :]:
                        continue
            finally:
                os.close(fresh)
        finally:
            os.close(source)
        return True

    def _source_file(self, above: int, name: str) -> int | None:
        try:
            source = os.open(name, _FILE, dir_fd=above)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise self._refused(f"cannot be copied: {name} in its git directory is a link or a socket") from None
        if stat.S_ISREG(os.fstat(source).st_mode):
            return source
        os.close(source)
        raise self._refused(f"cannot be copied: {name} in its git directory is not a regular file")

    def _config(self, source: int) -> bytes:
        config = self._source_file(source, "config")
        if config is None:
            return b""
        try:
            return os.read(config, _MOST_CONFIG_BYTES)
        finally:
            os.close(config)

    def _check_room(self, fresh: int, size: int) -> None:
        self._check_time()
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise self._refused(f"is over {MOST_BYTES >> 30} GiB")
        disk = os.fstatvfs(fresh)
        if disk.f_bavail * disk.f_frsize < FREE_BYTES + size:
            raise OSError(errno.ENOSPC, "too little room on the disk of the sandboxes to copy", str(self._source))

    def _check_time(self) -> None:
        if self._cancelled() or time.monotonic() > self._until:
            raise TimeoutError(errno.ETIMEDOUT, "not copied in time", str(self._source))

    def _refused(self, why: str) -> InvalidMessage:
        return InvalidMessage(f"the repository {self._source} {why}", field=URL)


def _opened(path: Path) -> int:
    """Open a directory, name by name from the root, so that a link anywhere in the path is an error."""
    here = os.open("/", _STEP)
    names = path.parts[1:]
    for index, name in enumerate(names):
        try:
            below = os.open(name, _FOLDER if index == len(names) - 1 else _STEP, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is(above: int, name: str, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
