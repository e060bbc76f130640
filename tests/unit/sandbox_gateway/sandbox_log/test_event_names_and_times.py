"""Times and names of events that a reader could not convert or store are refused with the name of the field."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.sandbox_log.domain.post_checks import check_time, events_post


def post(**event: Any) -> bytes:
    first: dict[str, Any] = {"seq": 1, "event_id": "e", "kind": "k", "at": "2026-11-21T00:00:00Z", "source": "agent"}
    return json.dumps({"epoch": 1, "events": [first, first | {"seq": 2} | event]}).encode()


@pytest.mark.parametrize(
    "at",
    [
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "9998-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_a_time_that_not_every_reader_can_convert_is_refused(at: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        events_post(post(at=at))
    assert refusal.value.field == "$.events[1].at"


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00Z", "1970-01-01T14:00:00+14:00", "9998-12-31T23:59:59Z"])
def test_accepted_time_can_be_converted_to_any_zone(at: str) -> None:
    moment = events_post(post(at=at)).events[1].at
    for hours in (-23, 14, 23):
        moment.astimezone(timezone(timedelta(hours=hours))).isoformat()


def test_a_time_without_zone_or_range_is_refused_in_a_beat_too() -> None:
    for moment in (datetime(2026, 1, 1), datetime(1, 1, 1, tzinfo=UTC)):  # noqa: DTZ001 - that is the point
        with pytest.raises(InvalidMessage) as refusal:
            check_time(moment, "$.since")
        assert refusal.value.field == "$.since"


@pytest.mark.parametrize("name", ["kind", "event_id", "source", "parent_id"])
def test_a_nul_in_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        events_post(post(**{name: "a\0b"}))
    assert refusal.value.field == f"$.events[1].{name}"


def test_a_nul_in_the_reason_of_a_gap_is_refused() -> None:
    with pytest.raises(InvalidMessage) as refusal:
        events_post(b'{"epoch":1,"gap":{"from_seq":1,"to_seq":1,"why":"a\\u0000"}}')
    assert refusal.value.field == "$.gap.why"
