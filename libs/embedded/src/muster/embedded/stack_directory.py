"""The data directory: its layout, the secrets in it, and the lock that lets one stack at a time live there."""

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
"""The kernel takes 107 bytes; some room for names we add."""
_LONGEST_SOCKET_NAME = "doors/gateway.sock.tmp"


class InUseError(Exception):
    """Another `muster up` lives in this data directory."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(
            f"{data_dir} is in use by `muster up` with pid {pid}. "
            f"Stop it with `muster down --data {data_dir}`, or choose another directory with --data."
        )
        self.pid = pid


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What the stack's parts know each other by. Made once for a data directory."""

    database_password: str
    admin_key: str
    token_keys: str
    """`kid:hexsecret[,kid:hexsecret]`, the first one signs."""


def fresh_secrets() -> Secrets:
    """All new."""
    return Secrets(
        database_password=secrets.token_hex(24),
        admin_key=f"muster_admin_{secrets.token_hex(24)}",
        token_keys=f"k{secrets.token_hex(3)}:{secrets.token_hex(32)}",
    )


class StackDirectory:
    """Paths below one data directory."""

    def __init__(self, root: Path, run: Path) -> None:
        self.root, self.run = root, run
        self.logs, self.nats, self.postgres = root / "logs", root / "nats", root / "postgres"
        self.shim, self.identity = root / "shim", root / "identity"
        self.ready = root / "ready.json"
        # Apart: every sandbox can reach what lies beside the gateway's socket.
        self.gateway_socket, self.shim_socket = run / "doors" / "gateway.sock", run / "shim.sock"

    def log(self, name: str) -> Path:
        """Where a part's output goes."""
        return self.logs / f"{name}.log"

    def secrets(self) -> Secrets:
        """Those of this directory, made at the first asking."""
        path = self.root / "secrets.json"
        if not path.exists():
            write_private(path, msgspec.json.encode(fresh_secrets()))
        return msgspec.json.decode(path.read_bytes(), type=Secrets)


@contextmanager
def temporary_directory(root: Path | None = None) -> Generator[Path]:
    """A data directory for an ephemeral stack, a new one or `root`, removed at the end."""
    root = root or Path(tempfile.mkdtemp(prefix="muster-"))
    try:
        yield root
    finally:
        # A worker that is just dying may still drop a file; the lock is gone with the directory either way.
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def open_stack_directory(root: Path) -> Generator[StackDirectory]:
    """Take the directory for this process. Raises `InUseError`."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    root = root.resolve()
    with locked(root), _run_directory(root) as run:
        directory = StackDirectory(root, run)
        for made in (directory.logs, directory.shim, directory.gateway_socket.parent):
            made.mkdir(exist_ok=True, mode=0o700)
        for log in directory.logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))
        yield directory


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Hold the lock of a data directory; the kernel lets go of it even at `kill -9`."""
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
    """The pid of the `muster up` that lives in `root` now, if one does. Changes nothing there."""
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
    """Where sockets are: below the data directory if their paths stay short enough, else in a place of their own."""
    run = root / "run"
    if len(os.fsencode(run / _LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        run.mkdir(exist_ok=True, mode=0o700)
        yield run
        return
    # Not the default place: TMPDIR may be the long path itself.
    with tempfile.TemporaryDirectory(prefix="muster-run-", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield Path(short)
