"""A program that the gateway uploads into a Daytona sandbox. It starts processes, and reports and ends them.

Daytona's own sessions lose the exit code of a shell that exits, start a command twice after a lost answer, and keep the
output in memory. So this program keeps each process in a directory of its own, with these files:

    started       pid and start time of the supervisor; made with O_EXCL, so that a second start does nothing
    process       pid of the process
    out, out.1    the last 4 to 8 MiB of its output; `out.from` is the offset of the first byte of `out`
    ended.json    how the process ended

It uses only Python's standard library. Each command prints one line with JSON after a mark.
"""

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from typing import Any

MARK = "muster-sandbox-agent:"
_HALF = 4 << 20
_CHUNK = 1 << 16
_START_S = 10
_CHILD_SUBREAPER = 36
_NOT_FOUND, _NOT_RUN = 127, 126


def start(folder: str, order_file: str, sha256: str) -> dict[str, Any]:
    """Run the process of an uploaded order to its end, unless that was done before. Blocks."""
    if not os.path.exists(order_file) or _digest(order_file) != sha256:
        return {"started": False}
    os.makedirs(folder, mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(os.path.join(folder, "started"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return {"started": False}
    with os.fdopen(descriptor, "w") as file:
        json.dump({"pid": os.getpid(), "ticks": _ticks(os.getpid()), "at": time.time()}, file)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    order = _read(order_file) or {}
    with contextlib.suppress(OSError):
        os.unlink(order_file)
    began = time.monotonic()
    ended: dict[str, Any] = {"exit_code": None, "timed_out": False, "error": None}
    try:
        _run(folder, order, ended, began)
    except OSError as error:
        ended["exit_code"] = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN
        ended["error"] = f"{order.get('argv', ['?'])[0]}: {error.strerror}"
    _end_all_below()
    ended["seconds"] = time.monotonic() - began
    _write(os.path.join(folder, "ended.json"), ended)
    return {"started": True}


def _run(folder: str, order: dict[str, Any], ended: dict[str, Any], began: float) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        order["argv"],
        cwd=order["cwd"],
        env={**os.environ, **order["env"]},
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        start_new_session=True,
        preexec_fn=lambda: _limit(order["limits"]),  # noqa: PLW1509 - this program has one thread
    )
    os.close(writer)
    _write(os.path.join(folder, "process"), {"pid": process.pid})
    output = _Output(folder)
    deadline = began + float(order["timeout_s"])
    while True:
        ready = bool(select.select([reader], [], [], 0.2)[0])
        chunk = os.read(reader, _CHUNK) if ready else b""
        if chunk:
            output.add(chunk)
        # A process that prints without a pause must end in time too.
        code = process.poll()
        if code is not None:
            break
        if ready and not chunk:  # The process has closed its output and runs on.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        if time.monotonic() > deadline:
            ended["timed_out"] = True
            _kill_all_below()  # The process is reaped by `poll`, which returns its exit code.
    _end_all_below()
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, _CHUNK):
            output.add(chunk)
    ended["exit_code"] = code if code >= 0 else 128 - code


class _Output:
    """The stored output of a process: two files of at most 4 MiB each."""

    def __init__(self, folder: str) -> None:
        self._folder, self._from = folder, 0
        self._file = open(os.path.join(folder, "out"), "ab", buffering=0)  # noqa: SIM115 - open until the process ends

    def add(self, chunk: bytes) -> None:
        self._file.write(chunk)
        if self._file.tell() >= _HALF:
            self._from += self._file.tell()
            self._file.close()
            path = os.path.join(self._folder, "out")
            os.replace(path, path + ".1")
            _write(path + ".from", {"from": self._from})
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115


def _limit(limits: dict[str, int | None]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, wanted in limits.items():
        if wanted is not None:
            hard = resource.getrlimit(getattr(resource, name))[1]
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(getattr(resource, name), (most, most))


def status(folder: str) -> dict[str, Any]:
    """Return the state of the process of a directory. `known` is false if it was never started."""
    began = _read(os.path.join(folder, "started"))
    if began is None:
        try:
            age_s = time.time() - os.path.getmtime(os.path.join(folder, "started"))
        except OSError:
            return {"known": False}
        starts = age_s < _START_S  # Between the file's creation and its first line the supervisor is just starting.
        return {"known": True, "running": starts, "lost": not starts}
    process = _read(os.path.join(folder, "process")) or {}
    ended = _read(os.path.join(folder, "ended.json"))
    if ended is not None:
        return {"known": True, "running": False, "pid": process.get("pid"), **ended}
    if _ticks(began["pid"]) == began["ticks"]:
        return {"known": True, "running": True, "pid": process.get("pid")}
    return {"known": True, "running": False, "pid": process.get("pid"), "lost": True}


def kill(folder: str, grace_s: str) -> dict[str, Any]:
    """End the process of a directory and all processes below it: SIGTERM, and SIGKILL after `grace_s` seconds."""
    now = status(folder)
    if not now.get("running"):
        return now
    began = _read(os.path.join(folder, "started")) or {}
    deadline = time.monotonic() + float(grace_s)
    if now.get("pid"):
        with contextlib.suppress(OSError):
            os.killpg(now["pid"], signal.SIGTERM)
    while time.monotonic() < deadline and status(folder).get("running"):
        time.sleep(0.05)
    deadline = time.monotonic() + 10
    while status(folder).get("running") and time.monotonic() < deadline:
        for pid in _below(began["pid"]):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return status(folder)


def logs(folder: str, offset: str, limit: str) -> dict[str, Any]:
    """Return output from `offset` on, or the last bytes for a negative offset, in base64."""
    path = os.path.join(folder, "out")
    if not os.path.exists(os.path.join(folder, "started")):
        return {"known": False}
    begins = (_read(path + ".from") or {"from": 0})["from"]
    older = os.path.getsize(path + ".1") if os.path.exists(path + ".1") else 0
    size = begins + (os.path.getsize(path) if os.path.exists(path) else 0)
    wanted = int(offset) if int(offset) >= 0 else size + int(offset)
    wanted = min(max(wanted, begins - older), size)
    body = b""
    if wanted < begins:
        body = _piece(path + ".1", wanted - (begins - older), int(limit))
    if len(body) < int(limit) and wanted + len(body) >= begins:
        body += _piece(path, wanted + len(body) - begins, int(limit) - len(body))
    return {"known": True, "body": base64.b64encode(body).decode(), "next": wanted + len(body)}


def _piece(path: str, offset: int, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, offset))
            return file.read(limit)
    except FileNotFoundError:
        return b""


def _digest(path: str) -> str:
    summed = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            summed.update(chunk)
    return summed.hexdigest()


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _write(path: str, value: dict[str, Any]) -> None:
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.replace(path + ".new", path)


def _ticks(pid: int) -> str | None:
    """Return the start time of a process, which tells it from a later one with the same pid."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _below(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def _kill_all_below() -> None:
    """Send SIGKILL to all processes below this one once, also to those that have left the process group."""
    for pid in _below(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _end_all_below() -> None:
    """Kill and reap all processes below this one until none is left, for at most 5 s."""
    deadline = time.monotonic() + 5
    while _below(os.getpid()) and time.monotonic() < deadline:
        _kill_all_below()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


COMMANDS = {command.__name__: command for command in (start, status, kill, logs)}

if __name__ == "__main__":
    print(MARK + json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])), flush=True)
