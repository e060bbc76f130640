"""The ways out of a sandbox that the tests try, and the isolation levels that promise to close each of them.

`python -m tests.support.escapes` writes the table in `docs/security.md`.
"""

from dataclasses import dataclass
from pathlib import Path

from muster.common.isolation_levels import LEVELS, IsolationLevel

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- escapes: begin -->\n", "<!-- escapes: end -->\n"

TRY = """
def escape():
    {attempt}
try: escape()
except OSError: print("no")
else: print("escaped")
"""
LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"
CALL = f"{LIBC}; assert not libc.{{call}} or (_ for _ in ()).throw(OSError())"
INNER = "os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS); "
ASK_SHIM = """import socket; s = socket.socket(socket.AF_UNIX); s.connect('{shim}')
    s.sendall(b'{{"op":"probe","id":1}}\\n'); s.recv(1) or (_ for _ in ()).throw(OSError())"""
DATAGRAMS = """import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', {udp}))
    [s.send(b'x') for _ in range(3)]"""
FAST_OPEN = "import socket; socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', {port}))"
OPEN_PORT = """import socket; own = socket.socket(); own.setsockopt(0, 15, 1)
    own.setsockopt(0, 51, ({port} << 16 | {port}).to_bytes(4, sys.byteorder))
    own.bind(('{address}', 0)); own.listen()"""
"""Opens the port of a service. The kernel may choose only this port, and the address need not be of an interface."""
CONNECT = "socket.create_connection(('127.0.0.1', {port}), 2)"
ELSEWHERE = f"{OPEN_PORT.replace('{address}', '127.0.0.2')}\n    {CONNECT}"
IN_NEW_NETWORK = f"""if not os.fork():
        try:
            os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
            {OPEN_PORT.replace("{address}", "127.0.0.1").replace("    own", "            own")}
        finally: os._exit(0)
    os.wait(); import socket; {CONNECT}"""
WATCH = (
    f"{LIBC}; libc.inotify_add_watch(libc.inotify_init(), b'{{other}}', 256) >= 0 or (_ for _ in ()).throw(OSError())"
)
KEY = f"{LIBC}; libc.syscall({{keyctl}}, 10, -4, b'user', b'{{key}}', 0) > 0 or (_ for _ in ()).throw(OSError())"
SHARED = f"{LIBC}; libc.shmget({{memory}}, 1, 0) >= 0 or (_ for _ in ()).throw(OSError())"

ALL: tuple[IsolationLevel, ...] = LEVELS
NAMESPACES: tuple[IsolationLevel, ...] = ("bubblewrap", "pid-namespace")
BOUNDED: tuple[IsolationLevel, ...] = ("bubblewrap", "landlock", "pid-namespace")
FILES: tuple[IsolationLevel, ...] = ("bubblewrap", "landlock")
TOP: tuple[IsolationLevel, ...] = ("bubblewrap",)


@dataclass(frozen=True)
class Escape:
    """One way out. The code runs in a child of a worker, and raises `OSError` if the way is closed."""

    name: str
    attempt: str
    closed: tuple[IsolationLevel, ...]
    """The levels that promise to close this way."""
    is_program: bool = False
    """Whether `attempt` is a whole program that prints `no` or `escaped`."""

    def code(self, facts: dict[str, object]) -> str:
        """Return the Python program that tries this way."""
        attempt = self.attempt.format(**facts)
        return attempt if self.is_program else TRY.format(attempt=attempt)


PTRACE = """
import ctypes
print("escaped" if ctypes.CDLL(None).ptrace(16, {host}, 0, 0) == 0 else "no")
"""
KILL = """
killed = []
for pid in [*range(2, 40), {host}]:
    if pid not in (os.getpid(), os.getppid()):
        try: os.kill(pid, 9); killed.append(pid)
        except OSError: pass
try: os.kill(1, 9)
except OSError: pass
print("escaped" if killed else "no")
"""

