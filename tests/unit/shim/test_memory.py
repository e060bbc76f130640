"""The memory of a worker is the private memory of its keeper and of all processes below the keeper."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.shim.memory import ProcessUsage, measure, measure_files, processes_of

_MIB = 1 << 20
_HELD = 24 * _MIB
_PARENT = f"""
import subprocess, sys
child = "held = bytearray(b'1' * {_HELD}); print(flush=True); import sys; sys.stdin.read()"
subprocess.run([sys.executable, "-I", "-S", "-c", child])
"""
_REMOVED = """
import ctypes, mmap, os, socket, sys, threading
how = sys.argv[1]
def remove():
    if how == "of a thread":
        os.unshare(os.CLONE_FILES)
    file = os.open("hidden", os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(1 << 20))
    os.unlink("hidden")
    if how == "mapped":
        # Python's `mmap` would keep a copy of the descriptor.
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, file, ctypes.c_long(0))
        os.close(file)
    if how == "in transit":
        global ends
        ends = socket.socketpair()
        socket.send_fds(ends[0], [b"x"], [file])
        os.close(file)
    print(flush=True)
    sys.stdin.read()
thread = threading.Thread(target=remove)
thread.start()
if how == "of a thread":
    ctypes.CDLL(None).syscall(ctypes.c_long(60 if os.uname().machine == "x86_64" else 93), 0)  # Only this thread ends.
thread.join()
"""


@pytest.fixture
def keeper() -> Generator[subprocess.Popen[bytes]]:
    """A process that has one child, which holds 24 MiB and ends with its input."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield process
        process.communicate()


def private_bytes(keeper: int) -> int | None:
    usage = ProcessUsage()
    measure(processes_of([keeper])[keeper], usage)
    return usage.private_bytes


def test_memory_of_a_child_counts_for_its_keeper(keeper: subprocess.Popen[bytes]) -> None:
    assert _HELD < (private_bytes(keeper.pid) or 0) < _HELD + 30 * _MIB


def test_keeper_that_has_ended_has_no_measurement(keeper: subprocess.Popen[bytes]) -> None:
    keeper.communicate()
    assert private_bytes(keeper.pid) is None


@contextmanager
def removing(directory: Path, how: str) -> Generator[int]:
    """Run a process that writes a file of 1 MiB, removes it and keeps it in this way. Yields its pid."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVED, how], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("how", ["open", "mapped", "of a thread"])
def test_removed_file_that_a_process_holds_is_counted_once(tmp_path: Path, how: str) -> None:
    usage = ProcessUsage()
    with removing(tmp_path, how) as pid:
        measure_files([0, pid, pid], usage)
    # Only root may read the size of a file that is only mapped.
    assert usage.deleted_bytes == _MIB or (how == "mapped" and usage.hidden_files)


def test_removed_file_in_a_socket_is_reported_as_hidden(tmp_path: Path) -> None:
    usage = ProcessUsage()
    with removing(tmp_path, "in transit") as pid:
        measure_files([0, pid], usage)
    assert (usage.hidden_files, usage.deleted_bytes) == (True, 0)


def test_memory_of_a_process_that_hides_it_from_its_user_counts() -> None:
    hiding = f"""
import ctypes, os, signal
from muster.shim.memory import ProcessUsage, measure, measure_files
if not os.getuid():
    os.setresuid(65534, 65534, 65534)
ready, write = os.pipe()
if not (worker := os.fork()):
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    held = bytearray(b"1" * {_HELD})
    os.write(write, b"1")
    signal.pause()
os.read(ready, 1)
usage = ProcessUsage()
measure([os.getpid(), worker], usage)
measure_files([os.getpid(), worker], usage)
os.kill(worker, signal.SIGKILL)
print(usage.memory_bytes, usage.unreadable)
"""
    printed = subprocess.run([sys.executable, "-c", hiding], capture_output=True, check=True).stdout.split()
    assert int(printed[0]) >= _HELD
    assert printed[1] == b"True"
