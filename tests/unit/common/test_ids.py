"""Ids are unique tokens in order of time, and times are UTC."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from muster.common.clock import rfc3339, utc_now
from muster.common.contract import TOKEN
from muster.common.ids import derived_id, new_id


def test_ids_are_tokens_and_sort_by_time() -> None:
    first = [new_id("tsk") for _ in range(50)]

    assert all(TOKEN.fullmatch(one) and len(one) == 4 + 26 for one in first)
    assert len(set(first)) == 50
    assert first[0][:13] <= first[-1][:13]


@given(st.binary(min_size=16, max_size=64))
def test_the_same_facts_give_the_same_id(digest: bytes) -> None:
    assert derived_id("fnd", digest) == derived_id("fnd", digest)
    assert TOKEN.fullmatch(derived_id("fnd", digest))


def test_times_are_utc_with_microseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))

    assert rfc3339(moment) == "2026-01-02T01:04:05.000000Z"
    assert utc_now().tzinfo is UTC
