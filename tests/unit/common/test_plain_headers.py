"""Message headers are written and parsed exactly as nats-py does."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client

from muster.common.bus.headers import NAMES, TRACE, Envelope
from muster.common.bus.plain_headers import PlainHeaders, plain_lines, read_plain
from muster.common.clock import utc_now
from muster.common.contracts.tasks import GetTask
from muster.common.ids import new_id

VALUES = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
OURS = st.dictionaries(st.sampled_from(sorted(NAMES)), VALUES, min_size=1)


def sent(client: Client, headers: dict[str, str]) -> bytes:
    """Return the bytes that a client writes to the connection."""
    commands: list[bytes] = []

    async def keep(command: bytes) -> None:
        commands.append(command)

    spied: Any = client
    spied._send_command, spied._flush_queue = keep, None
    asyncio.run(spied._send_publish("a.subject", "a.reply", b"{}", 2, headers))
    return commands[0]


@given(OURS)
@example({TRACE: "a\r\nInjected: b"})
@example({TRACE: " padded "})
@example({TRACE: "ünïcode"})
def test_written_headers_equal_those_of_nats_py(headers: dict[str, str]) -> None:
    assert sent(PlainHeaders(), headers) == sent(Client(), headers)


@given(st.binary(max_size=200) | st.text(alphabet="abC-: \t\r\n\x1c", max_size=60).map(str.encode))
@example(b"a: b\r\nno colon\r\nc d: e\r\n: empty\r\nf:\tg\r\n\r\n")
def test_parsed_headers_equal_those_of_nats_py(raw: bytes) -> None:
    ours, theirs = cast("Any", PlainHeaders), cast("Any", Client)

    assert ours._parse_header_lines(raw) == theirs._parse_header_lines(raw)


def test_every_own_message_uses_the_fast_parser() -> None:
    headers = Envelope("a_service", now=utc_now, new_id=new_id).headers(GetTask(task_id="tsk_1"))

    written = plain_lines(headers)

    assert written
    assert read_plain(written.removeprefix(b"NATS/1.0\r\n")) == headers


@pytest.mark.parametrize("name", ["Other", "Nats-TTL"])
def test_other_headers_are_parsed_by_nats_py(name: str) -> None:
    assert plain_lines({TRACE: "a", name: "b"}) is None
