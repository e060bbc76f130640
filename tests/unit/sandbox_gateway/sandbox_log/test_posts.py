"""Posts of workers are decoded, or refused with the name of the field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.common.contracts.worker_api import PostEvents
from muster.common.faults import Fault, InvalidMessage, TooLarge
from muster.sandbox_gateway.sandbox_log.domain.post_checks import checked_bodies, events_post


def post(**event: Any) -> bytes:
    whole: dict[str, Any] = {
        "seq": 1,
        "event_id": "e",
        "kind": "k",
        "at": "2026-11-21T00:00:00Z",
        "source": "agent",
        "body": {},
    }
    return json.dumps({"epoch": 1, "events": [whole, whole | {"seq": 2} | event]}).encode()


def checked(body: bytes) -> PostEvents:
    post = events_post(body)
    for _ in checked_bodies(post.events):
        continue
    return post


def nested(levels: int) -> bytes:
    return post(body="HERE").replace(b'"HERE"', b'{"a":' * (levels - 1) + b'["]]"]' + b"}" * (levels - 1))


def test_a_wide_body_is_not_a_deep_one() -> None:
    assert len(checked(nested(200)).events) == 2
    wide = [{"a": ["[[[{{{", '\\"[{']}] * 1000 + ["[" * 1000]
    assert len(checked(post(body=wide)).events) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"[]", "$"),
        (b'{"epoch":1,"events":[],"x":"\xff"}', "$"),
        (b'{"epoch":"1"}', "$.epoch"),
        (post(seq="2"), "$.events[1].seq"),
        (post(seq=3), "$.events[1].seq"),
        (post(seq=1), "$.events[1].seq"),
        (post(at="yesterday"), "$.events[1].at"),
        (post(at="2026-11-21T00:00:00"), "$.events[1].at"),
        (post(kind=None), "$.events[1].kind"),
        (post(kind="k" * 300), "$.events[1]"),
        (post(body="\ud800"), "$"),
        (
            b'{"epoch":1,"events":[{"seq":0,"event_id":"e","kind":"k","at":"2026-11-21T00:00:00Z","source":"a"}]}',
            "$.events[0].seq",
        ),
        (b'{"epoch":1,"gap":{"from_seq":3,"to_seq":1,"why":""}}', "$.gap.from_seq"),
        (b'{"epoch":1,"gap":{"from_seq":1,"to_seq":1e30,"why":""}}', "$.gap.to_seq"),
        (b'{"epoch":1,"x":' + b"[" * 100_000, "$"),
        (b'{"epoch":1,"x":[{"a":' + b"[" * 100_000, "$"),
        (nested(201), "$.events[1].body"),
        (nested(1500), "$.events[1].body"),
        (b'{"epoch":1,"events":[' + b"[" * 100_000, "$.events[0]"),
        (b'{"epoch":1,"events":[1,{"body":' + b"[" * 100_000, "$.events[0]"),
    ],
)
def test_a_bad_post_is_refused_by_the_name_of_its_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        checked(body)
    assert refusal.value.field == field


def test_an_event_body_over_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge) as refusal:
        checked(post(body="x" * (600 << 10)))
    assert refusal.value.field == "$.events[1].body"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["epoch", "events", "seq", "gap", "at", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_post_is_decoded_or_refused(body: bytes) -> None:
    refusal: Fault | None = None
    try:
        encode(checked(body))
    except Fault as fault:
        refusal = fault
    assert refusal is None or (refusal.status in (413, 422) and refusal.field)
