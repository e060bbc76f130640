"""The fork servers of this shim. Starts them, watches them, and makes the keepers of workers that are forked from them.

    prepare or launch --> starting --`ready`--> ready --+-- 15 min without a worker -----------------> closed
                             |                          +-- a file of an imported module has changed -> retired
                             +--`failed`, 60 s passed--> failed: launches are refused for one minute

A retired fork server forks no more workers, and is closed when its last worker has ended. Closing kills the outer
bubblewrap, and with it all processes in its pid namespace.
"""

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from muster.shim.environment import FORK_SERVER_ENVIRONMENT, environment
from muster.shim.fork_isolation import ForkCommands
from muster.shim.keeper import KeeperOrder
from muster.shim.keeper_channel import KeeperChannel, KeeperDescriptors, spawn
from muster.shim.limits import process_limit, resource_limits
from muster.shim.protocol import LaunchRequest, Preload
from muster.shim.worker_limits import Limits

START_S = 60.0
IDLE_S = 900.0
_RETRY_S = 60.0
_MOST_FILES_BYTES = 8 << 20
_LIMITS = [*resource_limits(Limits(cpu_s=300, file_bytes=16 << 20)), (resource.RLIMIT_AS, 8 << 30)]
_MODULE_OPTIONS = ["-P", "-m"]  # With `-P`, Python imports nothing from the working directory.
_NO_PROGRAM = KeeperOrder(b"/", [], [], {}).encode()


class CannotFork(Exception):
    """No fork server can start this worker. The text is the reason."""


class ForkServerSettings(msgspec.Struct, frozen=True):
    """What a fork server imports, and with which limits."""

    modules: list[str]
    import_paths: list[str]
    env: dict[str, str]
    limits: list[tuple[int, int]]
    network: bool


class ForkedOrder(msgspec.Struct, frozen=True):
    """The module that a forked worker runs as `__main__`, with its arguments, directory, environment and limits."""

    module: str
    arguments: list[str]
    cwd: str
    env: dict[str, str]
    limits: list[tuple[int, int]]


