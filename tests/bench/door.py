"""Sandboxes without a worker; a benchmark sends the worker's requests itself."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Frame, FrameKind, Opened, log_subject
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from tests.bench.client import Lane, lanes
from tests.support.stack import RunningStack


class Door:
    """The HTTP endpoints of one sandbox."""

    def __init__(self, lane: Lane, sandbox_id: str, token: str) -> None:
        self._lane, self._path = lane, f"/v1/sandboxes/{sandbox_id}"
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.next_seq = 1

    async def post(self, door: str, body: object) -> None:
        """Send a POST and raise `AssertionError` if the status is not 202."""
        status, answer = await self._lane.request("POST", f"{self._path}/{door}", self._headers, encode(body))
        if status != 202:
            raise AssertionError(answer)


@asynccontextmanager
async def opened_doors(stack: RunningStack, bus: Bus, count: int) -> AsyncGenerator[list[Door]]:
    """Yield `count` sandboxes, each with an opened log but without a worker process."""
    secrets = msgspec.json.decode((stack.data_dir / "secrets.json").read_bytes(), type=dict[str, str])
    keys, message_store = Keyring.parsed(secrets["token_keys"]), MessageStore(bus)
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
            await message_store.append(log_subject(sandbox_id), encode(frame), last=0)
            doors.append(Door(lane, sandbox_id, keys.sign(claims)))
        yield doors
