"""The data directory of a stack: its paths, its secrets, and a lock that allows one stack at a time.

The lock is an `flock` on the file `lock`. The kernel releases the lock when the process dies, even by SIGKILL. The file
contains the owner's pid for error messages.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from muster.embedded.private_files import write_private

LONGEST_SOCKET_PATH = 100
"""The longest path of a socket, in bytes. The kernel allows 107; the rest is for suffixes."""
_LONGEST_SOCKET_NAME = "doors/gateway.sock.tmp"


class InUseError(Exception):
    """Another process of `muster up` uses this data directory."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(
            f"{data_dir} is in use by `muster up` with pid {pid}. "
            f"Stop it with `muster down --data {data_dir}`, or choose another directory with --data."
        )
        self.pid = pid


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets with which the parts of a stack authenticate each other, generated once for each data directory."""

    database_password: str
    admin_key: str
    token_keys: str
    """The keys of sandbox tokens, as `kid:hexsecret[,kid:hexsecret]`. The first key signs; all keys are accepted."""


def fresh_secrets() -> Secrets:
    """Generate new secrets for a stack."""
    return Secrets(
        database_password=secrets.token_hex(24),
        admin_key=f"muster_admin_{secrets.token_hex(24)}",
        token_keys=f"k{secrets.token_hex(3)}:{secrets.token_hex(32)}",
    )


class StackDirectory:
    """The paths below the data directory of a stack. Sockets are in `run`, which may be another directory."""

    def __init__(self, root: Path, run: Path) -> None:
        self.root, self.run = root, run
        self.logs, self.nats, self.postgres = root / "logs", root / "nats", root / "postgres"
        self.shim, self.identity = root / "shim", root / "identity"
        self.ready = root / "ready.json"
        # The sockets are in separate directories, because sandboxes can open all files next to the gateway's socket.
        self.gateway_socket, self.shim_socket = run / "doors" / "gateway.sock", run / "shim.sock"
        self.control_socket = run / "control.sock"

    def log(self, name: str) -> Path:
        """Return the path of the log file of a part of the stack."""
        return self.logs / f"{name}.log"

    def secrets(self) -> Secrets:
        """Return the secrets of this data directory; the first call generates and stores them."""
        path = self.root / "secrets.json"
        if not path.exists():
            write_private(path, msgspec.json.encode(fresh_secrets()))
        return msgspec.json.decode(path.read_bytes(), type=Secrets)


@contextmanager
def temporary_directory(root: Path | None = None) -> Generator[Path]:
    """Yield a data directory that is deleted at the end: `root`, or a new temporary directory."""
    root = root or Path(tempfile.mkdtemp(prefix="muster-"))
    try:
        yield root
    finally:
        # A worker that is ending may still write files here, so errors of the deletion are ignored. The lock file is
        # deleted in any case.
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def open_stack_directory(root: Path) -> Generator[StackDirectory]:
    """Lock the data directory `root` and create its folders. Raises `InUseError` if another process has the lock."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    root = root.resolve()
    with locked(root), _run_directory(root) as run:
        directory = StackDirectory(root, run)
        for folder in (directory.logs, directory.shim, directory.gateway_socket.parent):
            folder.mkdir(exist_ok=True, mode=0o700)
        for log in directory.logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))
        yield directory


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Lock a data directory until the `with` block ends. Raises `InUseError` if another process has the lock."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(root, _holder(descriptor)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(root: Path) -> int | None:
    """Return the pid of the `muster up` that has locked the data directory `root`, or None. Changes no file."""
    try:
        descriptor = os.open(root / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int:
    return int(os.pread(descriptor, 20, 0) or b"0")


@contextmanager
def _run_directory(root: Path) -> Generator[Path]:
    """Yield the directory for sockets: `run` in the data directory, or a temporary directory if `run` has a long path.

    The path of a unix socket may have at most `LONGEST_SOCKET_PATH` bytes.
    """
    run = root / "run"
    if len(os.fsencode(run / _LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        run.mkdir(exist_ok=True, mode=0o700)
        yield run
        return
    # The directory for sockets is not made below TMPDIR, because the path of TMPDIR may be too long too.
    with tempfile.TemporaryDirectory(prefix="muster-run-", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield Path(short)
