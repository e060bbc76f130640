"""A forked worker has the isolation of a spawned one: it sees the same, and the same escapes fail."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.shim.client import ShimClient
from tests.support.escape_attempts import tried_escapes
from tests.support.forked import Forkling, Way
from tests.support.shim import ShimProcess, running_shim

pytestmark = pytest.mark.isolation

VIEW = """
import glob, json, resource, signal, socket, stat, struct, fcntl
def text(path):
    with open(path) as file: return file.read()
def tree(top):
    return sorted(os.path.join(at, name) for at, dirs, files in os.walk(top) for name in dirs + files)
mounts = [line.split() for line in text("/proc/self/mountinfo").splitlines()]
up = {}
with socket.socket() as asked:
    for _, name in socket.if_nameindex():
        flags = fcntl.ioctl(asked, 0x8913, struct.pack("16sH14x", name.encode(), 0))
        up[name] = struct.unpack_from("H", flags, 16)[0]
status = dict(line.split(":\\t", 1) for line in text("/proc/self/status").splitlines() if ":\\t" in line)
print(json.dumps({
    "root": sorted(set(os.listdir("/")) - {"joined_keeper.pyc"}),
    "etc": {path: text(path) for path in ("/etc/passwd", "/etc/group", "/etc/hosts")},
    "all of etc": tree("/etc"),
    "dev": [(path, stat.S_IFMT(os.lstat(path).st_mode)) for path in tree("/dev") if "/fd/" not in path],
    "mounts": {mount[4]: [mount[5].replace("noexec,", ""), mount[mount.index("-") + 1]]
        for mount in mounts if "keeper" not in mount[4]},
    "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "cwd": os.getcwd().replace(os.environ["HOME"], ""),
    "env": {name: value for name, value in os.environ.items() if name not in ("HOME", "MUSTER_READY_FD")},
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()],
    "caps": {name: status[name] for name in
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigCgt", "Umask")},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    "host": socket.gethostname(),
    "network": up,
    "session": [os.getppid(), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "stdin": os.readlink("/proc/self/fd/0"),
    "open": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) != 3)[:3],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "sandboxes": os.listdir(os.path.dirname(os.environ["HOME"])),
    "arguments": sys.argv[0].rsplit("/", 2)[1:],
    "names": {kind: os.readlink("/proc/self/ns/" + kind) for kind in ("mnt", "pid", "net", "ipc", "uts", "user")},
}))
"""


@pytest.fixture(scope="module")
def shim_process() -> Iterator[ShimProcess]:
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture(scope="module")
def forkling(shim_process: ShimProcess) -> Forkling:
    return Forkling(shim_process)


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


async def test_forked_worker_sees_what_a_spawned_worker_sees(shim: ShimClient, forkling: Forkling) -> None:
    seen = dict[str, dict[str, Any]]()
    for way in ("spawned", "forked"):
        record, output = await forkling.run(shim, f"view-{way}", VIEW, way)
        assert record.exit_code == 0, output
        assert record.isolation == "bubblewrap"
        assert record.forked is (way == "forked"), record.not_forked
        text = output.replace(f"view-{way}", "KEY")
        seen[way] = json.loads(text)
    # The workers run one after the other, and the kernel may use the names of ended namespaces again. So each worker is
    # compared with the host, and not with the other worker.
    host = {kind: str(Path("/proc/self/ns", kind).readlink()) for kind in ("mnt", "pid", "net", "ipc", "uts", "user")}
    for view in seen.values():
        names = view.pop("names")
        assert names.keys() == host.keys()
        assert not set(names.values()) & set(host.values())
    assert seen["forked"] == seen["spawned"]


@pytest.mark.parametrize("way", ["spawned", "forked"])
async def test_no_escape_succeeds(shim: ShimClient, shim_process: ShimProcess, forkling: Forkling, way: Way) -> None:
    record, tried = await tried_escapes(shim, shim_process, forkling, "bubblewrap", way)
    assert record.forked is (way == "forked")
    assert tried == dict.fromkeys(tried, "no")


SEEN = """
import os
def sees(path):
    try: return os.listdir(path)
    except OSError as error: return type(error).__name__
def writes(path):
    try: open(path, "r+").close()
    except OSError: return False
    return True
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
seen = [
    sees({sandboxes!r}), sees({state!r}), sees("/proc/1/root"), status["CapEff"], status["CapPrm"], status["NoNewPrivs"],
    writes("/proc/sys/kernel/core_pattern"), {pid!r} in os.listdir("/proc"),
]
"""


async def test_package_code_in_the_fork_server_sees_no_sandbox_and_has_no_rights() -> None:
    """The module that is imported before the fork stores what it sees; its worker prints that."""
    with running_shim("bubblewrap") as at:
        facts = {"sandboxes": str(at.directory / "sandboxes"), "state": str(at.state), "pid": str(os.getpid())}
        forkling = Forkling(at, SEEN.format(**facts))
        async with ShimClient(at.socket) as shim:
            await shim.probe(deadline_s=20)
            record, output = await forkling.run(shim, "seen", "print(*forkling.imported.seen, sep='\\n')")
    assert record.forked, record.not_forked
    missing, none = "FileNotFoundError", "0" * 16
    assert output.splitlines() == [missing, missing, "PermissionError", none, none, "1", "False", "False"]
