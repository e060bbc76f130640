"""Copies a local git repository for a sandbox. The sandbox clones the copy and never reads the repository itself.

The copy contains the files that a clone needs: HEAD, branches, tags and objects. Each directory is opened relative to
its parent and no link is followed. So a directory that is replaced by a link during the copy is refused. No git process
runs in the repository, so its configuration, its hooks and its references to other directories (`alternates`,
`gitdir:`) have no effect.

Branches are copied before packed references, and loose objects before packs. The reason is that a git process that
repacks the repository at the same time removes a file only after it has written the file's replacement.
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
from muster.sandbox_gateway.repositories.domain.addresses import URL_FIELD

COPY_S = 300.0
MOST_BYTES = 32 << 30
MOST_FILES = 1_000_000
FREE_BYTES = 512 << 20
"""Bytes that a copy leaves free on the disk, because NATS may store its streams on the same disk."""
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

    Yields the directory's file descriptor, which is closed when the context ends. Raises `InvalidMessage` if there is
    no git directory, or if a part of the path has become a link since the path was resolved.
    """
    with ExitStack() as opened:
        try:
            tree = _opened(path)
        except OSError as error:
            raise InvalidMessage(f"the repository {path} cannot be opened: {error.strerror}", field=URL_FIELD) from None
        opened.callback(os.close, tree)
        try:
            inside = os.open(".git", _FOLDER, dir_fd=tree)
        except FileNotFoundError:
            inside = None
        except NotADirectoryError:
            raise InvalidMessage(
                f"{path}/.git names another directory; send the path of the main repository instead", field=URL_FIELD
            ) from None
        except OSError as error:
            raise InvalidMessage(
                f"the directory {path}/.git cannot be opened: {error.strerror}", field=URL_FIELD
            ) from None
        if inside is not None:
            opened.callback(os.close, inside)
        elif not (_is(tree, "HEAD", stat.S_ISREG) and _is(tree, "objects", stat.S_ISDIR)):
            raise InvalidMessage(f"{path} is not a git repository; make one there with `git init`", field=URL_FIELD)
        yield tree if inside is None else inside


def mirror(
    path: Path, target: Path, *, cancelled: Callable[[], bool] = lambda: False, within_s: float = COPY_S
) -> None:
    """Copy the git repository at `path` to `target`, completely or not at all. An existing copy is not changed.

    The copy is made under a temporary name and then renamed, so that a crash never leaves a partial `target`. Raises
    `InvalidMessage` if the repository cannot be copied. Raises `OSError` if the disk is full or the copy takes over
    `within_s` seconds.
    """
    fresh = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o700)
    try:
        with git_directory(path) as source:
            _Copy(path, fresh, cancelled, time.monotonic() + within_s).repository(source)
        with suppress(OSError):  # `rename` fails if another gateway has made the copy first
            fresh.rename(target)
            return
        if not target.is_dir():
            raise OSError(errno.ENOTDIR, "the copy's path exists and is not a directory", str(target))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class _Copy:
    """One copy of a git repository, with limits for its files, bytes and seconds."""

    def __init__(self, source: Path, target: Path, cancelled: Callable[[], bool], until: float) -> None:
        self._source, self._target, self._cancelled, self._until = source, target, cancelled, until
        self._files = self._bytes = 0

    def repository(self, source: int) -> None:
        """Copy the files that `git clone` reads. `source` is the file descriptor of the git directory."""
        config = self._config(source)
        if _is(source, "objects/info/alternates", lambda _: True):
            raise self._refused(
                "the repository uses objects of another one; run `git repack -ad`, then remove objects/info/alternates"
            )
        if _REFTABLE.search(config):
            raise self._refused(
                "the repository has its references in a reftable; run `git refs migrate --ref-format=files`"
            )
        if not self._file(source, "HEAD", self._target):
            raise self._refused("the repository has no HEAD")
        (self._target / "config").write_text(_LONG_NAMES if _SHA256.search(config) else _PLAIN)
        (self._target / "refs").mkdir(mode=0o700)
        with self._below(source, "refs") as refs:
            for name in ("heads", "tags"):
                self._tree(refs, name, self._target / "refs")
        for name in ("packed-refs", "shallow"):
            self._file(source, name, self._target)
        with self._below(source, "objects") as objects:
            if objects is None:
                raise self._refused("the repository has no objects")
            self._objects(objects, self._target / "objects")

    def _objects(self, objects: int, target: Path) -> None:
        for name in filter(_LOOSE.fullmatch, _names(objects)):
            self._tree(objects, name, target)
        with self._below(objects, "pack") as packs:
            (target / "pack").mkdir(mode=0o700, parents=True)
            if packs is not None:
                self._packs(packs, target / "pack")

    def _packs(self, packs: int, target: Path) -> None:
        """Copy all pack files. If git removes a pack meanwhile, list the packs again to find its replacement."""
        copied = set[str]()
        for _ in range(_PACK_LOOKS):
            found = set(filter(_PACKS.fullmatch, _names(packs))) - copied
            gone = {name for name in sorted(found) if not self._file(packs, name, target)}
            copied |= found - gone
            if not gone:
                return
        raise OSError(errno.EAGAIN, "the repository is being repacked; try again later", str(self._source))

    def _tree(self, above: int | None, name: str, target: Path, depth: int = 0) -> None:
        """Copy a directory tree, but not the temporary files and locks of a running git process."""
        with self._below(above, name) as folder:
            if folder is None:
                return
            if depth == _DEEPEST:
                raise self._refused(f"the git directory has over {_DEEPEST} levels of directories")
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
            raise self._refused(
                f"{name} in the repository's git directory is a link or a file, not a directory"
            ) from None
        try:
            yield folder
        finally:
            if folder is not None:
                os.close(folder)

    def _file(self, above: int, name: str, target: Path) -> bool:
        """Copy one file of the git directory. Returns False if the file does not exist."""
        self._files += 1
        if self._files > MOST_FILES:
            raise self._refused(f"the repository has over {MOST_FILES} files; run `git gc`, which packs the files")
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
            raise self._refused(
                f"{name} in the repository's git directory is a link or a socket, not a regular file"
            ) from None
        if stat.S_ISREG(os.fstat(source).st_mode):
            return source
        os.close(source)
        raise self._refused(f"{name} in the repository's git directory is not a regular file")

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
            raise self._refused(f"the repository has over {MOST_BYTES >> 30} GiB")
        disk = os.fstatvfs(fresh)
        if disk.f_bavail * disk.f_frsize < FREE_BYTES + size:
            raise OSError(errno.ENOSPC, "too little space on the sandboxes' disk to copy", str(self._source))

    def _check_time(self) -> None:
        if self._cancelled() or time.monotonic() > self._until:
            raise TimeoutError(errno.ETIMEDOUT, "the repository was not copied in time", str(self._source))

    def _refused(self, why: str) -> InvalidMessage:
        return InvalidMessage(f"the repository {self._source} cannot be copied: {why}", field=URL_FIELD)


def _opened(path: Path) -> int:
    """Open a directory by opening each directory of its path in turn, so that a link in the path is an error."""
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
