"""Commits an accepted result to a new branch of a local repository.

No git process runs in the repository, so its configuration and its hooks have no effect. git writes the new objects
into the repository's directory of objects with the gateway's own configuration. The branch is one file, which is made
complete and only if there is no branch with this name. So nothing that exists is changed: no branch, no index, and no
file of a work tree.
"""

import errno
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from muster.common.contracts.gateway import DeliverResult
from muster.common.faults import Forbidden, InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.adapters.local_copies import git_directory
from muster.sandbox_gateway.repositories.adapters.pushes import result_commit
from muster.sandbox_gateway.repositories.adapters.revisions import PLAIN_GIT
from muster.sandbox_gateway.repositories.domain.deliveries import BRANCH_FIELD, branch_taken
from muster.sandbox_gateway.repositories.domain.git_errors import told

_MOST_REF_BYTES: Final = 4_096
_MOST_PACKED_BYTES: Final = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REFTABLE = re.compile(r'(?im)^\s*refstorage\s*=\s*"?reftable\b')
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


async def push_locally(result: DeliverResult, path: Path) -> str:
    """Commit a result to its branch of the repository at `path`, and return the commit.

    A branch that contains the commit already is not changed. Raises `InvalidMessage` if the branch is checked out or
    has other commits, or the result does not fit to the repository, `Forbidden` without the right to write, and
    `Unavailable` if the repository cannot be written now.
    """
    try:
        with git_directory(path) as git, _below(git, ["objects"]) as objects:
            _refuse_reftable(path, git)
            folder = path / ".git" if (path / ".git").is_dir() else path
            async with result_commit(result, folder / "objects") as (commit, new):
                await _push(result.branch, commit, path, git, objects, new)
            return commit
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise Forbidden(
                f"the gateway may not write to the repository {path}; give its user this right, or take the result "
                "with `muster task get TASK --diff`"
            ) from None
        raise Unavailable(f"the gateway cannot write to the repository {path}: {error.strerror or error}") from None


async def _push(branch: str, commit: str, path: Path, git: int, objects: int, new: Path) -> None:
    """Make the branch of a commit. `new` is the repository with the objects that the repository at `path` lacks."""
    now = _commit_of(git, branch)
    if now is None:
        _refuse_checked_out(git, branch, path)
        _refuse_links(objects, path)
        await _copy_objects(commit, new, objects)
        if _make_branch(git, branch, commit, path):
            return
        now = _commit_of(git, branch) or ""  # Another gateway has made the branch at the same time.
    later = ("merge-base", "--is-ancestor", commit, now)
    if now != commit and (not now or (await PLAIN_GIT.run(*later, folder=new)).code):
        raise branch_taken(str(path), branch)


async def _copy_objects(commit: str, new: Path, objects: int) -> None:
    packed = await PLAIN_GIT.run(
        "pack-objects", "-q", "--stdout", "--revs", folder=new, sent=f"{commit}\n^{commit}^\n".encode()
    )
    env = {"GIT_OBJECT_DIRECTORY": f"/proc/self/fd/{objects}"}
    unpack = ("unpack-objects", "-q")
    done = packed
    if not packed.code:
        done = await PLAIN_GIT.run(*unpack, folder=new, sent=packed.output, env=env, keep_open=[objects])
    if done.code:
        if "ermission denied" in done.said or "insufficient permission" in done.said:
            raise OSError(errno.EACCES, done.said)
        raise Unavailable(f"the gateway could not store the result: {told(done.said)}")


def _make_branch(git: int, branch: str, commit: str, path: Path) -> bool:
    """Make the file of a branch. Return False if the branch exists. Raises `InvalidMessage` if its name is in use."""
    *parents, name = branch.split("/")
    above = ["/".join(parents[:count]) for count in range(1, len(parents) + 1)]
    others = {other for other in _packed(git) if other in above or other.startswith(f"{branch}/")}
    in_use = InvalidMessage(
        f"the repository {path} has another branch whose name is the beginning of {branch}, or begins with it; "
        "name another branch",
        field=BRANCH_FIELD,
    )
    if others:
        raise in_use
    try:
        with _below(git, ["refs", "heads", *parents], make=True) as folder:
            if _content(folder, f"{name}.lock", 1) is not None:
                raise Unavailable(f"another git process works on the branch {branch} of {path}; it is tried again")
            if not _is_folder(folder, name):
                return _linked(folder, name, f"{commit}\n".encode())
    except NotADirectoryError:
        raise in_use from None
    raise in_use


