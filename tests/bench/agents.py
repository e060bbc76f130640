"""Measures the start and the memory of coding agents: started by themselves, and forked from their fork server."""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from muster.common.contract import encode
from muster.common.worker_sources import readable_sources
from muster.shim.client import Preload, ProcessRecord, ShimClient
from tests.bench.ratios import row
from tests.support.doors_double import Doors, called, handoff_for
from tests.support.shim import running_shim

_AGENT = "muster.agents.openhands"
_TOGETHER = 10
_SETTLED_S = 11.0
"""Seconds in which an agent reaches its last command, and the shim measures its memory afterwards."""
_LONGEST_S = 120


async def report() -> None:
    """Print the start time and the private memory of agents, with and without the pre-imported parent."""
    with tempfile.TemporaryDirectory(prefix="muster-agents-") as place, running_shim("bubblewrap") as at:
        async with ShimClient(at.socket) as shim:
            await shim.probe(deadline_s=60)
            agents = _Agents(shim, Path(place))
            spawned = [await agents.run(f"spawned{number}", agents.nothing) for number in range(2)]
            began = time.perf_counter()
            why = await shim.prepare(agents.preload)
            warm_s = time.perf_counter() - began
            forked = [await agents.run(f"forked{number}", agents.preload) for number in range(3)]
            many = await asyncio.gather(*(agents.run(f"many{number}", agents.preload) for number in range(_TOGETHER)))
    slow, fast = _start_s(spawned), _start_s(forked)
    row("agent: launch → first event (aim ≥ 5)", f"{fast:.2f} s", f"without parent {slow:.2f} s", f"{slow / fast:.1f}")
    row("the parent's imports, once per host", f"{warm_s:.1f} s", why or "", "")
    row(
        f"{_TOGETHER} agents: MiB private each (aim ≤ 60)",
        f"{_memory(many):.0f}",
        f"without parent {_memory(spawned):.0f}",
        "",
    )


class _Agents:
    """Starts agents on a task with a few commands, as the gateway does."""

    def __init__(self, shim: ShimClient, place: Path) -> None:
        self._shim, self._place = shim, place
        roots, code = [str(place)], list(readable_sources())
        self.preload = Preload(
            modules=["muster.agent.entry", "muster.agent.worker", f"{_AGENT}.preload"], roots=roots, readable=code
        )
        self.nothing = Preload(modules=["there.is.no.such.module"], roots=roots, readable=code)

    async def run(self, key: str, preload: Preload) -> ProcessRecord:
        """Run an agent until it has started its last command, and return its record with the measured memory.

        Each agent has a gateway of its own, because an agent whose log another one writes to ends at once.
        """
        home, doors, socket = self._place / key, Doors(), self._place / f"{key}-gateway" / "s"
        doors.model = _model
        home.mkdir()
        socket.parent.mkdir()
        url = doors.start_on_socket(socket)
        try:
            await self._launch(key, preload, doors, url, socket)
            record = await self._running(key)
            async with asyncio.timeout(_LONGEST_S):
                while record.start_s is None:
                    await asyncio.sleep(0.05)
                    record = await self._running(key)
                await asyncio.sleep(_SETTLED_S)
                record = await self._running(key)
                while record.private_bytes is None:
                    await asyncio.sleep(0.5)
                    record = await self._running(key)
            await self._shim.remove(key)
        finally:
            doors.stop()
        return record

    async def _launch(self, key: str, preload: Preload, doors: Doors, url: str, socket: Path) -> None:
        home = self._place / key
        handoff = handoff_for(doors, url, home, gateway_socket=str(socket), conversation_id=f"cnv_{key}")
        (home / "handoff.json").write_bytes(encode(handoff))
        await self._shim.launch(
            key,
            [sys.executable, "-P", "-m", _AGENT, "--handoff", str(home / "handoff.json")],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"},
            writable=[home],
            readable=[*readable_sources(), socket.parent],
            preload=preload,
        )

    async def _running(self, key: str) -> ProcessRecord:
        """Return the record of an agent. Raises `RuntimeError` if it has ended, because then nothing is measured."""
        record = await self._shim.get(key)
        if record is None or record.state != "running":
            output = (await self._shim.output(key))[0][-2000:].decode(errors="replace") if record else "no record"
            raise RuntimeError(f"the agent {key} has ended before its memory was measured: {output}")
        return record


def _model(request: dict[str, Any]) -> dict[str, Any]:
    turn = sum(message["role"] == "assistant" for message in request["messages"])
    command = f"echo step {turn}" if turn < 3 else "sleep 1000"
    return called("terminal", turn, command=command)


def _start_s(records: list[ProcessRecord]) -> float:
    return statistics.median(record.start_s or 0.0 for record in records)


def _memory(records: list[ProcessRecord]) -> float:
    return statistics.median(record.private_bytes for record in records if record.private_bytes) / 2**20
