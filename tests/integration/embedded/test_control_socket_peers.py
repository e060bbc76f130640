"""The control socket of a stack answers no worker of the stack's shim."""

import asyncio
import sys
from pathlib import Path

from muster.embedded.control_socket import RestartReply, open_control_socket

ASK = """
import socket, sys
sys.stdin.readline()
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
try:
    client.sendall(b'{"part": "nats"}\\n')
    print(len(client.recv(100)))
except OSError:
    print(0)
"""
NO_PID = 1 << 22


async def test_worker_of_the_shim_gets_no_answer_and_another_process_does(tmp_path: Path) -> None:
    restarted, shims = list[str](), [NO_PID]

    async def restart(part: str) -> RestartReply:
        restarted.append(part)
        return RestartReply(part=part)

    async def asked(*, by_worker: bool) -> int:
        """Ask from a child of a process, which is the shim if `by_worker`."""
        script = 'python="$1"; shift; "$python" -c "$@"; exit'
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", script, "sh", sys.executable, ASK, str(tmp_path / "control")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        shims.append(process.pid if by_worker else NO_PID)
        return int((await process.communicate(b"\n"))[0])

    async with open_control_socket(tmp_path / "control", restart, lambda: shims[-1]):
        assert await asked(by_worker=True) == 0
        assert restarted == []
        assert await asked(by_worker=False) > 0
        assert restarted == ["nats"]
