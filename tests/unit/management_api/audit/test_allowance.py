"""How many refusals are written to the audit."""

from muster.management_api.http.audit_allowance import AuditAllowance


def test_an_allowance_bounds_a_flood_and_counts_what_it_left_out():
    allowance = AuditAllowance(burst=2, per_second=1.0)

    assert [allowance.take(10.0) for _ in range(4)] == [0, 0, None, None]
    assert allowance.take(11.0) == 2
    assert allowance.take(11.1) is None
