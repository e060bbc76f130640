"""A feed whose source fails sends the cause, so that its reader knows whether to reconnect."""

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import nullcontext
from typing import Any

import pytest

from muster.common.faults import Fault, NotFound, TimedOut, Unavailable
from muster.management_api.feeds.event_stream import EventStream


@pytest.mark.parametrize("fault", [TimedOut("slow"), Unavailable("away"), NotFound("gone")])
async def test_failure_of_a_feeds_source_is_sent_as_an_event_and_the_response_ends_normally(fault: Fault) -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b": muster\n\n"
        raise fault

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return await asyncio.Future()

    async def lost(_: MutableMapping[str, Any]) -> Fault:
        return await asyncio.Future()

    await EventStream(events(), until=asyncio.Event(), lost=lost, while_open=nullcontext())({}, receive, send)

    bodies = [message["body"] for message in sent[1:]]
    assert bodies[0] == b": muster\n\n"
    assert bodies[1].startswith(b"event: problem\n")
    assert str(fault.status).encode() in bodies[1]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
