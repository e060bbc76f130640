"""The number of refusals that are written to the audit is limited."""

from muster.management_api.http.audit_rate_limit import AuditRateLimit


def test_allowance_limits_a_flood_and_counts_the_omitted_refusals():
    allowance = AuditRateLimit(burst=2, per_second=1.0)

    assert [allowance.take(10.0) for _ in range(4)] == [0, 0, None, None]
    assert allowance.take(11.0) == 2
    assert allowance.take(11.1) is None
