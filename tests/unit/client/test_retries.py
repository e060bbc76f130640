"""The rules for sending a request again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.client import Retries
from muster.client.http_messages import HttpReply
from muster.client.retries import is_under_way


def reply(status: int, retry_after: str | None = None) -> HttpReply:
    return HttpReply(status, {} if retry_after is None else {"retry-after": retry_after}, b"")


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 60))
def test_pause_is_a_random_part_of_a_doubled_and_limited_time(chance: float, tries: int):
    rules = Retries(max_tries=100)

    pause_s = rules.after_reply("GET", reply(503), tries, lambda: chance)

    assert pause_s is not None
    assert 0 <= pause_s <= min(rules.longest_pause_s, rules.first_pause_s * 2 ** (tries - 1))


@pytest.mark.parametrize(
    ("method", "status", "tries", "again"),
    [
        ("GET", 503, 1, True),
        ("POST", 504, 2, True),
        ("POST", 504, 3, False),
        ("GET", 500, 1, False),
        ("GET", 404, 1, False),
        ("PUT", 503, 1, False),
        ("PATCH", 429, 1, True),
    ],
)
def test_request_is_repeated_only_if_that_is_safe_and_useful(method: str, status: int, tries: int, again: bool):
    assert (Retries().after_reply(method, reply(status), tries, lambda: 1.0) is not None) is again


@pytest.mark.parametrize(
    ("retry_after", "pause_s"), [("3", 3.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5), ("-1", 0.5)]
)
def test_retry_after_in_seconds_sets_the_pause(retry_after: str, pause_s: float):
    assert Retries().after_reply("GET", reply(429, retry_after), 1, lambda: 1.0) == pause_s


def test_only_a_repeated_request_waits_for_an_unfinished_first_try():
    assert is_under_way(reply(409, "1"), 2)
    assert not is_under_way(reply(409, "1"), 1)
    assert not is_under_way(reply(409), 2)
