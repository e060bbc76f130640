"""Sandboxes without a worker, whose doors a benchmark uses itself."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Frame, FrameKind, Opened, log_subject
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from tests.bench.client import Lane, lanes
from tests.support.stack import RunningStack


class Door:
    """One sandbox's doors."""

    def __init__(self, lane: Lane, sandbox_id: str, token: str) -> None:
        self._lane, self._path = lane, f"/v1/sandboxes/{sandbox_id}"
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.next_seq = 1

    async def post(self, door: str, body: object) -> None:
        """Post, and insist on 202."""
        status, answer = await self._lane.request("POST", f"{self._path}/{door}", self._headers, encode(body))
        if status != 202:
            raise AssertionError(answer)


@asynccontextmanager
async def opened_doors(stack: RunningStack, bus: Bus, count: int) -> AsyncGenerator[list[Door]]:
    """So many sandboxes, opened in their logs and nowhere else; fenced at the end."""
    secrets = msgspec.json.decode((stack.data_dir / "secrets.json").read_bytes(), type=dict[str, str])
    keys, journal = Keyring.parsed(secrets["token_keys"]), Journal(bus)
    async with lanes(stack.gateway_url, count) as connections:
        doors: list[Door] = []
        for lane in connections:
            sandbox_id, task_id = bus.new_id("sbx"), bus.new_id("tsk")
            claims = SandboxClaims(
                sbx=sandbox_id, tsk=task_id, agt="agt_bench", epoch=1, exp=int(time.time()) + 3600, model="none"
            )
            opened = Opened(package="bench", model="none", conversation_id="cnv_bench")
            frame = Frame(
                sandbox_id=sandbox_id,
                task_id=task_id,
                agent_id="agt_bench",
                epoch=1,
                kind=FrameKind.OPENED,
                first=1,
                next=1,
                at=bus.now(),
                body=msgspec.Raw(encode(opened)),
            )
            await journal.append(log_subject(sandbox_id), encode(frame), last=0)
            doors.append(Door(lane, sandbox_id, keys.sign(claims)))
        yield doors
