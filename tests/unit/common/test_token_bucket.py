from hypothesis import given
from hypothesis import strategies as st

from muster.common.token_bucket import TokenBucket


def test_full_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, per_s=1.0, now_s=10.0)
    assert [bucket.take(1.0, 10.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(1.0, 11.0)
    assert not bucket.take(1.0, 11.5)


def test_refused_amount_takes_nothing() -> None:
    bucket = TokenBucket(2.0, per_s=1.0, now_s=0.0)
    assert not bucket.take(3.0, 0.0)
    assert bucket.take(2.0, 0.0)


def test_amount_larger_than_the_bucket_is_taken_on_credit_and_owed() -> None:
    bucket = TokenBucket(2.0, per_s=1.0, now_s=0.0)
    assert bucket.take_on_credit(5.0, 0.0)
    assert not bucket.take_on_credit(1.0, 3.0)
    assert bucket.take_on_credit(1.0, 3.5)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5))))
def test_no_order_of_uses_takes_more_than_burst_and_rate_allow(uses: list[tuple[float, float]]) -> None:
    bucket, now_s, taken = TokenBucket(5.0, per_s=2.0, now_s=0.0), 0.0, 0.0
    for wait_s, amount in uses:
        now_s += wait_s
        taken += amount * bucket.take(amount, now_s)
    assert taken <= 5.0 + 2.0 * now_s + 1e-6
