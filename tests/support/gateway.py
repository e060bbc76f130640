"""Runs a real gateway and a real shim as processes, and sends the requests of a worker or of the manager to them."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import Frame, FrameKind, log_stream, log_subject, partition
from muster.common.ids import new_id
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from tests.support.patience import PATIENCE_S
from tests.support.prefork import Started, started
from tests.support.sandbox_commands import create_command

KEYS = f"k1:{secrets.token_hex(32)}"


@asynccontextmanager
async def process(module: str, *arguments: str, env: dict[str, str]) -> AsyncGenerator[Started]:
    running = started(module, *arguments, env={**os.environ, **env})
    try:
        yield running
    finally:
        if running.poll() is None:
            running.terminate()
            await asyncio.to_thread(running.wait, PATIENCE_S)


class Stack:
    """A gateway process and a shim process, with a client for the gateway's HTTP socket."""

    def __init__(self, home: Path, nats_url: str, bus: Bus) -> None:
        self.home, self.bus, self.journal = home, bus, MessageStore(bus)
        (home / "gate").mkdir()
        (home / "scripts").mkdir()
        (home / "repos").mkdir()
        self.packages = home / "packages"
        self.packages.mkdir(exist_ok=True)
        self.shim_argv = ("muster.shim", "--socket", str(home / "shim.sock"), "--state", str(home / "shim"))
        self.socket = home / "gate" / "gateway.sock"
        self.env = {
            "MUSTER_NATS_URL": nats_url,
            "MUSTER_HTTP_PORT": "0",
            "MUSTER_GATEWAY_URL": "http://gateway",
            "MUSTER_GATEWAY_SOCKET": str(self.socket),
            "MUSTER_SHIM_SOCKET": str(home / "shim.sock"),
            "MUSTER_DATA_DIR": str(home / "data"),
            "MUSTER_TOKEN_KEYS": KEYS,
            "MUSTER_SCRIPTS_DIRS": str(home / "scripts"),
            "MUSTER_REPO_ROOTS": str(home / "repos"),
            "MUSTER_PACKAGES_DIRS": str(self.packages),
            "MUSTER_BEAT_RUNNING_S": "0.5",
            "MUSTER_LOG_LEVEL": "WARNING",
        }
        self.gateway: Started | None = None
        self.shim: Started | None = None
        self.pool = httpcore.AsyncConnectionPool(uds=str(self.socket))

    async def start(self) -> None:
        self.gateway = started("muster.sandbox_gateway", env={**os.environ, **self.env})
        await self.until_ready()

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.gateway is not None
        self.gateway.send_signal(number)
        return await asyncio.to_thread(self.gateway.wait, PATIENCE_S)

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    if (await self.pool.request("GET", "http://gateway/ready")).status == 200:
                        return
                except (httpcore.ConnectError, httpcore.ReadError):
                    pass
                await asyncio.sleep(0.02)

    async def call(
        self, method: str, path: str, body: object = b"", *, token: str = ""
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Send one HTTP request to the gateway as a worker; return the status, the body and the headers."""
        said: dict[str, str] = {"authorization": f"Bearer {token}"} if token else {}
        content = body if isinstance(body, bytes) else encode(body)
        async with asyncio.timeout(40):
            answer = await self.pool.request(
                method,
                f"http://gateway{path}",
                headers=[(name.encode(), value.encode()) for name, value in said.items()],
                content=content,
            )
        heard = {key.decode().lower(): value.decode() for key, value in answer.headers}
        return answer.status, decode(answer.content, dict[str, Any]) if answer.content else {}, heard

    async def born(self, *, model: str = "scripted/hello", expires_s: int = 600) -> tuple[LogOwner, str]:
        """Create a sandbox log and a token without a worker process; the test acts as the worker."""
        whose = LogOwner(new_id("sbx"), new_id("tsk"), new_id("agt"), 1)
        await SandboxLog(self.bus, Headroom(self.bus, max_bytes=-1)).append([control(whose, FrameKind.OPENED, {})])
        return whose, self.token(whose, model=model, expires_s=expires_s)

    def token(self, whose: LogOwner, *, model: str = "scripted/hello", expires_s: int = 600) -> str:
        expires = int(utc_now().timestamp()) + expires_s
        claims = SandboxClaims(whose.sandbox_id, whose.task_id, whose.agent_id, whose.epoch, expires, model)
        return Keyring.parsed(KEYS).sign(claims)

    async def frames(self, sandbox_id: str) -> list[Frame]:
        stream, subject = log_stream(partition(sandbox_id)), log_subject(sandbox_id)
        return [decode(stored.body, Frame) async for stored in self.journal.replay(stream, subject)]

    async def until(self, sandbox_id: str, true: Callable[[list[Frame]], Any], within_s: float = 20) -> list[Frame]:
        frames = list[Frame]()
        try:
            async with asyncio.timeout(within_s), self.bus.woken_by(log_subject(sandbox_id)) as woken:
                while True:
                    woken.clear()
                    frames = await self.frames(sandbox_id)
                    if true(frames):
                        return frames
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), 0.2)
        except TimeoutError:
            raise AssertionError([str(frame.kind) for frame in frames]) from None

    async def create(self, steps: list[dict[str, Any]] | None = None, **changes: Any) -> CreateSandbox:
        metadata = {"steps": steps} if steps else {}
        command = create_command(**({"timeout_s": 60.0, "metadata": metadata} | changes))
        answer = await self.bus.request(command)
        assert answer.state in ("creating", "running")
        return command


@asynccontextmanager
async def without_shim(home: Path, nats_url: str, **env: str) -> AsyncGenerator[Stack]:
    """Run a gateway without a shim; the test sends the requests of a worker itself. `env` adds settings."""
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        made = Stack(home, nats_url, bus)
        made.env |= env
        await opened.enter_async_context(made.pool)
        try:
            await made.start()
            yield made
        finally:
            await made.end()
