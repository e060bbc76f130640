"""What a request's body may cost: bytes, values, and the memory of a refusal."""

import tracemalloc
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.requests import Request

from muster.common.contract import decode
from muster.common.faults import InvalidMessage, TooLarge
from muster.management_api.domain.requests import MOST_VALUES, NewTask, refuse_unstorable
from muster.management_api.routes.bodies import MAX_BODY_BYTES, body, whole

MIB = 1 << 20


def request(sent: bytes, *, declared: bool = True) -> Request:
    headers = [(b"content-type", b"application/json")]
    if declared:
        headers.append((b"content-length", str(len(sent)).encode()))
    chunks = [sent[at : at + 65_536] for at in range(0, len(sent), 65_536)]

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_one_mebibyte_is_refused_before_it_is_decoded(declared: bool):
    assert MAX_BODY_BYTES == MIB
    assert len(await whole(request(b" " * MIB, declared=declared))) == MIB
    with pytest.raises(TooLarge, match="1048576 bytes"):
        await whole(request(b" " * (MIB + 1), declared=declared))


async def test_a_body_of_many_values_is_refused_and_its_field_is_named():
    zeros = b'{"objective": "x", "metadata": {"m": [' + b"0," * MOST_VALUES + b"0]}}"

    with pytest.raises(InvalidMessage, match=str(MOST_VALUES)) as refused:
        await body(request(zeros), NewTask)

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


def test_an_unknown_field_with_a_long_name_is_refused_in_few_words():
    with pytest.raises(InvalidMessage) as refused:
        decode(b'{"objective": "x", "' + b"n" * 900_000 + b'": 1}', NewTask)

    assert len(str(refused.value)) < 2_000
