"""The limit of wrong credentials is checked before any credential is looked up."""

from pathlib import Path

from muster.management_api.access.domain.accepted_credentials import MOST_REMEMBERED, AcceptedCredentials
from muster.management_api.http.rate_limits import RateLimits
from tests.support.api import api_process
from tests.support.caller import Caller

WHOAMI = "/api/v1/whoami"
MOST = 3


async def test_no_credential_is_looked_up_for_an_address_with_too_many_wrong_ones(
    nats_url: str, shared_database_url: str, tmp_path: Path
):
    limit = {"MUSTER_REFUSALS_PER_ADDRESS": f"{MOST} per hour"}
    with api_process(nats_url, tmp_path, shared_database_url, **limit) as api:
        admin = Caller(api)
        used, unused = await admin.issue(), await admin.issue()
        assert (await used.ask("GET", WHOAMI)).status == 200
        told = [(await Caller(api, "wrong").ask("GET", WHOAMI)).status for _ in range(MOST + 1)]
        looked_up = await unused.ask("GET", WHOAMI)
        goes_on = await used.ask("GET", WHOAMI)
        await admin.done("DELETE", f"/api/v1/keys/{used.key_id}")
        ended = [(await used.ask("GET", WHOAMI)).status for _ in range(2)]

    assert told == [401] * MOST + [429]
    assert looked_up.problem.status == 429, "to know that it is right, it would have to be looked up"
    assert "address" in looked_up.problem.detail
    assert goes_on.status == 200
    assert ended == [401, 429], "a key that was accepted is looked up until it is refused once"


async def test_refusals_of_an_ipv6_network_are_counted_together_and_a_check_is_not_counted():
    limits = RateLimits(per_caller="9 per hour", per_address="2 per hour")

    assert [(await limits.refusals("2001:db8::1")).remaining for _ in range(3)] == [2] * 3
    for host in ("2001:db8::1", "2001:db8::ffff"):
        await limits.count_refusal(host)
    assert not (await limits.refusals("2001:db8::2")).allowed
    assert (await limits.refusals("2001:db8:0:1::1")).allowed
    for _ in range(2):
        await limits.count_refusal("::ffff:192.0.2.7")
    assert not (await limits.refusals("192.0.2.7")).allowed, "one address, however its socket writes it"
    assert (await limits.refusals("::ffff:192.0.2.8")).allowed


def test_recently_accepted_credentials_are_remembered():
    accepted = AcceptedCredentials()
    accepted.add(b"often")
    for number in range(MOST_REMEMBERED):
        accepted.add(f"key {number}".encode())
        accepted.add(b"often")

    assert b"often" in accepted
    assert b"key 0" not in accepted
    assert f"key {MOST_REMEMBERED - 1}".encode() in accepted
    accepted.discard(b"often")
    assert b"often" not in accepted
