"""Files, output and recorded changes of a real sandbox, with the real gateway and the echo agent, at each provider."""

import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from muster.common.contract import decode
from muster.common.contracts.gateway import DeleteSandbox, ExecInSandbox
from muster.common.contracts.sandbox_files import (
    LARGEST_PART,
    DiffSandbox,
    FetchFile,
    PutFile,
    ReadOutput,
)
from muster.common.contracts.sandbox_log import Finished
from muster.common.faults import Conflict, Fault, InvalidMessage, NotFound
from tests.support.daytona import gateway_settings
from tests.support.gateway import Stack
from tests.support.gateway_life import finished, living_stack


@pytest.fixture(params=["local", "daytona"])
async def stack(request: pytest.FixtureRequest, tmp_path: Path, nats_url: str) -> AsyncGenerator[tuple[Stack, str]]:
    """A gateway, and the name of the provider that the test uses. Daytona's server is the double."""
    from muster.daytona_double import serving

    with serving(tmp_path / "double") as double:
        async with living_stack(tmp_path, nats_url, **gateway_settings(double)) as made:
            yield made, request.param


class Operator:
    """Sends the requests of an operator about one sandbox."""

    def __init__(self, stack: Stack, sandbox_id: str) -> None:
        self._ask, self.sandbox_id = stack.bus.request, sandbox_id

    async def put(self, path: str, *parts: bytes, last: bool = True, sha256: str | None = None) -> bool:
        offset, complete = 0, False
        for number, body in enumerate(parts, 1):
            part: dict[str, Any] = {"body": body, "offset": offset, "last": last and number == len(parts)}
            asked = PutFile(sandbox_id=self.sandbox_id, path=path, transfer_id="t1", sha256=sha256, **part)
            complete = (await self._ask(asked, timeout_s=20)).complete
            offset += len(body)
        return complete

    async def fetch(self, path: str) -> bytes:
        body, offset, last = b"", 0, False
        while not last:
            asked = FetchFile(sandbox_id=self.sandbox_id, path=path, transfer_id="t2", offset=offset)
            part = await self._ask(asked, timeout_s=20)
            body, offset, last = body + part.body, part.next_offset, part.last
        return body

    async def run(self, command: str) -> str:
        asked = ExecInSandbox(
            sandbox_id=self.sandbox_id, key=hashlib.sha256(command.encode()).hexdigest(), command=command
        )
        return (await self._ask(asked, timeout_s=20)).output

    async def refusal(self, path: str) -> list[type[Fault]]:
        refused: list[type[Fault]] = []
        for act in (self.fetch(path), self.put(path, b"x")):
            try:
                await act
            except Fault as fault:
                refused.append(type(fault))
        return refused


@pytest.mark.stress
async def test_operator_copies_files_reads_output_and_sees_the_changes_at_an_event(
    stack: tuple[Stack, str], tmp_path: Path
) -> None:
    gateway, provider = stack
    command = await gateway.create(
        [
            {"write": {"path": "a.txt", "text": "one\n"}},
            {"act": "true", "times": 3, "every_ms": 300},
            {"write": {"path": "a.txt", "text": "two\n"}},
            {"finish": "success"},
        ],
        provider=provider,
    )
    frames = await gateway.until(command.sandbox_id, finished)
    operator = Operator(gateway, command.sandbox_id)

    large = os.urandom(LARGEST_PART + 1_000)
    parts = large[:LARGEST_PART], large[LARGEST_PART:]
    assert await operator.put("data/large.bin", *parts, sha256=hashlib.sha256(large).hexdigest())
    assert await operator.fetch("data/large.bin") == large
    assert await operator.run("stat -c %s data/large.bin") == f"{len(large)}\n"

    # An upload that is cut in half, or changed on its way, leaves the file as it was.
    assert not await operator.put("data/large.bin", b"half", last=False)
    with pytest.raises(InvalidMessage):
        await operator.put("data/large.bin", b"changed", sha256="0" * 64)
    assert await operator.run("ls data; stat -c %s data/large.bin") == f"large.bin\n{len(large)}\n"

    outside = tmp_path / "outside"
    outside.write_text("secret of the host")
    await operator.run(f"ln -s {outside} link; ln -s {tmp_path} folder; mkfifo pipe; mkdir directory")
    assert await operator.refusal("../state/base") == [InvalidMessage, InvalidMessage]
    assert await operator.refusal("folder/outside") == [NotFound, InvalidMessage]
    assert await operator.refusal("directory") == [NotFound, InvalidMessage]
    for path in ("link", "pipe", "missing"):
        with pytest.raises(NotFound):
            await operator.fetch(path)
    assert outside.read_text() == "secret of the host"
    with pytest.raises(Conflict):
        await gateway.bus.request(FetchFile(sandbox_id=command.sandbox_id, path="a.txt", transfer_id="t9", offset=5))

    page = await gateway.bus.request(ReadOutput(sandbox_id=command.sandbox_id))
    assert "agent process ended" in page.text
    assert not page.running
    rest = await gateway.bus.request(ReadOutput(sandbox_id=command.sandbox_id, offset=page.next_offset))
    assert (rest.text, rest.next_offset) == ("", page.next_offset)

    commits = {event.seq: event.workspace for frame in frames for event in frame.events if event.workspace}
    first = min(commits)
    early = await gateway.bus.request(DiffSandbox(sandbox_id=command.sandbox_id, at=first), timeout_s=20)
    assert (early.seq, early.commit) == (first, commits[first])
    assert "+one" in early.diff
    late = await gateway.bus.request(DiffSandbox(sandbox_id=command.sandbox_id), timeout_s=20)
    assert late.commit == decode(bytes(frames[-1].body), Finished).workspace
    assert "+two" in late.diff
    none = await gateway.bus.request(DiffSandbox(sandbox_id=command.sandbox_id, at=0), timeout_s=20)
    assert (none.commit, none.diff) == (None, "")

    await gateway.bus.request(DeleteSandbox(sandbox_id=command.sandbox_id), timeout_s=25)
    with pytest.raises(NotFound, match="was deleted"):
        await operator.fetch("a.txt")
