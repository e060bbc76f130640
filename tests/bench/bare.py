"""Minimal programs for comparison: an HTTP server, a NATS responder and a FastAPI application that sends NATS requests.

Each runs in a separate process.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

HTTP = """
import asyncio, socket, sys
from muster.common.http import serving
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
async def main():
    bound = socket.create_server(("127.0.0.1", 0))
    async with serving(app, [bound], grace_s=1):
        print(bound.getsockname()[1], flush=True)
        await asyncio.Event().wait()
import uvloop
uvloop.run(main())
"""

NATS = """
import asyncio, os
from pathlib import Path
from muster.common.bus.connection import open_bus
async def main():
    async with open_bus(os.environ["NATS"], "bare", credentials=Path(os.environ["CREDENTIALS"])) as bus:
        async def answer(message):
            await bus.send(message.reply, b"{}")
        await bus.subscribe("bare.echo", answer)
        await bus.flush()
        print("ready", flush=True)
        await asyncio.Event().wait()
import uvloop
uvloop.run(main())
"""

FASTAPI = """
import asyncio, os, socket
from pathlib import Path
from fastapi import FastAPI
from pydantic import BaseModel
from muster.common.bus.connection import open_bus
from muster.common.http import serving
class Answer(BaseModel):
    task_id: str
app = FastAPI()
@app.get("/tasks/{task_id}")
async def read(task_id: str) -> Answer:
    await app.state.bus.call("bare.echo", b"{}", timeout_s=5)
    return Answer(task_id=task_id)
async def main():
    bound = socket.create_server(("127.0.0.1", 0))
    async with open_bus(os.environ["NATS"], "bare", credentials=Path(os.environ["CREDENTIALS"])) as bus:
        app.state.bus = bus
        async with serving(app, [bound], grace_s=1):
            print(bound.getsockname()[1], flush=True)
            await asyncio.Event().wait()
import uvloop
uvloop.run(main())
"""
"""No authentication, no limits, no audit, no headers: what FastAPI and one request over NATS cost by themselves."""


@asynccontextmanager
async def responder(code: str, **env: str) -> AsyncGenerator[str]:
    """Run a responder process; yield the first line of its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=os.environ | env
    )
    assert process.stdout
    try:
        said = (await process.stdout.readline()).decode().strip()
        assert said, "the bare responder ended before it was ready"
        yield said
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
