"""Limits of a request body: bytes, values, and the size of an error."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator
from typing import Annotated

import pytest
from fastapi import Body

from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.contracts.task_bodies import NewMessage, NewTask
from muster.common.faults import InvalidMessage
from muster.common.storable_values import MOST_VALUES, refuse_unstorable
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.middleware import body_limit
from muster.management_api.http.middleware.body_limit import MAX_BODY_BYTES
from muster.management_api.http.route import routes_of
from tests.support.api_application import client, in_process

MIB = 1 << 20
JSON = {"Content-Type": "application/json"}


things = routes_of("/things", "things")


@things.post("")
async def make_thing(new: Annotated[NewTask, Body()], _: Annotated[Principal, requires("operator")]) -> NewMessage:
    """A thing."""
    return NewMessage(text=new.objective)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_one_mebibyte_is_refused_before_it_is_decoded(declared: bool):
    async def pieces(count: int) -> AsyncGenerator[bytes]:
        for at in range(0, count, 65_536):
            yield b" " * min(65_536, count - at)

    assert MAX_BODY_BYTES == MIB
    async with client(in_process(routers=[things])) as caller:
        told: list[tuple[int, str]] = []
        for size in (MIB, MIB + 1):
            content = b" " * size if declared else pieces(size)
            answer = await caller.post("/things", content=content, headers=JSON)
            told.append((answer.status_code, decode(answer.content, Problem).detail))

    assert told[0][0] == 422, "it was decoded"
    assert told[1] == (413, "the request's body must be at most 1048576 bytes")


async def test_a_body_that_does_not_arrive_in_time_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_limit, "BODY_DEADLINE_S", 0.05)

    async def begun() -> AsyncGenerator[bytes]:
        yield b'{"objective": '
        await asyncio.Event().wait()

    async with client(in_process(routers=[things])) as caller:
        answer = await caller.post("/things", content=begun(), headers=JSON)

    assert (answer.status_code, decode(answer.content, Problem).detail) == (
        408,
        "the request's body did not arrive within 0.05 s",
    )


def test_a_body_of_many_values_is_refused_and_its_field_is_named():
    zeros = b'{"objective": "x", "metadata": {"m": [' + b"0," * MOST_VALUES + b"0]}}"

    with pytest.raises(InvalidMessage, match=str(MOST_VALUES)) as refused:
        NewTask.from_json(zeros)

    assert (refused.value.field or "").startswith("$.metadata.m[")


@pytest.mark.parametrize("last", [0, "\0"], ids=["accepted", "refused"])
def test_a_long_key_above_many_values_is_not_copied_for_each_of_them(last: object):
    value = {"metadata": {"k" * 100_000: [0] * 2_000 + [last]}}

    tracemalloc.start()
    try:
        try:
            refuse_unstorable(value)
        except InvalidMessage as refused:
            assert refused.field == "$.metadata." + "k" * 189  # noqa: PT017 - one of the two cases is refused
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < MIB


def test_unknown_field_with_a_long_name_is_refused_with_a_short_text():
    with pytest.raises(InvalidMessage) as refused:
        decode(b'{"objective": "x", "' + b"n" * 900_000 + b'": 1}', NewTask)

    assert len(str(refused.value)) < 2_000
