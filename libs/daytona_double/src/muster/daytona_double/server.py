"""A double that serves: uvicorn in a thread with an event loop of its own.

A client that blocks its own event loop, such as the synchronous SDK in a test, therefore does not stop the double.
"""

import asyncio
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from muster.daytona_double.admission import ABORT, API_PREFIX, TOOLBOX_PREFIX
from muster.daytona_double.application import application
from muster.daytona_double.double_settings import DoubleSettings, new_key
from muster.daytona_double.faults import Faults
from muster.daytona_double.processes import kill_marked, mark_of
from muster.daytona_double.requests import DoubleState
from muster.daytona_double.sandbox_record import DoubleSandboxView
from muster.daytona_double.sandbox_table import SandboxTable
from muster.daytona_double.snapshot_table import SnapshotTable

START_WITHIN_S = 20.0
SETTLE_EVERY_S = 0.25
END_WITHIN_S = 2.0


class DroppableConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with an extension by which the application closes the connection without an answer."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        abort: Any = self.transport.abort
        self.scope["extensions"] = {ABORT: abort}


class DoubleServer(uvicorn.Server):
    """A uvicorn server without signal handlers."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers, because the server does not run in the main thread."""
        yield


class DaytonaDouble:
    """A double of Daytona's APIs. Use it as a context manager, `with` or `async with`.

    All methods and properties may be used by any thread while the double serves.
    """

    def __init__(self, settings: DoubleSettings, faults: Faults | None = None) -> None:
        self.settings = settings
        self.faults = faults or Faults(settings.seed)
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._state: DoubleState | None = None
        self._failure: Exception | None = None

    @property
    def url(self) -> str:
        """The URL of the API, for `DaytonaConfig(api_url=…)`."""
        return self._serving.api_url

    @property
    def key(self) -> str:
        """The API key that is valid now."""
        return self._serving.api_key

    @property
    def sandboxes(self) -> list[DoubleSandboxView]:
        """Copies of the sandboxes that exist, oldest first."""
        return self._call(lambda state: [DoubleSandboxView.of(record) for record in state.sandboxes.records])

    @property
    def requests(self) -> dict[str, int]:
        """How often each route was requested, by method and path with its placeholders."""
        return self._call(lambda state: dict(state.requests))

    def rotate_key(self) -> str:
        """Make the key invalid, and return the new one."""
        self._serving.api_key = new_key()
        return self.key

    def vanish(self, id_or_name: str) -> None:
        """Remove a sandbox at once, as if its host had died."""
        self._call(lambda state: state.sandboxes.vanish(state.sandboxes.find(id_or_name)))

    def fail(self, id_or_name: str, reason: str = "failed by a test", *, recoverable: bool = True) -> None:
        """Put a sandbox into the state `error`."""
        self._call(
            lambda state: state.sandboxes.fail(state.sandboxes.find(id_or_name), reason, recoverable=recoverable)
        )

    def start(self) -> None:
        """Listen, and return when the double answers. Raises OSError if the port is not free."""
        listening = socket.create_server((self.settings.host, self.settings.port))
        self._thread = threading.Thread(target=self._run, args=(listening,), name="daytona-double", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_WITHIN_S):
            raise TimeoutError(f"the double does not answer within {START_WITHIN_S} s")
        self._raise_failure()

    def stop(self) -> None:
        """End all processes of all sandboxes, delete their files, and stop listening.

        Raises RuntimeError if the double itself failed meanwhile.
        """
        if self._loop and self._stop and self._thread:
            with suppress(RuntimeError):  # The loop is closed if the double failed.
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_WITHIN_S)
        self._raise_failure()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def _serving(self) -> DoubleState:
        assert self._state, "the double does not serve yet"
        return self._state

    def _call[T](self, read: Callable[[DoubleState], T]) -> T:
        """Run a function in the thread of the double, and return its result."""
        assert self._loop

        async def run() -> T:
            return read(self._serving)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_WITHIN_S)

    def _run(self, listening: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listening))
        except Exception as failure:  # noqa: BLE001 - raised by `start` or `stop` in the thread that called it
            self._failure = failure
            self._ready.set()

    def _raise_failure(self) -> None:
        if self._failure:
            raise RuntimeError("the double of Daytona failed") from self._failure

    async def _serve(self, listening: socket.socket) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        _empty(self.settings.root)
        async with asyncio.TaskGroup() as tasks:
            host, port = listening.getsockname()[:2]
            background, forever = _BackgroundTasks(tasks), _BackgroundTasks(tasks)
            self._state = self._new_state(f"http://{host}:{port}", background, forever)
            server = DoubleServer(self._config())
            serve = tasks.create_task(server.serve(sockets=[listening]))
            forever(self._settle_often(self._state.sandboxes))
            forever(self._report_ready(server))
            await self._stop.wait()
            self._state.sandboxes.clear()
            server.should_exit = True
            await serve
            # The shells of sessions were killed. Their tasks end when the event loop has heard so.
            await background.end(within_s=END_WITHIN_S)
            await forever.end(within_s=0)
        shutil.rmtree(self.settings.root, ignore_errors=True)

    def _new_state(self, origin: str, background: "_BackgroundTasks", forever: "_BackgroundTasks") -> DoubleState:
        settings = self.settings
        return DoubleState(
            settings=settings,
            faults=self.faults,
            sandboxes=SandboxTable(settings, self.faults, origin + TOOLBOX_PREFIX),
            snapshots=SnapshotTable(settings.root / "snapshots", settings.snapshots, settings.clock),
            api_url=origin + API_PREFIX,
            api_key=settings.api_key,
            background=background,
            forever=forever,
        )

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            application(self._serving),
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            loop="none",
            http=DroppableConnection,
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )

    async def _report_ready(self, server: DoubleServer) -> None:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for this
            await asyncio.sleep(0.005)
        self._ready.set()

    @staticmethod
    async def _settle_often(sandboxes: SandboxTable) -> None:
        while True:
            sandboxes.settle()
            await asyncio.sleep(SETTLE_EVERY_S)


class _BackgroundTasks:
    """Tasks beside the requests."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()

    def __call__(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.add(task := self._tasks.create_task(work))
        task.add_done_callback(self._running.discard)

    async def end(self, *, within_s: float) -> None:
        """Wait for the tasks, and cancel those that do not end in time."""
        if self._running and within_s:
            await asyncio.wait(self._running, timeout=within_s)
        for task in self._running:
            task.cancel()


def _empty(root: Path) -> None:
    """Kill what an earlier double on this directory left behind, and make the directory empty."""
    kill_marked(mark_of(root))
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