ESCAPES = (
    Escape("read a file of the host", "open('{file}')", FILES),
    Escape("write a file of the host", "open('{file}', 'r+')", FILES),
    Escape("change the mode of a file of the host", "os.chmod('{file}', 0o600)", TOP),
    Escape("list the directory of another sandbox", "os.listdir('{other}')", FILES),
    Escape("watch the directory of another sandbox for the names of files", WATCH, TOP),
    Escape("link a file of the host", "os.link('{file}', 'linked')", FILES),
    Escape(
        "connect to a unix socket of another sandbox",
        "import socket; socket.socket(socket.AF_UNIX).connect('{other}/s')",
        FILES,
    ),
    Escape("get an answer from the shim", ASK_SHIM, ALL),
    Escape("list the state directory of the shim", "os.listdir('{state}')", FILES),
    Escape("write a system file", "open('/usr/escape', 'w')", FILES),
    Escape("write to the interpreter", "open(os.path.join(sys.prefix, 'escape'), 'w')", FILES),
    Escape("change a kernel setting", "open('/proc/sys/kernel/core_pattern', 'r+')", BOUNDED),
    Escape(
        "connect to a TCP port of the host",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
        BOUNDED,
    ),
    Escape("connect to a TCP port of the host that the worker has opened at another address", ELSEWHERE, BOUNDED),
    Escape("connect to a TCP port of the host that the worker has opened in a new network", IN_NEW_NETWORK, BOUNDED),
    Escape("connect to TCP with the first message", FAST_OPEN, BOUNDED),
    Escape("send UDP to the host", DATAGRAMS, BOUNDED),
    Escape(
        "connect to an abstract unix socket of the host",
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
        BOUNDED,
    ),
    Escape("see the processes of the host", "os.stat('/proc/{host}')", NAMESPACES),
    Escape("read the environment of a process of the host", "open('/proc/{host}/environ', 'rb').read()", BOUNDED),
    Escape("signal a process of the host", "os.kill({host}, 0)", BOUNDED),
    Escape("trace a process of the host", PTRACE, BOUNDED, is_program=True),
    Escape("set the limits of a process of the host", "import resource; resource.prlimit({host}, 7)", BOUNDED),
    Escape("kill what can be killed", KILL, NAMESPACES, is_program=True),
    Escape("read the memory of the keeper", "open('/proc/%d/mem' % keeper, 'r+b')", BOUNDED),
    Escape("take a descriptor of the keeper", "os.open('/proc/%d/fd/0' % keeper, os.O_RDONLY)", BOUNDED),
    Escape("join the keeper's namespaces", "os.setns(os.open('/proc/%d/ns/mnt' % keeper, os.O_RDONLY), 0)", BOUNDED),
    Escape("become another user", "os.setuid(12345)", BOUNDED),
    Escape("make a device file", "os.mknod('device', 0o20600, os.makedev(1, 1))", BOUNDED),
    Escape("mount", CALL.format(call="mount(b'none', b'/tmp', b'tmpfs', 0, None)"), BOUNDED),
    Escape("remount", CALL.format(call="mount(None, b'/', None, 32 | 4096, None)"), BOUNDED),
    Escape("unmount", CALL.format(call="umount2(b'/proc/sys', 2)"), BOUNDED),
    Escape("unmount in a new user namespace", INNER + CALL.format(call="umount2(b'/proc/sys', 2)"), BOUNDED),
    Escape(
        "mount /proc in a new user namespace",
        INNER + CALL.format(call="mount(b'proc', b'/tmp', b'proc', 0, None)"),
        BOUNDED,
    ),
    Escape(
        "make /proc writable in a new user namespace",
        INNER + CALL.format(call="mount(None, b'/proc/sys', None, 32 | 4096, None)"),
        BOUNDED,
    ),
    Escape("find a key of the user", KEY, FILES),
    Escape("attach System V memory of the host", SHARED, BOUNDED),
)

EACH = """
# Each attempt runs in its own child, because some change the process for good.
keeper = os.getppid()
for name, code in {codes!r}.items():
    sys.stdout.write(name + ": ")
    sys.stdout.flush()
    if not os.fork():
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def promised(level: IsolationLevel) -> list[Escape]:
    """Return the ways that a level promises to close."""
    return [escape for escape in ESCAPES if level in escape.closed]


def table() -> str:
    """Return the Markdown table of what each level promises."""
    lines = ["| attempt of a worker | " + " | ".join(f"`{level}`" for level in LEVELS) + " |"]
    lines.append("| --- " * (len(LEVELS) + 1) + "|")
    for escape in ESCAPES:
        words = ["contained" if level in escape.closed else "not promised" for level in LEVELS]
        lines.append(f"| {escape.name} | {' | '.join(words)} |")
    return "\n".join([*lines, ""])


def rewritten(page: str) -> str:
    """Return the page with the present table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