class ForkParent:
    """One fork server with its spawner."""

    def __init__(self, preload: Preload, commands: ForkCommands, output: Path, *, network: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands, self._network, self._output = commands, network, output
        self._spawner, spawner_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._files = os.memfd_create("settings")
        self._changes = dict[str, int]()
        self.preload = preload
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when the fork server is ready. The exception is the reason if it cannot be used."""
        self.workers = 0
        self.retired = self._closed = False
        self.idle_since = self._loop.time()
        settings = ForkServerSettings(preload.modules, preload.import_paths, FORK_SERVER_ENVIRONMENT, _LIMITS, network)
        os.write(self._files, msgspec.json.encode(settings))
        printed = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self.pid = spawn(commands.outer(preload, network=network), [spawner_end.fileno(), printed, printed])
            argv = commands.server_argv(preload, network=network)
            self._spawn(argv, [server_end.fileno(), printed, printed, self._files])
        finally:
            spawner_end.close()
            server_end.close()
            os.close(printed)
        self._server.setblocking(False)
        self._loop.add_reader(self._server, self._read_packet)
        self._deadline = self._loop.call_later(START_S, self._fail, f"it was not ready within {START_S:g} s")

    def usable(self) -> bool:
        """Whether this fork server starts or is ready, and no file that it has imported has changed."""
        if self.retired or (self.ready.done() and self.ready.exception()):
            return False
        for path, changed in self._changes.items():
            try:
                if Path(path).stat().st_mtime_ns != changed:
                    return False
            except OSError:
                return False
        return True

    def channel(self, launch: LaunchRequest, on_end: Callable[[KeeperChannel], None]) -> KeeperChannel:
        """Start the keeper of a forked worker. Raises `OSError`."""
        return KeeperChannel(partial(self._start_keeper, launch), on_end)

    def close(self) -> None:
        """Close the sockets. The spawner then ends, and with it all processes of the fork server and its workers."""
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        self._loop.remove_reader(self._server)
        self._server.close()
        self._spawner.close()
        if not self.ready.done():
            self.ready.set_exception(CannotFork("the shim is stopping"))
            self.ready.exception()
        os.close(self._files)
        self._output.unlink(missing_ok=True)

    def _start_keeper(self, launch: LaunchRequest, given: KeeperDescriptors) -> int:
        joining, joined = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = os.memfd_create("keeper")
        try:
            os.write(order, _NO_PROGRAM)
            argv = self._commands.bubblewrap.joined_argv(launch)
            self._spawn(argv, [given.line, given.output, given.output, order, joining.fileno()])
            rights = [joined.fileno(), given.worker, given.output, given.order]
            socket.send_fds(self._server, [b"fork"], rights)
        finally:
            joining.close()
            joined.close()
            os.close(order)
        return 0

    def _spawn(self, argv: list[str], descriptors: list[int]) -> None:
        socket.send_fds(self._spawner, [b"\0".join(map(os.fsencode, argv))], descriptors)

    def _read_packet(self) -> None:
        try:
            packet = self._server.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        name, _, rest = packet.partition(b" ")
        if name == b"ready" and not self.ready.done():
            self._deadline.cancel()
            self._changes = _changes(self._files)
            self.idle_since = self._loop.time()
            self.ready.set_result(None)
        else:
            text = rest.decode(errors="replace").strip() if name == b"failed" else f"it has ended: {self._tail()}"
            self._fail(text.rpartition("\n")[2])

    def _fail(self, why: str) -> None:
        self._loop.remove_reader(self._server)
        self.retired = True
        if not self.ready.done():
            self.ready.set_exception(CannotFork(f"the fork server does not start: {why}"))
            self.ready.exception()  # Without this line, asyncio would report the exception if no launch waits.

    def _tail(self) -> str:
        with suppress(OSError):
            return self._output.read_bytes()[-500:].decode(errors="replace").strip() or "no output"
        return "its output cannot be read"


class ForkParents:
    """All fork servers of this shim, one for each different `Preload`."""

    def __init__(self, commands: ForkCommands, state: Path, cannot_fork: str | None) -> None:
        self._commands, self._state, self._cannot_fork = commands, state, cannot_fork
        self._current: dict[bytes, ForkParent] = {}
        self._failures: dict[bytes, tuple[float, str]] = {}
        self._all: dict[int, ForkParent] = {}
        self._channels: dict[KeeperChannel, ForkParent] = {}
        self._started = 0

    @property
    def pids(self) -> Iterable[int]:
        """The pids of the outer bubblewraps, whose descendants are no orphans."""
        return self._all.keys()

    def reaped(self, pid: int) -> bool:
        """Forget the outer bubblewrap with this pid after its end. Return False if there is none."""
        if (parent := self._all.pop(pid, None)) is None:
            return False
        parent.retired = True
        parent.close()
        return True

    async def prepare(self, preload: Preload, *, network: bool) -> ForkParent:
        """Start the fork server unless it runs, and return it when it is ready. Raises `CannotFork`."""
        if self._cannot_fork:
            raise CannotFork(self._cannot_fork)
        loop, key = asyncio.get_running_loop(), msgspec.json.encode([preload, network])
        until, why = self._failures.get(key, (0.0, ""))
        if loop.time() < until:
            raise CannotFork(why)
        parent = self._current.get(key)
        if parent is not None and not await asyncio.to_thread(parent.usable):
            parent.retired = True
            self.close_unused()
            parent = self._current.get(key)  # Another launch may have started a new one meanwhile.
        if parent is None:
            parent = self._current[key] = self._start(preload, network=network)
        try:
            await asyncio.shield(parent.ready)
        except CannotFork as error:
            self._failures[key] = loop.time() + _RETRY_S, str(error)
            raise
        return parent

    async def channel(self, launch: LaunchRequest, on_end: Callable[[KeeperChannel], None]) -> KeeperChannel:
        """Return the channel to the keeper of a forked worker. Raises `CannotFork`."""
        preload = launch.preload
        assert preload
        if launch.argv[1 : len(_MODULE_OPTIONS) + 1] != _MODULE_OPTIONS or len(launch.argv) < len(_MODULE_OPTIONS) + 2:
            raise CannotFork("only a worker that is started as `python -P -m MODULE` can be forked")
        known = [*preload.roots, *preload.readable]
        for path in (*launch.writable, *launch.readable, launch.cwd):
            if not any(Path(path).is_relative_to(directory) for directory in known):
                raise CannotFork(f"{path} is not below a directory of the fork server")
        parent = await self.prepare(preload, network=launch.network)

        def ended(channel: KeeperChannel) -> None:
            self._release(channel)
            on_end(channel)

        try:
            channel = parent.channel(launch, ended)
        except OSError as error:
            raise CannotFork(f"the fork server cannot be reached: {error}") from error
        self._channels[channel] = parent
        parent.workers += 1
        return channel

    def failed(self, channel: KeeperChannel, why: str) -> None:
        """Retire the fork server that did not fork a worker, and use none for its package for one minute.

        A process of the failed start may still hang. It ends with the retired fork server.
        """
        parent = self._channels[channel]
        parent.retired = True
        for key, current in self._current.items():
            if current is parent:
                self._failures[key] = asyncio.get_running_loop().time() + _RETRY_S, why
        self._release(channel)

    def _release(self, channel: KeeperChannel) -> None:
        parent = self._channels.pop(channel)
        parent.workers -= 1
        parent.idle_since = asyncio.get_running_loop().time()
        self.close_unused()

    def close_unused(self) -> None:
        """Close the fork servers that have no worker and are retired or were idle for too long."""
        now = asyncio.get_running_loop().time()
        for key, parent in list(self._current.items()):
            parent.retired |= not parent.workers and parent.ready.done() and now - parent.idle_since > IDLE_S
            if parent.retired:
                del self._current[key]
        for parent in self._all.values():
            if parent.retired and not parent.workers:
                parent.close()

    def close(self) -> None:
        """Close all fork servers."""
        for parent in self._all.values():
            parent.close()

    def _start(self, preload: Preload, *, network: bool) -> ForkParent:
        self._started += 1
        try:
            parent = ForkParent(preload, self._commands, self._state / f"fork{self._started}.log", network=network)
        except OSError as error:
            raise CannotFork(f"the fork server does not start: {error}") from error
        self._all[parent.pid] = parent
        return parent


def forked_order(launch: LaunchRequest) -> bytes:
    """Return the encoded `ForkedOrder` of a launch."""
    module, *arguments = launch.argv[len(_MODULE_OPTIONS) + 1 :]
    limits = [*resource_limits(launch.limits), *process_limit(launch.limits)]
    return msgspec.json.encode(ForkedOrder(module, arguments, launch.cwd, environment(launch), limits))


def _changes(files: int) -> dict[str, int]:
    """Return the files that a fork server has imported, and the times of their last change, as the fork server says."""
    try:
        body = os.pread(files, _MOST_FILES_BYTES, 0)
        return msgspec.json.decode(body, type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}
