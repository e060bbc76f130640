"""Chooses the operating-system user for PostgreSQL, which refuses to run as root."""

import os
import stat
import subprocess
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

NOBODY = 65534
ORDINARY = 1000


class PostgresUser(StrEnum):
    """The operating-system user that runs the processes of PostgreSQL."""

    SELF = "as the present user"
    NAMESPACE = "in a user namespace that maps root to an ordinary user"
    NOBODY = "as the user nobody"

    def become(self) -> None:
        """Switch the current process to this user. Call this in the child process, before exec."""
        _BECOME[self]()


def choose_postgres_user(binary: Path) -> PostgresUser:
    """Return the first user that can start `binary` on this machine. Raises `PermissionError` if no user can."""
    if os.geteuid() != 0:
        return PostgresUser.SELF
    for identity in (PostgresUser.NAMESPACE, PostgresUser.NOBODY):
        if _works(identity, binary):
            return identity
    closed = closed_to_nobody(binary)
    why = f": {closed} is closed to other users" if closed else ""
    raise PermissionError(
        f"PostgreSQL does not run as root, and neither a user namespace nor the user nobody can start it here{why}. "
        "Run as an ordinary user, or set MUSTER_DATABASE_URL to an existing server."
    )


def closed_to_nobody(path: Path) -> Path | None:
    """Return the first directory above `path` that the user `nobody` cannot enter, or None."""
    parents = [folder for folder in reversed(path.resolve().parents) if folder.is_dir()]
    return next((folder for folder in parents if not folder.stat().st_mode & stat.S_IXOTH), None)


def refuse_closed_to_nobody(binary: Path, home: Path) -> None:
    """Raise `PermissionError` if the user `nobody` cannot enter the directory of the program or of the data."""
    if closed := closed_to_nobody(home):
        remedy = "Choose a data directory that every user may enter, with --data"
    elif closed := closed_to_nobody(binary):
        remedy = "Install Muster in a directory that every user may enter"
    else:
        return
    raise PermissionError(
        f"PostgreSQL runs as the user nobody here, and this user cannot enter {closed}. "
        f"{remedy}, run as an ordinary user, or set MUSTER_DATABASE_URL to an existing server."
    )


def _works(identity: PostgresUser, binary: Path) -> bool:
    try:
        subprocess.run(
            [binary, "--version"],
            preexec_fn=identity.become,
            check=True,
            capture_output=True,
            timeout=10,
            env={},
        )
    except (subprocess.SubprocessError, OSError):
        return False
    return True


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{ORDINARY} {user} 1"),
        ("gid_map", f"{ORDINARY} {group} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def _drop_to_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _stay() -> None:
    pass


_BECOME: dict[PostgresUser, Callable[[], None]] = {
    PostgresUser.SELF: _stay,
    PostgresUser.NAMESPACE: _enter_namespace,
    PostgresUser.NOBODY: _drop_to_nobody,
}
