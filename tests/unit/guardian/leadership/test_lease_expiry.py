"""A guardian acquires another guardian's lease by its own clock, whatever the other machine's clock shows."""

from datetime import timedelta

from muster.common.clock import utc_now
from muster.guardian.leadership.domain import WatchedLease
from muster.guardian.leadership.store import GuardianLease

TTL_S = 5.0
NOW = utc_now()


def lease(*, clock_off_s: float, renewed_s: float = 0.0) -> GuardianLease:
    """Return the lease that an owner with a wrong clock writes at a given time."""
    return GuardianLease(holder="other", epoch=1, until=NOW + timedelta(seconds=clock_off_s + renewed_s + TTL_S))


def test_fresh_lease_of_a_clock_six_seconds_behind_has_not_expired() -> None:
    assert WatchedLease(TTL_S).left_s(lease(clock_off_s=-6), 100.0) == TTL_S


def test_lease_of_a_clock_six_seconds_ahead_expires_after_one_time_to_live() -> None:
    watched, seen = WatchedLease(TTL_S), lease(clock_off_s=6)

    left_s = [watched.left_s(seen, at_s) for at_s in (100.0, 104.0, 105.0)]

    assert left_s == [5.0, 1.0, 0.0]


def test_each_renewal_begins_a_full_ttl() -> None:
    watched = WatchedLease(TTL_S)

    left_s = [watched.left_s(lease(clock_off_s=-6, renewed_s=at_s), at_s) for at_s in (0.0, 4.0, 8.0, 12.0)]

    assert left_s == [TTL_S] * 4
