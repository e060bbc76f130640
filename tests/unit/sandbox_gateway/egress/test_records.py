"""Connections of one minute are added up, so that a sandbox's log has few frames about them."""

import pytest

from muster.common.contracts.sandbox_log import NetworkConnection
from muster.sandbox_gateway.egress.domain.records import MOST_KEYS, OTHERS, WINDOW_S, ConnectionWindow


def made(host: str, *, allowed: bool = False, sent: int = 0) -> NetworkConnection:
    return NetworkConnection(host=host, port=443, allowed=allowed, reason="" if allowed else "no", sent_bytes=sent)


def test_first_connection_to_a_host_is_recorded_at_once_and_further_ones_are_added_up():
    window = ConnectionWindow(0.0)
    first = made("a.org", allowed=True, sent=1)

    assert window.add(first) is first
    assert [window.add(made("a.org", allowed=True, sent=2)) for _ in range(3)] == [None] * 3

    (summed,) = window.take()
    assert (summed.connections, summed.sent_bytes) == (3, 6)
    assert list(window.take()) == []


def test_allowed_and_refused_connections_to_one_host_are_kept_apart():
    window = ConnectionWindow(0.0)
    assert window.add(made("a.org", allowed=True)) is not None
    assert window.add(made("a.org")) is not None


def test_many_hosts_cause_a_bounded_number_of_frames():
    window = ConnectionWindow(0.0)

    at_once = [window.add(made(f"{number}.org")) for number in range(10_000)]

    assert sum(one is not None for one in at_once) == MOST_KEYS
    (others,) = window.take()
    assert (others.host, others.port, others.connections) == (OTHERS, 0, 10_000 - MOST_KEYS)


@pytest.mark.parametrize(("now_s", "over"), [(WINDOW_S - 1, False), (WINDOW_S, True)])
def test_window_ends_after_a_minute(now_s: float, over: bool):
    assert ConnectionWindow(0.0).over(now_s) is over
