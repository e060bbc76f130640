"""The gateway decides how long a worker waits for a model, and puts this deadline into the handoff."""

import asyncio
from pathlib import Path

from muster.agent.gateway_client import GatewayClient
from tests.support.doors_double import Doors, handoff_for

ANSWER = b'{"choices":[{"message":{"content":"hello"}}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"


async def test_worker_repeats_a_model_request_after_the_deadline_of_its_handoff(tmp_path: Path) -> None:
    calls = list[asyncio.StreamWriter]()

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)
        await reader.read(1)
        if len(calls) > 1:  # the first call is never answered
            writer.write(HEAD % len(ANSWER) + ANSWER)
            writer.close()

    server = await asyncio.start_server(called, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with GatewayClient(handoff_for(Doors(), url, tmp_path, model_deadline_s=0.5)) as link:
            reply = await link.complete({"model": "scripted/test", "messages": []})
    finally:
        for writer in calls:
            writer.close()
        server.close()
    assert reply["choices"][0]["message"]["content"] == "hello"
    assert len(calls) > 1
