"""As whom PostgreSQL runs: it refuses to be root, so root has to become someone else for it."""

import os
import subprocess
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

NOBODY = 65534
ORDINARY = 1000


class Identity(StrEnum):
    """How a process of PostgreSQL is started."""

    SELF = "as the present user"
    NAMESPACE = "in a user namespace that maps root to an ordinary user"
    NOBODY = "as the user nobody"

    def become(self) -> None:
        """In the child, before exec."""
        _BECOME[self]()


def postgres_identity(binary: Path) -> Identity:
    """The first that works here, tried for real. Raises `PermissionError` saying what to do instead."""
    if os.geteuid() != 0:
        return Identity.SELF
    for identity in (Identity.NAMESPACE, Identity.NOBODY):
        if _works(identity, binary):
            return identity
    raise PermissionError(
        "PostgreSQL does not run as root, and neither a user namespace nor the user nobody can start it here. "
        "Run as an ordinary user, or set MUSTER_DATABASE_URL to a server of your own."
    )


def _works(identity: Identity, binary: Path) -> bool:
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


_BECOME: dict[Identity, Callable[[], None]] = {
    Identity.SELF: _stay,
    Identity.NAMESPACE: _enter_namespace,
    Identity.NOBODY: _drop_to_nobody,
}