def _linked(folder: int, name: str, content: bytes) -> bool:
    """Make a file that has its whole content at once. Return False if there is one with this name."""
    fresh = f"{name}.{secrets.token_hex(8)}.lock"  # git reads no reference from a file whose name ends so.
    file = os.open(fresh, _NEW, 0o666, dir_fd=folder)
    try:
        os.write(file, content)
        os.fsync(file)
        os.link(fresh, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.fsync(folder)
    except FileExistsError:
        return False
    finally:
        os.close(file)
        os.unlink(fresh, dir_fd=folder)
    return True


def _refuse_links(objects: int, path: Path) -> None:
    """Raise `InvalidMessage` if a directory of objects is a link, through which git would write elsewhere."""
    with os.scandir(objects) as entries:
        if any(entry.is_symlink() for entry in entries):
            raise InvalidMessage(f"the repository {path} has a link in its directory of objects; run `git gc` there")


def _refuse_checked_out(git: int, branch: str, path: Path) -> None:
    """Raise `InvalidMessage` if the branch is checked out in the repository or in one of its other work trees."""
    heads = [_content(git, "HEAD", _MOST_REF_BYTES)]
    with suppress(FileNotFoundError, NotADirectoryError), _below(git, ["worktrees"]) as trees:
        for tree in os.listdir(trees):  # noqa: PTH208 - an open directory has no path
            with suppress(FileNotFoundError, NotADirectoryError), _below(trees, [tree]) as folder:
                heads.append(_content(folder, "HEAD", _MOST_REF_BYTES))
    if f"ref: refs/heads/{branch}" in [(head or "").strip() for head in heads]:
        raise InvalidMessage(f"the branch {branch} is checked out in {path}; name another branch", field=BRANCH_FIELD)


def _commit_of(git: int, branch: str) -> str | None:
    """Return what a branch contains: a commit, another text, or None if there is no such branch."""
    *parents, name = branch.split("/")
    with suppress(FileNotFoundError, NotADirectoryError), _below(git, ["refs", "heads", *parents]) as folder:
        if not _is_folder(folder, name) and (content := _content(folder, name, _MOST_REF_BYTES)) is not None:
            return content.strip()
    return _packed(git).get(branch)


def _packed(git: int) -> dict[str, str]:
    """Return the packed branches with their commits."""
    lines = (_content(git, "packed-refs", _MOST_PACKED_BYTES) or "").splitlines()
    pairs = [line.split(" ", 1) for line in lines if _COMMIT.match(line)]
    return {
        name.removeprefix("refs/heads/"): commit
        for commit, name in (pair for pair in pairs if len(pair) > 1)
        if name.startswith("refs/heads/")
    }


def _refuse_reftable(path: Path, git: int) -> None:
    if _REFTABLE.search(_content(git, "config", _MOST_PACKED_BYTES) or ""):
        raise InvalidMessage(
            f"the repository {path} has its references in a reftable; run `git refs migrate --ref-format=files`"
        )


@contextmanager
def _below(above: int, names: list[str], *, make: bool = False) -> Generator[int]:
    """Open a directory below another one, and follow no link."""
    here = os.dup(above)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=here)
            folder = os.open(name, _FOLDER, dir_fd=here)
            os.close(here)
            here = folder
        yield here
    finally:
        os.close(here)


def _is_folder(above: int, name: str) -> bool:
    with suppress(FileNotFoundError, NotADirectoryError), _below(above, [name]):
        return True
    return False


def _content(above: int, name: str, most: int) -> str | None:
    """Return the content of a regular file; None if it does not exist. A link is refused with `OSError`."""
    try:
        file = os.open(name, _FILE, dir_fd=above)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        return opened.read(most).decode(errors="replace")
