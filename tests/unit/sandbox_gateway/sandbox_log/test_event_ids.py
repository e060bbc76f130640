"""Which events of a request a log does not have."""

import tracemalloc

from muster.common.clock import utc_now
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.sandbox_gateway.sandbox_log.domain.event_ids import KnownEventIds

KNOWN = 20_000


def event(event_id: str) -> LoggedEvent:
    return LoggedEvent(seq=1, event_id=event_id, kind="k", at=utc_now(), source="agent")


def test_each_unknown_id_is_missing_once_until_it_is_added() -> None:
    known = KnownEventIds()
    known.add(["a"])
    events = [event("b"), event("a"), event("b"), event("c")]
    for _ in range(2):
        assert [one.event_id for one in known.missing(events)] == ["b", "c"]
    known.add(["b", "c"])
    assert known.missing(events) == []
    known.forget()
    assert [one.event_id for one in known.missing(events)] == ["b", "a", "c"]


def test_a_request_does_not_copy_the_known_ids() -> None:
    known = KnownEventIds()
    known.add(map(str, range(KNOWN)))
    tracemalloc.start()
    try:
        assert len(known.missing([event("new")])) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < KNOWN
